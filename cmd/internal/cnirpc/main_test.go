// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, testenv.Roles{"status": func(args []string) int {
		if err := (Client{Socket: args[0]}).Status(context.Background()); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}})
}

// call is what an agent was asked, with the namespace's inode for its descriptor.
type call struct {
	Do         verb
	Attachment Attachment
	Inode      uint64
	Network    string
	Valid      []ID
}

// recorder is an agent that remembers, and returns what the test wants.
type recorder struct {
	err   error
	block chan struct{} // if not nil, calls wait for it, or for their context

	mu    sync.Mutex
	calls []call
	ended chan error // gets the context's error of calls that were blocked
}

var _ Agent = (*recorder)(nil)

func (r *recorder) note(ctx context.Context, c call) error {
	if f := c.Attachment.Namespace; f != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		c.Inode, c.Attachment.Namespace = st.Ino, nil
	}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	if r.block != nil {
		select {
		case <-r.block:
		case <-ctx.Done():
		}
		select {
		case r.ended <- ctx.Err():
		default: // nobody asks: a call that came while the server was ending
		}
		return cmp.Or(ctx.Err(), r.err)
	}
	return r.err
}

func (r *recorder) seen() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]call(nil), r.calls...)
}

func (r *recorder) Add(ctx context.Context, a Attachment) error {
	return r.note(ctx, call{Do: verbAdd, Attachment: a})
}

func (r *recorder) Del(ctx context.Context, a Attachment) error {
	return r.note(ctx, call{Do: verbDel, Attachment: a})
}

func (r *recorder) Check(ctx context.Context, a Attachment) error {
	return r.note(ctx, call{Do: verbCheck, Attachment: a})
}

func (r *recorder) GC(ctx context.Context, network string, valid []ID) error {
	return r.note(ctx, call{Do: verbGC, Network: network, Valid: valid})
}

func (r *recorder) Status(ctx context.Context) error {
	return r.note(ctx, call{Do: verbStatus})
}

// socketPath is a path that is free and short enough.
func socketPath(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "") // TempDir's names are too long
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "agent.sock")
}

// serve runs a server until the test ends, and returns its socket and a way to end it
// before.
func serve(tb testing.TB, agent Agent, path string) (stop func()) {
	tb.Helper()
	l, err := Listen(path)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- (&Server{Agent: agent}).Serve(ctx, l) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				tb.Errorf("serve: %v", err)
			}
		})
	}
	tb.Cleanup(stop)
	return stop
}

// ownNamespace is the test's network namespace, as a runtime would open it.
func ownNamespace(tb testing.TB) (*os.File, uint64) {
	tb.Helper()
	f, err := OpenNamespace("/proc/self/ns/net")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		tb.Fatal(err)
	}
	return f, st.Ino
}

// dialRaw connects without a client.
func dialRaw(tb testing.TB, path string) *net.UnixConn {
	tb.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

var errBroken = errors.New("something else broke")
