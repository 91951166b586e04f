// SPDX-License-Identifier: Apache-2.0

package probe

import "runtime"

// threads are what owners are to the kernel: credentials belong to a thread.
type threads struct {
	kept map[Owner]chan<- func()
}

// do calls f on a thread that f may give the owner's credentials, and returns when f has.
// The caller's own thread must be root's and locked.
func (t *threads) do(owner Owner, f func()) {
	switch owner {
	case OwnerUID, OwnerGID: // it stays what it has become
		t.on(owner, f)
	case OwnerBefore: // it was root and may not become that again: it is thrown away
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			defer close(done)
			f()
		}()
		<-done
	default: // it is root's in the end
		f()
	}
}

// on calls f on the thread that an owner keeps.
func (t *threads) on(owner Owner, f func()) {
	calls, ok := t.kept[owner]
	if !ok {
		c := make(chan func())
		go func() {
			runtime.LockOSThread()
			for f := range c {
				f()
			}
		}()
		if t.kept == nil {
			t.kept = make(map[Owner]chan<- func())
		}
		t.kept[owner], calls = c, c
	}
	done := make(chan struct{})
	calls <- func() { defer close(done); f() }
	<-done
}
