// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// Mount is where the cgroup v2 hierarchy is mounted.
type Mount struct {
	Point string // as the mountinfo's process sees it
	Root  string // the cgroup that is there, as /proc/PID/cgroup writes it
}

// CgroupMounts returns the mounts of cgroup v2 that a mountinfo file tells of, in its
// order. In hybrid trees it is beside the hierarchies of v1.
func CgroupMounts(mountinfo string) ([]Mount, error) {
	data, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, fmt.Errorf("find cgroup v2: %w", err)
	}
	var mounts []Mount
	for line := range strings.Lines(string(data)) {
		// "36 35 98:0 /root /mount/point options... - fstype source superoptions"
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			mounts = append(mounts, Mount{Point: unescape(fields[4]), Root: unescape(fields[3])})
		}
	}
	return mounts, nil
}

// unescape undoes the octal escapes of mountinfo, see proc_pid_mountinfo(5).
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// CgroupName returns how /proc/PID/cgroup writes the cgroup that is at a path, "/" if
// none of the mounts leads there. A name from outside our cgroup namespace begins with
// "/..", and is not to be tidied.
func CgroupName(mounts []Mount, path string) string {
	var best Mount
	name := "/"
	for _, m := range mounts {
		rest, ok := strings.CutPrefix(path, m.Point)
		if !ok || rest != "" && rest[0] != '/' || len(m.Point) < len(best.Point) {
			continue
		}
		best, name = m, cmp.Or(strings.TrimSuffix(m.Root, "/")+rest, "/")
	}
	return name
}
