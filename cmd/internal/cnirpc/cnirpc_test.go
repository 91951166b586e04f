// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// What the client is told arrives at the agent, and nothing else.
func TestCalls(t *testing.T) {
	namespace, inode := ownNamespace(t)
	whole := Attachment{
		ID:          ID{"c1", "eth0"},
		Network:     "pods",
		Pod:         Pod{"default", "web-1", "8d5c"},
		DNS:         &DNS{[]string{"192.0.2.53"}, []string{"example.org"}, []string{"ndots:5"}},
		Annotations: map[string]string{"dnsteer.dev/steer": "false"},
		Path:        "/run/netns/c1",
	}
	with := whole
	with.Namespace = namespace
	for _, tc := range []struct {
		name string
		ask  func(Client) error
		want call
	}{
		{"add", func(c Client) error { return c.Add(t.Context(), with) }, call{Do: verbAdd, Attachment: whole, Inode: inode}},
		{"check", func(c Client) error { return c.Check(t.Context(), with) }, call{Do: verbCheck, Attachment: whole, Inode: inode}},
		{"del", func(c Client) error { return c.Del(t.Context(), with) }, call{Do: verbDel, Attachment: whole, Inode: inode}},
		{"del without namespace", func(c Client) error { return c.Del(t.Context(), whole) }, call{Do: verbDel, Attachment: whole}},
		{"gc", func(c Client) error { return c.GC(t.Context(), "pods", []ID{{"c1", "eth0"}}) }, call{Do: verbGC, Network: "pods", Valid: []ID{{"c1", "eth0"}}}},
		{"gc of all", func(c Client) error { return c.GC(t.Context(), "pods", []ID{}) }, call{Do: verbGC, Network: "pods", Valid: []ID{}}},
		{"status", func(c Client) error { return c.Status(t.Context()) }, call{Do: verbStatus}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, agent := socketPath(t), &recorder{}
			serve(t, agent, path)
			if err := tc.ask(Client{Socket: path}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]call{tc.want}, agent.seen()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// An error means the same on both sides, and is never taken for silence.
func TestErrors(t *testing.T) {
	for _, sent := range []error{
		ErrUnknown, ErrUnavailable, ErrLimited, errBroken,
		fmt.Errorf("look for c1: %w", ErrUnknown),
		fmt.Errorf("load datapath: %w: %w", errBroken, ErrUnavailable),
	} {
		t.Run(sent.Error(), func(t *testing.T) {
			path := socketPath(t)
			serve(t, &recorder{err: sent}, path)
			got := Client{Socket: path}.Status(t.Context())
			if got == nil || got.Error() != sent.Error() {
				t.Fatalf("got %v, want %v", got, sent)
			}
			for _, sentinel := range []error{ErrUnknown, ErrUnavailable, ErrLimited, ErrAway} {
				if errors.Is(got, sentinel) != errors.Is(sent, sentinel) {
					t.Errorf("Is(%v) differs", sentinel)
				}
			}
		})
	}
}

// Whatever is at the path, the client says ErrAway, and says it in time.
func TestAway(t *testing.T) {
	const timeout = 150 * time.Millisecond
	for _, tc := range []struct {
		name string
		at   func(t *testing.T, path string)
	}{
		{"nothing", func(*testing.T, string) {}},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"a dead socket", func(t *testing.T, path string) { fake(t, path, nil).Close() }},
		{"a full backlog", func(t *testing.T, path string) { fillBacklog(t, path) }},
		{"silence", func(t *testing.T, path string) { fake(t, path, func(*net.UnixConn) {}) }},
		{"a closed connection", func(t *testing.T, path string) { fake(t, path, func(c *net.UnixConn) { c.Close() }) }},
		{"half an answer", func(t *testing.T, path string) { answer(t, path, "\x00\x00\x00\x10{\"version\"") }},
		{"half a length", func(t *testing.T, path string) { answer(t, path, "\x00\x00") }},
		{"no JSON", func(t *testing.T, path string) { answer(t, path, "\x00\x00\x00\x02no") }},
		{"an answer without end", func(t *testing.T, path string) { answer(t, path, "\xff\xff\xff\xff{") }},
		{"HTTP", func(t *testing.T, path string) { answer(t, path, "HTTP/1.1 400 Bad Request\r\n\r\n") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := t.TempDir() + "/agent.sock"
			tc.at(t, path)
			start := time.Now()
			err := Client{Socket: path, Timeout: timeout}.Status(t.Context())
			if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want ErrAway with the path", err)
			}
			if took := time.Since(start); took > timeout+2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// fake runs something that is no agent.
func fake(t *testing.T, path string, handle func(*net.UnixConn)) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	if handle == nil {
		return l
	}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			handle(c)
		}
	}()
	return l
}

// answer runs something that reads a request and says text.
func answer(t *testing.T, path, text string) {
	t.Helper()
	fake(t, path, func(c *net.UnixConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = c.Write([]byte(text))
		_ = c.CloseWrite()
	})
}

// fillBacklog makes connect itself wait.
func fillBacklog(t *testing.T, path string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	dialRaw(t, path) // the one that fits
}

// A context that ends wakes the client before its own timeout, and the agent hears of it.
func TestCancel(t *testing.T) {
	path, agent := socketPath(t), &recorder{block: make(chan struct{}), ended: make(chan error, 1)}
	serve(t, agent, path)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- Client{Socket: path, Timeout: time.Minute}.Status(ctx) }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(agent.seen()) == 0 {
			return errors.New("the request has not arrived")
		}
		return nil
	})
	cancel()
	if err := <-result; !errors.Is(err, ErrAway) {
		t.Errorf("got %v, want ErrAway", err)
	}
	select {
	case err := <-agent.ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("agent's context ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the agent works for nobody")
		close(agent.block)
	}
}

