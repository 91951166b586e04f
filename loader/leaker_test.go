// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// runLeaker sends a datagram to the primary nameserver from each of n sockets.
func runLeaker(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return 2
	}
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Sendto(fd, []byte{0}, 0, sockaddr(at(primary)))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		_ = unix.Close(fd)
	}
	return 0
}

// runWatcher watches until its standard input ends.
func runWatcher(args []string) int {
	d, err := Open(Options{Cgroup: args[0], BPFFS: args[1]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer d.Close()
	watch, err := d.WatchLeaks()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer watch.Close()
	_ = json.NewEncoder(os.Stdout).Encode("watching")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}
