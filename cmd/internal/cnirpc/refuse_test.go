// SPDX-License-Identifier: Apache-2.0

package cnirpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// frame puts the length in front.
func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// What no client of ours says is refused, reaches no agent, and leaves no descriptor
// open, which TestMain checks.
func TestRefuse(t *testing.T) {
	namespace, _ := ownNamespace(t)
	other, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const attachment = `"attachment":{"containerID":"c1","ifName":"eth0"}`
	for _, tc := range []struct {
		name  string
		wire  []byte
		files []*os.File
		want  string // the answer; empty: the connection is closed without
	}{
		{"nothing", nil, nil, ""},
		{"half a length", []byte{0, 0}, nil, ""},
		{"half a message", frame(`{"version":1,"do":"status"}`)[:12], nil, ""},
		{"too long", []byte{0x7f, 0xff, 0xff, 0xff, '{'}, nil, ""},
		{"no JSON", frame("status"), nil, ""},
		{"empty", frame(""), nil, ""},
		{"no version", frame(`{"do":"status"}`), nil, "protocol version 0"},
		{"later version", frame(`{"version":2,"do":"status"}`), nil, "this agent speaks 1"},
		{"unknown request", frame(`{"version":1,"do":"reboot"}`), nil, `unknown request "reboot"`},
		{"add without namespace", frame(`{"version":1,"do":"add",` + attachment + `}`), nil, "without network namespace"},
		{"add without container", frame(`{"version":1,"do":"add"}`), []*os.File{namespace}, "without container"},
		{"del without interface", frame(`{"version":1,"do":"del","attachment":{"containerID":"c1"}}`), nil, "without container or interface"},
		{"add of a pipe", frame(`{"version":1,"do":"add",` + attachment + `}`), []*os.File{r}, "no network namespace"},
		{"add of another namespace", frame(`{"version":1,"do":"add",` + attachment + `}`), []*os.File{other}, "no network namespace"},
		{"status with a pipe", frame(`{"version":1,"do":"status"}`), []*os.File{w}, "no network namespace"},
		{"two descriptors", frame(`{"version":1,"do":"add",` + attachment + `}`), []*os.File{namespace, r}, ""},
		{"many descriptors", frame(`{"version":1,"do":"add",` + attachment + `}`), []*os.File{r, w, r, w, r, w, r, w, r}, ""},
		{"gc of null", frame(`{"version":1,"do":"gc","network":"pods","valid":null}`), nil, "without network or valid"},
		{"gc without list", frame(`{"version":1,"do":"gc","network":"pods"}`), nil, "without network or valid"},
		{"gc without network", frame(`{"version":1,"do":"gc","valid":[]}`), nil, "without network or valid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path, agent := socketPath(t), &recorder{}
			stop := serve(t, agent, path)
			got := converse(t, path, tc.wire, tc.files)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("answer %q, want %q", got, tc.want)
			}
			stop()
			if calls := agent.seen(); len(calls) > 0 {
				t.Errorf("reached the agent: %+v", calls)
			}
		})
	}
}

// converse says what no client would, and returns the error of the answer.
func converse(t *testing.T, path string, wire []byte, files []*os.File) string {
	t.Helper()
	conn := dialRaw(t, path)
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if len(wire) > 0 {
		if _, _, err := conn.WriteMsgUnix(wire, rights, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var resp response
	file, err := receive(conn, &resp)
	closeFile(file)
	switch {
	case err == nil && resp.Error == "":
		t.Fatal("it was not refused")
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errTruncated) && !errors.Is(err, unix.ECONNRESET):
		t.Fatalf("read answer: %v", err)
	}
	return resp.Error
}

// A client that connects and says nothing does not hold its turn for long.
func TestSilentClients(t *testing.T) {
	path := socketPath(t)
	serve(t, &recorder{}, path)
	for range maxConns {
		dialRaw(t, path)
	}
	if err := (Client{Socket: path, Timeout: 10 * requestTimeout}).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever bytes come, the server neither breaks nor lets the agent see a request that
// lacks what it needs.
func FuzzServe(f *testing.F) {
	f.Add(frame(`{"version":1,"do":"status","timeoutMs":5}`))
	f.Add(frame(`{"version":1,"do":"add","attachment":{"containerID":"c1","ifName":"eth0","dns":{}}}`))
	f.Add(frame(`{"version":1,"do":"del","timeoutMs":-9223372036854775808,"attachment":{"containerID":"c1","ifName":"eth0"}}`))
	f.Add(frame(`{"version":1,"do":"gc","network":"pods","valid":[{"containerID":"c1","ifName":"eth0"}]}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		ours, theirs := socketPair(t)
		agent := &recorder{}
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer theirs.Close()
			_ = (&Server{Agent: agent}).serve(t.Context(), theirs)
		}()
		_, _ = ours.Write(wire)
		_ = ours.CloseWrite()
		var resp response
		file, err := receive(ours, &resp)
		closeFile(file)
		<-served
		calls := agent.seen()
		if len(calls) > 1 || len(calls) == 1 && (err != nil || resp.Error != "") {
			t.Errorf("calls %+v, answer %+v, %v", calls, resp, err)
		}
		for _, c := range calls {
			switch c.Do {
			case verbAdd, verbCheck:
				t.Error("attachment without namespace reached the agent")
			case verbDel:
				if c.Attachment.ContainerID == "" || c.Attachment.IfName == "" {
					t.Errorf("nameless attachment reached the agent: %+v", c)
				}
			case verbGC:
				if c.Network == "" || c.Valid == nil {
					t.Errorf("garbage collection of all reached the agent: %+v", c)
				}
			}
		}
	})
}

func socketPair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}
