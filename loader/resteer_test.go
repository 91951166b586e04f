// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// connected are the shapes of sockets that Resteer has to move.
func connected() []shape {
	return []shape{
		{Server: at(primary), Connected: true},
		{Server: at(secondary), Connected: true}, // by a tag
		{Server: at(primary), Connected: true, Mapped: true},
		{Server: at(secondary), Connected: true, Mapped: true},
		{Server: at(primary6), Connected: true},
		{Server: at(primary), Connected: true, Bind: netip.MustParseAddrPort("192.0.2.1:40053")},
		{Server: at(primary), Connected: true, Bind: netip.MustParseAddrPort("0.0.0.0:40054")},
		{Server: at(primary6), Connected: true, Bind: netip.MustParseAddrPort("[2001:db8::1]:40055")},
	}
}

// wantSame fails the test unless it is the same socket in the eyes of the application.
func wantSame(t *testing.T, before, after report) {
	t.Helper()
	if before.Socket != after.Socket || before.Local != after.Local || before.Peer != after.Peer {
		t.Errorf("socket %d, %s to %s, has become %d, %s to %s",
			before.Socket, before.Local, before.Peer, after.Socket, after.Local, after.Peer)
	}
}

func TestResteerAndReturn(t *testing.T) {
	w := newWorld(t)
	for _, s := range connected() {
		t.Run(s.String(), func(t *testing.T) {
			s.Busy = true
			direct := testenv.AnswerOf(s.Server.Addr())
			c := w.startQuerier(t, s)
			before := c.settle(t, 5)
			before.wantFrom(t, s, direct)

			d := w.load(t)
			e := w.resolve(t, d)
			w.keepBeating(t, e)
			c.settle(t, 5).wantFrom(t, s, direct) // connected sockets stay
			moved, err := d.Resteer()
			if moved != 1 || err != nil {
				t.Errorf("moved %d sockets, %v, want 1", moved, err)
			}
			steered := c.settle(t, 5)
			steered.wantFrom(t, s, fromTable)
			wantSame(t, before, steered)

			if err := d.Unload(answersRead); err != nil {
				t.Errorf("unload: %v", err)
			}
			e.Close()
			returned := c.settle(t, 5)
			returned.wantFrom(t, s, direct)
			wantSame(t, before, returned)
			wantClean(t, w.opts)
		})
	}
}

// Sockets that connected under the datapath go back too, also where the kernel chose a
// loopback source for them.
func TestReturnOfSteered(t *testing.T) {
	w := newWorld(t)
	for _, s := range connected() {
		t.Run(s.String(), func(t *testing.T) {
			s.Busy = true
			d := w.load(t)
			e := w.resolve(t, d)
			w.keepBeating(t, e)
			c := w.startQuerier(t, s)
			before := c.settle(t, 5)
			before.wantFrom(t, s, fromTable)
			if err := d.Unload(answersRead); err != nil {
				t.Errorf("unload: %v", err)
			}
			e.Close()
			after := c.settle(t, 5)
			after.wantFrom(t, s, testenv.AnswerOf(s.Server.Addr()))
			if before.Local.Port() != after.Local.Port() || before.Socket != after.Socket {
				t.Errorf("socket %d %s has become %d %s", before.Socket, before.Local, after.Socket, after.Local)
			}
		})
	}
}

