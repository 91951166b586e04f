// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"testing"

	"golang.org/x/sys/unix"
)

// BPFFS mounts a BPF file system of the test's own and returns its mount point.
// It is unmounted when the test ends; objects pinned in it go with it.
func BPFFS(tb testing.TB) string {
	tb.Helper()
	Privileged(tb)
	dir := tb.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		tb.Fatalf("mount bpffs: %v", err)
	}
	tb.Cleanup(func() {
		// Detached: a descriptor that is still open below must not keep the
		// mount point, which TempDir is about to remove.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount bpffs %s: %v", dir, err)
		}
	})
	return dir
}
