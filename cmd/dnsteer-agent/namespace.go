// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/vishvananda/netns"
)

// nsID tells one network namespace from another for as long as somebody holds it.
type nsID struct{ dev, ino uint64 }

func identify(f *os.File) (nsID, error) {
	info, err := f.Stat()
	if err != nil {
		return nsID{}, err
	}
	st := info.Sys().(*syscall.Stat_t) // always, on Linux
	return nsID{uint64(st.Dev), st.Ino}, nil
}

// entrance lets a bounded number of threads into namespaces at once. With one for each
// heart that beats, a node of many pods would have as many threads.
type entrance chan struct{}

// maxInside is more than the hearts that may hang without holding up the others, and
// fewer than anybody would notice.
const maxInside = 8

func newEntrance() entrance { return make(entrance, maxInside) }

// within runs f on a thread that is inside a network namespace: what it opens there
// stays there, goroutines that it starts do not run there. f does not wait for long.
func (e entrance) within(namespace *os.File, f func() error) error {
	result := make(chan error, 1)
	e <- struct{}{}
	go func() {
		defer func() { <-e }()
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("leave network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(netns.NsHandle(namespace.Fd())); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		// A thread that does not find back ends with its goroutine, locked as it is.
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
