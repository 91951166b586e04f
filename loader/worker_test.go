// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// runWorker opens the enrolment that it inherits and does as it is told, a word a
// line, each answered by one of JSON: an error, an address, or "ok".
func runWorker(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2
	}
	var files []*os.File
	for i := range n {
		files = append(files, os.NewFile(uintptr(3+i), "inherited"))
	}
	e, err := OpenEnrolment(files)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer e.Close()
	stop, err := answer(e)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	out := json.NewEncoder(os.Stdout)
	for {
		var line string
		if _, err := fmt.Scanln(&line); err != nil {
			return 0
		}
		_ = out.Encode(obey(e, line))
	}
}

func obey(e *Enrolment, line string) string {
	var err error
	switch line {
	case "beat":
		err = e.Beat()
	case "withdraw":
		err = e.Withdraw()
	case "capabilities":
		set, _ := effectiveCapabilities()
		return fmt.Sprintf("uid %d capabilities %x", os.Getuid(), set)
	default:
		nameserver, ok := e.Origin(netip.MustParseAddr(line))
		if !ok {
			return "none"
		}
		return nameserver.String()
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return "no scope"
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// workerCapabilities are those without which a worker may not use the maps that it is
// given: CAP_BPF before Linux 5.19, where unprivileged_bpf_disabled is set.
func workerCapabilities() []uintptr {
	if checkUnprivileged().Severity == OK {
		return nil
	}
	return []uintptr{unix.CAP_BPF}
}

// startWorker hands the enrolment to a process that runs as the exempt owner, without
// capabilities where the kernel allows that, and gives up its own hold on the listeners.
func (w *world) startWorker(t *testing.T, e *Enrolment) *child {
	t.Helper()
	maps, listeners, err := e.Files()
	if err != nil {
		t.Fatal(err)
	}
	files := append(maps, listeners...)
	cmd := testenv.Command(t, "worker", strconv.Itoa(len(files)))
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: DefaultOwner, Gid: DefaultOwner},
		AmbientCaps: workerCapabilities(),
	}
	c := pipe(t, cmd)
	w.client.Start(cmd)
	for _, f := range maps {
		f.Close()
	}
	return c
}

func (c *child) tell(t *testing.T, word string) string {
	t.Helper()
	answer, err := c.ask(word)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// ask is tell for goroutines that may not end the test.
func (c *child) ask(word string) (string, error) {
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		return "", err
	}
	var answer string
	if err := c.out.Decode(&answer); err != nil {
		return "", fmt.Errorf("worker: %w", err)
	}
	return answer, nil
}

// asking asks beside what the test does.
func (c *child) asking(word string) <-chan string {
	told := make(chan string, 1)
	go func() {
		answer, err := c.ask(word)
		if err != nil {
			answer = err.Error()
		}
		told <- answer
	}()
	return told
}

// The worker serves, beats, and knows nameservers, as uid 1337 without a capability that
// the kernel does not insist on.
func TestWorkerWithoutPrivilege(t *testing.T) {
	w := newWorld(t)
	d := w.load(t)
	e := w.attend(t, d)
	worker := w.startWorker(t, e)
	want := func(word, want string) {
		t.Helper()
		if got := worker.tell(t, word); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
	var capabilities uint64
	for _, bit := range workerCapabilities() {
		capabilities |= 1 << bit
	}
	want("capabilities", fmt.Sprintf("uid 1337 capabilities %x", capabilities))
	want("beat", "no scope")
	want("127.0.0.1", "none")
	w.enrol(t, e, scope())
	want("beat", "ok")
	want("127.0.0.1", "192.0.2.53")
	want("::1", "2001:db8::53")
	want("::ffff:127.0.0.1", "192.0.2.53")
	want("127.53.1.1", "none")
	want("192.0.2.1", "none")
	e.Close() // from here on, the worker's are the only listeners

	first, second := shape{Server: at(primary)}, shape{Server: at(secondary)}
	w.startQuerier(t, first).settle(t, 5).wantFrom(t, first, fromTable)
	w.startQuerier(t, second).settle(t, 5).wantFrom(t, second, fromTable)
	tag := tagOf(t, d, secondary)
	want(tag.String(), "192.0.2.54")
	want(tag.String(), "192.0.2.54") // remembered
	want("withdraw", "ok")
	want("beat", "no scope")
	want("127.0.0.1", "192.0.2.53") // for what was on its way
	w.startQuerier(t, first).settle(t, 5).wantFrom(t, first, testenv.AnswerOf(primary))
}

// tagOf finds the tag that a nameserver was given.
func tagOf(t *testing.T, d *Datapath, nameserver netip.Addr) netip.Addr {
	t.Helper()
	var number uint32
	var address = toAddress(netip.Addr{})
	all := d.maps["steer_tag"].Iterate()
	for all.Next(&number, &address) {
		if fromAddress(address) == nameserver {
			return netip.AddrFrom4([4]byte{127, 53, byte(number >> 8), byte(number)})
		}
	}
	t.Fatalf("%s has no tag: %v", nameserver, all.Err())
	return netip.Addr{}
}

func TestOpenEnrolmentOfRubbish(t *testing.T) {
	testenv.Privileged(t)
	file := func() *os.File {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	w := newWorld(t)
	e := w.attend(t, w.load(t))
	good := func() []*os.File {
		files, listeners, err := e.Files()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range listeners { // the originals stay e's
			fd, err := syscall.Dup(int(f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, os.NewFile(uintptr(fd), "copy"))
		}
		return files
	}
	for _, tc := range []struct {
		name  string
		files func() []*os.File
		want  string
	}{
		{"nothing", func() []*os.File { return nil }, "0 files"},
		{"no listeners", func() []*os.File { return []*os.File{file(), file(), file()} }, "3 files"},
		{"files", func() []*os.File { return []*os.File{file(), file(), file(), file()} }, "socket operation on non-socket"},
		{"maps swapped", func() []*os.File { f := good(); f[0], f[1] = f[1], f[0]; return f }, "want SkStorage"},
		{"a file among maps", func() []*os.File { f := good(); f[1].Close(); f[1] = file(); return f }, "open tags"},
		{"no hearts", func() []*os.File { f := good(); f[2].Close(); f[2] = file(); return f }, "open hearts"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := tc.files()
			_, err := OpenEnrolment(files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			for _, f := range files {
				if f.Close() == nil {
					t.Error("a file was left open")
				}
			}
		})
	}
}
