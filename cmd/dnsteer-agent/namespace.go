// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// home is the network namespace of the agent's threads.
type home struct{ file *os.File }

func openHome() (home, error) {
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return home{}, fmt.Errorf("find own network namespace: %w", err)
	}
	return home{f}, nil
}

// within runs f with the calling goroutine's thread inside a network namespace: what it
// opens there stays there, goroutines that it starts do not run there. f does not wait.
func (h home) within(namespace *os.File, f func() error) error {
	runtime.LockOSThread()
	if err := netns.Set(netns.NsHandle(namespace.Fd())); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err := f()
	if back := netns.Set(netns.NsHandle(h.file.Fd())); back != nil {
		// It cannot fail for a descriptor that is open. If it does, no thread of ours may
		// go on where it is not expected to be.
		panic(fmt.Sprintf("leave network namespace: %v", back))
	}
	runtime.UnlockOSThread()
	return err
}
