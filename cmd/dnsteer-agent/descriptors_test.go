// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/handover"
	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// A file that could not be read when it changed is read as soon as it can be.
func TestNamesWithoutDescriptors(t *testing.T) {
	a, s, path := namesAgent(t)
	var log testenv.LogBook
	a.log = slog.New(slog.NewTextHandler(&log, nil))
	watch(t, a, s)
	writeFile(t, path+".new", table+"192.0.2.201 other.example.org\n")
	restore := noDescriptors(t)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	log.Saw(t, patience, "too many open files")
	restore()
	hasNames(t, a, 2)
	if log := log.String(); strings.Count(log, "keep the old names") != 1 {
		t.Errorf("it says more than once: %s", log)
	}
}

// An agent without a descriptor left goes on, and hands over when it has one.
func TestDoorWithoutDescriptors(t *testing.T) {
	a, _ := idle(t)
	var log testenv.LogBook
	a.log = slog.New(slog.NewTextHandler(&log, nil))
	path := filepath.Join(t.TempDir(), "next")
	l, err := handover.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := handover.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	restore := noDescriptors(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	opened := make(chan error, 1)
	go func() {
		relieved, err := (&door{agent: a, listener: l, plugins: new(pluginSocket)}).open(ctx)
		if relieved {
			err = errors.New("it has handed over")
		}
		opened <- err
	}()
	testenv.Eventually(t, patience, func() error {
		if log.String() == "" {
			return errors.New("it says nothing")
		}
		return nil
	})
	restore()
	if err := c.Send(message{Word: wordHello, Version: handoverVersion}, patience); err != nil {
		t.Fatal(err)
	}
	if _, _, err := expect(c, patience, wordWelcome); err != nil {
		t.Errorf("%v: %s", err, log.String())
	}
	stop()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// Plugins are answered again after a hand-over that failed, be it that no descriptor was left
// at that moment.
func TestPluginsWithoutDescriptors(t *testing.T) {
	a, _ := idle(t)
	var log testenv.LogBook
	a.log = slog.New(slog.NewTextHandler(&log, nil))
	dir := t.TempDir()
	socket, err := cnirpc.Listen(filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	plugins := &pluginSocket{agent: a, log: a.log, listener: socket}
	defer plugins.close()
	if err := plugins.resume(); err != nil {
		t.Fatal(err)
	}
	l, err := handover.Listen(filepath.Join(dir, "next"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := handover.Dial(t.Context(), filepath.Join(dir, "next"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		d := &door{agent: a, listener: l, plugins: plugins, mark: func(bool) error { return nil }}
		_, _ = d.open(ctx)
	}()
	defer func() { stop(); <-opened }()
	for _, m := range []struct{ say, hear word }{{wordHello, wordWelcome}, {wordSend, wordAll}} {
		if err := c.Send(message{Word: m.say, Version: handoverVersion}, patience); err != nil {
			t.Fatal(err)
		}
		if _, _, err := expect(c, patience, m.hear); err != nil {
			t.Fatal(err)
		}
	}
	restore := noDescriptors(t)
	if err := c.Send(message{Word: wordHello}, patience); err != nil { // not what is to come
		t.Fatal(err)
	}
	log.Saw(t, patience, "too many open files", "go on: the next agent has not taken over")
	restore()
	client := cnirpc.Client{Socket: filepath.Join(dir, "agent.sock"), Timeout: patience}
	if err := client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// What an agent cannot restore for want of descriptors is there for the next.
func TestRestoreWithoutDescriptors(t *testing.T) {
	a, namespace := idle(t)
	a.root, a.store = "/", store{t.TempDir()}
	defer a.letGo()
	ns, err := proc.Identify(namespace)
	if err != nil {
		t.Fatal(err)
	}
	at := cnirpc.Attachment{ID: cnirpc.ID{ContainerID: "c1", IfName: "eth0"}, Path: namespace.Name()}
	if err := a.store.put(record{Attachment: at, Dev: ns.Dev, Ino: ns.Ino}); err != nil {
		t.Fatal(err)
	}
	last, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	restore := noDescriptors(t)
	last.Close() // one to read what is stored
	a.restore()
	restore()
	if len(a.attachments) != 0 || len(a.store.all()) != 1 {
		t.Errorf("with one descriptor: %v, stored %v", a.attachments, a.store.all())
	}
	a.restore()
	if len(a.attachments) != 1 {
		t.Error("it is not restored")
	}
}

// noDescriptors lets the process open nothing until restore.
func noDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	next, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(next)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next), Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	restore = func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) }
	t.Cleanup(restore)
	return restore
}