// An agent is told how long the plugin waits.
func TestHungAgent(t *testing.T) {
	path, agent := socketPath(t), &recorder{block: make(chan struct{}), ended: make(chan error, 1)}
	serve(t, agent, path)
	if err := (Client{Socket: path, Timeout: 50 * time.Millisecond}).Status(t.Context()); err == nil {
		t.Error("a hung agent is taken for a good one")
	}
	<-agent.ended
	conn := dialRaw(t, path) // which does not end itself
	if err := send(conn, request{Version: Version, Do: verbStatus, TimeoutMS: 50}, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-agent.ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("agent's context ended with %v, want its deadline", err)
	}
}

// A server that is told to end answers what has begun.
func TestEnd(t *testing.T) {
	path, agent := socketPath(t), &recorder{block: make(chan struct{}), ended: make(chan error, 1)}
	stop := serve(t, agent, path)
	result := make(chan error, 1)
	go func() { result <- Client{Socket: path, Timeout: time.Minute}.Status(t.Context()) }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(agent.seen()) == 0 {
			return errors.New("the request has not arrived")
		}
		return nil
	})
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if err := (Client{Socket: path, Timeout: time.Second}).Status(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("the listener is still open: %v", err)
		}
		return nil
	})
	close(agent.block)
	if err := <-result; err != nil {
		t.Errorf("request in flight: %v", err)
	}
	<-stopped
}

// A successor has the path at once; the one before finishes its own.
func TestTakeOver(t *testing.T) {
	path := socketPath(t)
	before, after := &recorder{block: make(chan struct{}), ended: make(chan error, 1)}, &recorder{}
	serve(t, before, path)
	result := make(chan error, 1)
	go func() { result <- Client{Socket: path, Timeout: time.Minute}.Status(t.Context()) }()
	testenv.Eventually(t, 10*time.Second, func() error {
		if len(before.seen()) == 0 {
			return errors.New("the request has not arrived")
		}
		return nil
	})
	serve(t, after, path)
	if err := (Client{Socket: path}).Status(t.Context()); err != nil || len(after.seen()) != 1 {
		t.Errorf("successor: %v, %d calls", err, len(after.seen()))
	}
	close(before.block)
	if err := <-result; err != nil {
		t.Errorf("predecessor: %v", err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
	if err := errors.Join(Remove(path), Remove(path)); err != nil {
		t.Error(err)
	}
}

// herald is an agent that tells when it was asked.
type herald struct {
	recorder
	asked chan struct{}
}

func (h *herald) Status(context.Context) error {
	select {
	case h.asked <- struct{}{}:
	default:
	}
	return nil
}

// A request that comes while a server ends is answered, by that or by the next one on the
// socket.
func TestServersInTurn(t *testing.T) {
	path, agent := socketPath(t), &herald{asked: make(chan struct{}, 1)}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 500 {
				if err := (Client{Socket: path, Timeout: time.Minute}).Status(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	for {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		turn, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- (&Server{Agent: agent}).Serve(ctx, turn.(*net.UnixListener)) }()
		select {
		case <-agent.asked:
		case <-done:
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// Root alone is heard, even where the file would let others in.
func TestPeer(t *testing.T) {
	testenv.Privileged(t)
	path, agent := socketPath(t), &recorder{}
	serve(t, agent, path)
	// The world may walk to the socket and open it.
	for dir := path; dir != os.TempDir(); dir = dir[:strings.LastIndexByte(dir, '/')] {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		uid  uint32
		want string
	}{{0, ""}, {1337, "only root may ask"}} {
		cmd := testenv.Command(t, "status", path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.uid, Gid: tc.uid}}
		out, err := cmd.CombinedOutput()
		if (err == nil) != (tc.want == "") || !strings.Contains(string(out), tc.want) {
			t.Errorf("uid %d: %v: %s", tc.uid, err, out)
		}
	}
	if n := len(agent.seen()); n != 1 {
		t.Errorf("%d requests reached the agent, want 1", n)
	}
}

// A path that no socket can have is called that, not "invalid argument".
func TestLongPath(t *testing.T) {
	path := os.TempDir() + "/" + strings.Repeat("a", 108)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "at most 107 bytes") {
		t.Errorf("got %v", err)
	}
}

// More clients than turns: all are served.
func TestCrowd(t *testing.T) {
	path, agent := socketPath(t), &recorder{}
	serve(t, agent, path)
	namespace, _ := ownNamespace(t)
	const n = 3 * maxConns
	errs := make(chan error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			a := Attachment{ID: ID{fmt.Sprintf("c%d", i), "eth0"}, Namespace: namespace}
			errs <- Client{Socket: path, Timeout: 20 * time.Second}.Add(t.Context(), a)
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if got := len(agent.seen()); got != n {
		t.Errorf("agent saw %d, want %d", got, n)
	}
}
