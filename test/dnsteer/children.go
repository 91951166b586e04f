// SPDX-License-Identifier: Apache-2.0

package dnsteer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dnsteer/dnsteer/loader"
)

// Worker is the resolver's process, whose parent is pid: the child that belongs to the
// exempt owner. Zero if there is none.
func Worker(pid int) int {
	uid := fmt.Sprintf("\nUid:\t%d\t", loader.DefaultOwner)
	for _, child := range Children(pid) {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(child), "status"))
		if err == nil && strings.Contains(string(status), uid) {
			return child
		}
	}
	return 0
}

// Children lists the processes whose parent is pid and that have not ended.
func Children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is fine
	var children []int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended
		}
		// "PID (NAME) STATE PPID ...", and a name may contain anything.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			children = append(children, child)
		}
	}
	return children
}
