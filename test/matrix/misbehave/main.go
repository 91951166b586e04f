// SPDX-License-Identifier: Apache-2.0

// Misbehave ends in the ways in which a test binary, or the kernel under it, can end.
// The tests of the kernel matrix run it in a guest; elsewhere it refuses.
package main

import (
	"flag"
	"fmt"
	"os"
	"syscall"
)

func main() {
	// Named as go test names it, so that vmexec brings the file back.
	profile := flag.String("test.coverprofile", "", "`file` to write")
	flag.Parse()
	// Some of what follows takes the whole machine down.
	if _, err := os.Stat("/vmexec/job.json"); err != nil || os.Getppid() != 1 {
		fmt.Fprintln(os.Stderr, "misbehave: this is no guest of vmexec")
		os.Exit(2)
	}
	if err := misbehave(flag.Arg(0), *profile); err != nil {
		fmt.Fprintln(os.Stderr, "misbehave:", err)
		os.Exit(1)
	}
}

func misbehave(how, profile string) error {
	switch how {
	case "well":
		content, err := os.ReadFile("testdata/file")
		if err != nil {
			return err
		}
		// All bytes, as go test's own markers are not text either.
		fmt.Printf("%s\x16\x00\xff\r\n", content)
		return os.WriteFile(profile, content, 0o644)
	case "exit":
		os.Exit(3)
	case "killed":
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "hang":
		return syscall.Pause()
	case "panic":
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "reboot":
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	}
	return fmt.Errorf("unknown way %q", how)
}
