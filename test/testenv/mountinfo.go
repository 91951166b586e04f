// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"strings"
)

// mount is one line of /proc/self/mountinfo.
type mount struct {
	point  string // where it is mounted
	root   string // which part of the file system is
	fsType string
}

// mounts reads the mounts of this process.
func mounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(text))
}

// parseMounts understands proc_pid_mountinfo(5): six fields, any number of
// optional ones, a hyphen, the type.
func parseMounts(text string) ([]mount, error) {
	var all []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(rest) < 1 {
			return nil, fmt.Errorf("parse mount %q: not of mountinfo's form", line)
		}
		all = append(all, mount{
			root:   unescape(fields[3]),
			point:  unescape(fields[4]),
			fsType: rest[0],
		})
	}
	return all, nil
}

// unescape undoes the octal escapes of white space and backslash.
func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// cgroup2Mount is the mount point of the unified hierarchy: /sys/fs/cgroup on most
// machines, /sys/fs/cgroup/unified in a hybrid tree. Its root is preferred to a
// part of it that a container has been given.
func cgroup2Mount() (string, error) {
	all, err := mounts()
	if err != nil {
		return "", err
	}
	return findCgroup2(all)
}

func findCgroup2(all []mount) (string, error) {
	part := ""
	for _, m := range all {
		if m.fsType != "cgroup2" {
			continue
		}
		if m.root == "/" {
			return m.point, nil
		}
		if part == "" {
			part = m.point
		}
	}
	if part == "" {
		return "", fmt.Errorf("find cgroup v2: not mounted; mount -t cgroup2 none /sys/fs/cgroup")
	}
	return part, nil
}
