// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// sealed starts a worker on the listeners that is enrolled, beats, and has the only seals.
func (w *world) sealed(t *testing.T, d *Datapath, l *Listeners) *child {
	t.Helper()
	var s *Listeners
	var err error
	w.client.Do(func() { s, err = l.Seal() })
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.Attend(s)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c := w.startWorker(t, e)
	w.enrol(t, e, scope())
	if got := c.tell(t, "beat"); got != "ok" {
		t.Fatalf("beat: %s", got)
	}
	return c
}

// kill ends a child with SIGKILL and returns when it is gone.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // it was killed
}

// The listeners outlive their resolver, the scope does not: each call goes to the
// nameserver, and what connected sockets ask is refused to none of them.
func TestListenersOutliveResolver(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	var l *Listeners
	w.client.Do(func() { l = mustListen(t, d.Port()) })
	worker := w.sealed(t, d, l)
	var named, connected []*child
	shapes := []shape{{Server: at(primary)}, {Server: at(secondary)}, {Server: at(primary6)}, {Server: at(primary), Mapped: true}}
	for _, s := range shapes {
		named = append(named, w.startQuerier(t, s))
		s.Connected = true
		connected = append(connected, w.startQuerier(t, s))
	}
	for range 2 {
		for i, s := range shapes {
			named[i].settle(t, 5).wantFrom(t, s, fromTable)
			connected[i].settle(t, 5).wantFrom(t, s, fromTable)
		}
		worker.kill(t)
		for i, s := range shapes {
			named[i].overcome(t)
			named[i].settle(t, 5).wantFrom(t, s, testenv.AnswerOf(s.Server.Addr()))
		}
		for _, at := range []string{"192.0.2.53:53", "[2001:db8::53]:53"} {
			w.wantTCPDirect(t, d, at)
		}
		worker = w.sealed(t, d, l)
		for i := range shapes {
			named[i].overcome(t)
			connected[i].overcome(t)
		}
	}
}

// overcome waits for an answer, or for the end of the wait for one that was lost with the
// resolver. Every call succeeds.
func (c *child) overcome(t *testing.T) {
	t.Helper()
	lost := fmt.Sprintf("receive: %v", unix.EAGAIN)
	for _, err := range c.settle(t, 1).Errors {
		if err != lost {
			t.Error(err)
		}
	}
}

// wantTCPDirect connects from the cgroup, and wants to be left alone.
func (w *world) wantTCPDirect(t *testing.T, d *Datapath, server string) {
	t.Helper()
	before := w.unserved(t, d)
	cmd := testenv.Command(t, "connect", server)
	w.cgroup.Enter(cmd)
	w.client.Start(cmd)
	if err := cmd.Wait(); err != nil {
		t.Errorf("connect to %s: %v", server, err)
	}
	if n := w.unserved(t, d) - before; n != 1 {
		t.Errorf("connect to %s: %d calls found listeners without resolver, want 1", server, n)
	}
}

// unserved is how many TCP calls found listeners that carried no scope.
func (w *world) unserved(t *testing.T, d *Datapath) (n uint64) {
	t.Helper()
	counts, err := d.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if c.Verdict == Stranger && c.Proto == "tcp" {
			n += c.Calls
		}
	}
	return n
}

// runConnect connects by TCP.
func runConnect(args []string) int {
	c, err := net.DialTimeout("tcp", args[0], waitMost)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c.Close()
	return 0
}

// One resolver at a time has seals, and nobody else comes beside them.
func TestSealTwice(t *testing.T) {
	testenv.Privileged(t)
	testenv.NewNetNS(t).Do(func() {
		l := mustListen(t, DefaultPort)
		for range 3 {
			first, err := l.Seal()
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.Seal()
			wantErr(t, "seal twice", err, unix.EADDRINUSE)
			for _, s := range strangers() {
				if err := s.try(); err != unix.EADDRINUSE {
					t.Errorf("%s: %v, want %v", s.name, err, unix.EADDRINUSE)
				}
			}
			if got, want := len(first.Addresses()), len(l.Addresses()); got != want {
				t.Errorf("a resolver listens on %d addresses, want %d", got, want)
			}
			first.Close()
		}
	})
}

// While listeners are sealed, what is sent to them arrives.
func TestSealUnderLoad(t *testing.T) {
	testenv.Privileged(t)
	testenv.NewNetNS(t).Do(func() {
		l := mustListen(t, DefaultPort)
		var clients []net.Conn
		for _, address := range []string{"127.0.0.1", "127.53.1.2", "::1"} {
			c, err := net.Dial("udp", net.JoinHostPort(address, strconv.Itoa(DefaultPort)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients = append(clients, c)
		}
		const want = 3000 // fit the buffers
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for i := range want {
				if _, err := clients[i%len(clients)].Write([]byte{1}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for sending := true; sending; {
			s, err := l.Seal()
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			select {
			case <-sent:
				sending = false
			default:
			}
		}
		got := 0
		for _, s := range l.sockets {
			for buf := make([]byte, 1); !s.stream; got++ {
				if _, _, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT); err != nil {
					break
				}
			}
		}
		if got != want {
			t.Errorf("%d of %d datagrams arrived", got, want)
		}
	})
}