// An answer that takes its time reaches a socket that was moved meanwhile, either way.
func TestMovedWhileAsking(t *testing.T) {
	const slow = 700 * time.Millisecond
	w := newWorld(t)
	s := shape{Server: netip.MustParseAddrPort("192.0.2.7:53"), Connected: true}
	direct := testenv.AnswerOf(s.Server.Addr())
	nameserver := testenv.Nameserver(t, w.server, s.Server, dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		<-time.After(slow)
		testenv.Answers(s.Server.Addr()).ServeDNS(rw, q)
	}))
	c := w.startQuerier(t, s)
	testenv.Eventually(t, waitMost, func() error {
		if len(nameserver.Queries()) == 0 {
			return errUnexpected("nothing asked")
		}
		return nil
	})
	// Nobody reads the listeners until later.
	d := w.load(t)
	var e *Enrolment
	w.client.Do(func() {
		l, err := Listen(d.Port())
		if err == nil {
			e, err = d.Attend(l)
		}
		if err == nil {
			err = e.Enrol(scope())
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	defer e.Close()
	w.keepBeating(t, e)
	if moved, err := d.Resteer(); moved != 1 || err != nil {
		t.Fatalf("moved %d sockets, %v, want 1", moved, err)
	}
	asked := len(nameserver.Queries())
	c.collect(t, func(r report) bool { return r.Answers[direct.String()] == asked }).wantUnharmed(t, s)

	// Its next question waits at the listeners.
	if err := e.Withdraw(); err != nil {
		t.Fatal(err)
	}
	if moved, err := d.Return(); moved != 1 || err != nil {
		t.Fatalf("returned %d sockets, %v, want 1", moved, err)
	}
	<-time.After(slow)
	stop, err := answer(e)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c.collect(t, func(r report) bool { return r.Answers[fromTable.String()] == 1 && r.count() > 1 }).wantUnharmed(t, s)
}

// One socket is moved once, however many hold it.
func TestResteerOfSharedSocket(t *testing.T) {
	w := newWorld(t)
	s := shape{Server: at(primary), Connected: true}
	c := w.startQuerier(t, s)
	c.settle(t, 5)
	shared := copyOf(t, c)
	for range 2 {
		hold := testenv.Command(t, "hold")
		w.cgroup.Enter(hold)
		hold.ExtraFiles = []*os.File{shared}
		pipe(t, hold)
		w.client.Start(hold)
	}
	d := w.load(t)
	w.keepBeating(t, w.resolve(t, d))
	if moved, err := d.Resteer(); moved != 1 || err != nil {
		t.Errorf("moved %d sockets, %v, want 1", moved, err)
	}
	c.settle(t, 5).wantFrom(t, s, fromTable)
}

// A namespace without a socket to move is not entered: who has few privileges may not.
func TestMoveEntersFewNamespaces(t *testing.T) {
	none, err := os.Open(os.DevNull) // nobody can enter that
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	ns := &namespace{file: none}
	if _, err := (namespaces{"": ns}).move(nil, nil); err != nil {
		t.Errorf("without a socket: %v", err)
	}
	ns.sockets = map[uint64]*connectedSocket{1: {fd: -1}}
	if _, err := (namespaces{"": ns}).move(nil, nil); err == nil {
		t.Error("a namespace with a socket is not entered")
	}
}

// copyOf gets a descriptor of the querier's socket.
func copyOf(t *testing.T, c *child) *os.File {
	t.Helper()
	inode := c.report(t).Socket
	all := namespaces{"": {sockets: map[uint64]*connectedSocket{inode: {procSocket: procSocket{inode: inode}, fd: -1}}}}
	if err := all.collectFrom(c.cmd.Process.Pid); err != nil || all.missing() {
		t.Fatalf("get socket %d: %v", inode, err)
	}
	f := os.NewFile(uintptr(all[""].sockets[inode].fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// A socket of the cgroup that only a process elsewhere still holds is not stranded.
func TestReturnOfPassedSocket(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	e := w.resolve(t, d)
	w.keepBeating(t, e)
	s := shape{Server: at(primary), Connected: true}
	c := w.startQuerier(t, s)
	c.settle(t, 5)
	kept := copyOf(t, c)
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // killed
	// Somebody must live in the namespace for us to find it by the cgroup's processes.
	w.startQuerier(t, shape{Server: at(primary)}).settle(t, 1)
	if err := d.Unload(nil); err != nil {
		t.Errorf("unload: %v", err)
	}
	peer, err := unix.Getpeername(int(kept.Fd()))
	if err != nil || addrPort(peer) != at(primary) {
		t.Errorf("the socket's peer is %v, %v, want %s", peer, err, at(primary))
	}
}

// The cgroup's processes may live in several namespaces; only one of them is a scope.
func TestResteerInSeveralNamespaces(t *testing.T) {
	w := newWorld(t)
	other, server := testenv.NewLink(t)
	testenv.Nameserver(t, server, at(primary), nil)
	s := shape{Server: at(primary), Connected: true}
	here, there := w.startQuerier(t, s), startQuerierIn(t, other, w.cgroup, s)
	here.settle(t, 5)
	before := there.settle(t, 5)
	d := w.load(t)
	e := w.resolve(t, d)
	w.keepBeating(t, e)
	if moved, err := d.Resteer(); moved != 2 || err != nil {
		t.Errorf("connected %d sockets again, %v, want 2", moved, err)
	}
	here.settle(t, 5).wantFrom(t, s, fromTable)
	after := there.settle(t, 5)
	after.wantFrom(t, s, testenv.AnswerOf(primary)) // nobody listens there
	wantSame(t, before, after)
	if err := d.Unload(answersRead); err != nil {
		t.Error(err)
	}
	e.Close()
	for _, c := range []*child{here, there} {
		c.settle(t, 5).wantFrom(t, s, testenv.AnswerOf(primary))
	}
}

// Who talks to the target on purpose keeps it; TCP and other cgroups are not touched.
func TestResteerTouchesNothingElse(t *testing.T) {
	w := newWorld(t)
	outside := testenv.NewCgroup(t)
	foreign := shape{Server: at(primary), Connected: true}
	c := startQuerierIn(t, w.client, outside, foreign)
	c.settle(t, 5)
	d := w.load(t)
	e := w.resolve(t, d)
	w.keepBeating(t, e)
	purpose := shape{Server: netip.MustParseAddrPort("127.0.0.1:15053"), Connected: true}
	onPurpose := w.startQuerier(t, purpose)
	before := onPurpose.settle(t, 5)
	tcp := w.holdTCP(t)
	if moved, err := d.Resteer(); moved != 0 || err != nil {
		t.Errorf("moved %d sockets, %v, want 0", moved, err)
	}
	c.settle(t, 5).wantFrom(t, foreign, testenv.AnswerOf(primary))
	onPurpose.settle(t, 5).wantFrom(t, purpose, fromTable)
	if moved, err := d.Return(); moved != 0 || err != nil {
		t.Errorf("returned %d sockets, %v, want 0", moved, err)
	}
	after := onPurpose.settle(t, 5)
	after.wantFrom(t, purpose, fromTable)
	wantSame(t, before, after)
	// The connection still works, with the nameserver at its other end.
	conn := &dns.Conn{Conn: tcp}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("tcp.example.org.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	reply, err := conn.ReadMsg()
	if err != nil || len(reply.Answer) != 1 || reply.Answer[0].(*dns.A).A.String() != testenv.AnswerOf(primary).String() {
		t.Errorf("over TCP: %v, %v, want %s", reply, err, testenv.AnswerOf(primary))
	}
}

// holdTCP connects to the nameserver over TCP and has a process of the cgroup hold the
// connection too: by its remote address it is one to be moved.
func (w *world) holdTCP(t *testing.T) net.Conn {
	t.Helper()
	var conn net.Conn
	w.client.Do(func() {
		var err error
		if conn, err = net.Dial("tcp", at(primary).String()); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(waitMost)); err != nil {
		t.Fatal(err)
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	holder := testenv.Command(t, "hold")
	w.cgroup.Enter(holder)
	holder.ExtraFiles = []*os.File{file}
	pipe(t, holder)
	w.client.For(t).Start(holder)
	return conn
}

func TestProcAddress(t *testing.T) {
	for _, tc := range []struct {
		text, want string
	}{
		{"0100007F:3ACD", "127.0.0.1:15053"},
		{"350200C0:0035", "192.0.2.53:53"},
		{"B80D0120000000000000000053000000:0035", "[2001:db8::53]:53"},
		{"0000000000000000FFFF0000350200C0:0035", "192.0.2.53:53"},
		{"00000000:0000", "0.0.0.0:0"},
		{"", ""}, {"0100007F", ""}, {"0100007:0035", ""}, {"0100007G:0035", ""}, {"0100007F:00350", ""}, {"0100007F0100007F:0035", ""},
	} {
		got, ok := parseProcAddress(tc.text)
		if ok != (tc.want != "") || ok && got.String() != tc.want {
			t.Errorf("parseProcAddress(%q) = %s, %v, want %q", tc.text, got, ok, tc.want)
		}
	}
}
