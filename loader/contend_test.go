// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestContention(t *testing.T) {
	opts := pinned(t)
	arg, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	sum := make(contention)
	var children []*exec.Cmd
	var outputs []*json.Decoder
	for range 8 {
		cmd := testenv.Command(t, "contend", string(arg))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
		outputs = append(outputs, json.NewDecoder(out))
	}
	for i, cmd := range children {
		var seen contention
		if err := outputs[i].Decode(&seen); err != nil {
			t.Errorf("contender %d: %v", i, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("contender %d: %v", i, err)
		}
		for what, n := range seen {
			sum[what] += n
			if strings.Contains(what, "unexpected") {
				t.Error(what)
			}
		}
	}
	if sum["load: done"] == 0 || sum["list: done"] != 8*5 {
		t.Errorf("outcomes: %v", sum)
	}
	t.Log(sum)
	wantClean(t, opts)
}

// Two that unload one datapath at once both succeed, or the later finds nothing.
func TestUnloadTwiceAtOnce(t *testing.T) {
	opts := pinned(t)
	d := mustLoad(t, opts, seams{})
	errs := make([]error, 2)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { errs[i] = d.Unload(nil) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil && outcome(err) != ErrNotLoaded.Error() {
			t.Error(err)
		}
	}
	wantClean(t, opts)
}

// While one lingers, a new one takes its place and is not taken away.
func TestLoadWhileAnotherLingers(t *testing.T) {
	opts := pinned(t)
	mustLoad(t, opts, seams{})
	returned, loaded := make(chan struct{}), make(chan struct{})
	s := seams{reached: func(stage string) {
		if stage == "sockets returned" {
			close(returned)
			<-loaded
		}
	}}
	unloaded := make(chan error)
	go func() { unloaded <- unloadWith(opts, 0, s) }()
	<-returned
	mustLoad(t, opts, seams{})
	close(loaded)
	if err := <-unloaded; err != nil {
		t.Errorf("unload the old: %v", err)
	}
	d, err := Open(opts)
	if err != nil {
		t.Fatalf("open the new: %v", err)
	}
	defer d.Close()
	wantAttached(t, opts.Cgroup, 1)
	if err := d.Unload(nil); err != nil {
		t.Error(err)
	}
	wantClean(t, opts)
}

func TestLockIsHeldAcrossRemoval(t *testing.T) {
	opts := pinned(t)
	unlock, err := opts.lock(unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan func())
	go func() {
		next, err := opts.lock(unix.LOCK_EX)
		if err != nil {
			t.Error(err)
		}
		got <- next
	}()
	select {
	case <-got:
		t.Fatal("two hold the lock")
	default:
	}
	unlock() // removes the directory; the other must notice and make a new one
	next := <-got
	if _, err := os.Stat(opts.root()); err != nil {
		t.Errorf("the lock that is held has no directory: %v", err)
	}
	next()
	wantClean(t, opts)
}
