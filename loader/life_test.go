// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The roles of this test binary.

// life is one step of a datapath's life, taken by a process of its own.
type life struct {
	Options
	Step   string // "load", "upgrade" or "unload"
	Legacy bool
	DieAt  string // the stage at which the process kills itself
}

// runLife takes the step; it returns 3 if it got by the stage at which it was to die.
func runLife(args []string) int {
	var l life
	if err := json.Unmarshal([]byte(args[0]), &l); err != nil {
		return 2
	}
	s := seams{legacy: l.Legacy, reached: func(stage string) {
		if stage == l.DieAt {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // a signal to oneself may take its time to arrive
		}
	}}
	var err error
	switch l.Step {
	case "load":
		var d *Datapath
		if d, err = loadWith(l.Options, s); err == nil {
			d.Close()
		}
	case "upgrade":
		s.alter = anotherVersion
		_, err = upgradeWith(l.Options, (*attachment).update, s)
	case "unload":
		err = unloadWith(l.Options, 0, s)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%+v\n", err)
		return 1
	}
	return 3
}

// contention is what a contender saw: how often each outcome.
type contention map[string]int

// runContender loads and unloads the same datapath, as often as it is told.
func runContender(args []string) int {
	var opts Options
	if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
		return 2
	}
	seen := make(contention)
	for range 5 {
		d, err := Load(opts)
		seen["load: "+outcome(err)]++
		if err == nil {
			d.Close()
		}
		if d, err = Open(opts); err == nil {
			d.Close()
		}
		seen["open: "+outcome(err)]++
		_, err = List(opts.BPFFS)
		seen["list: "+outcome(err)]++
		seen["unload: "+outcome(Unload(opts, time.Millisecond))]++
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		return 1
	}
	return 0
}

// outcome names the errors that are to be expected.
func outcome(err error) string {
	for _, expected := range []error{ErrLoaded, ErrNotLoaded, ErrDetached} {
		if errors.Is(err, expected) {
			return expected.Error()
		}
	}
	if err != nil {
		return "unexpected: " + err.Error()
	}
	return "done"
}

// runUnprivileged tries what takes privilege, and says on standard output what it met.
func runUnprivileged(args []string) int {
	var opts Options
	if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
		return 2
	}
	_, err := Load(opts)
	var failed *PreflightError
	if !errors.As(err, &failed) {
		fmt.Fprintf(os.Stderr, "load: %v, want a PreflightError\n", err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(failed.Findings); err != nil {
		return 1
	}
	fmt.Printf("%s\n", strings.ReplaceAll(fmt.Sprintf("%q", fmt.Sprintf("%+v", err)), "\n", " "))
	return 0
}

// beatUntil renews the heartbeat, at once and then until stop, on threads for which do is
// responsible.
func beatUntil(do func(func()), beat func() error) (stop func()) {
	renew := func() { _ = beat() } // withdrawn is fine
	do(renew)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(HeartbeatInterval / 2)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				do(renew)
			}
		}
	}()
	return func() { close(end); <-ended }
}

// here runs f on the calling thread.
func here(f func()) { f() }

// resolverReady is what a resolver says when it serves.
type resolverReady struct {
	Port uint16
}

// runResolver owns listeners in its own namespace, enrols them, answers and beats
// until it is killed or standard input ends.
func runResolver(args []string) int {
	var opts Options
	if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
		return 2
	}
	if err := resolve(opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func resolve(opts Options) error {
	d, err := Open(opts)
	if err != nil {
		return err
	}
	defer d.Close()
	l, err := Listen(d.Port())
	if err != nil {
		return err
	}
	e, err := d.Attend(l)
	if err != nil {
		return err
	}
	defer e.Close()
	stop, err := answer(e)
	if err != nil {
		return err
	}
	defer stop()
	if err := e.Enrol(scope()); err != nil {
		return err
	}
	defer beatUntil(here, e.Beat)()
	if err := json.NewEncoder(os.Stdout).Encode(resolverReady{d.Port()}); err != nil {
		return err
	}
	return untilInputEnds()
}

func untilInputEnds() error {
	buffer := make([]byte, 1)
	if _, err := os.Stdin.Read(buffer); err != nil {
		return nil //nolint:nilerr // the end
	}
	return nil
}

// runHolder holds what it inherits until standard input ends.
func runHolder([]string) int {
	_ = untilInputEnds()
	return 0
}
