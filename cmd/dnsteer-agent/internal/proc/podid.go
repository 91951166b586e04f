// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"regexp"
	"strings"
)

// podDir is the directory that the kubelet makes for a pod: pod<UID>, behind the names of
// its parents and with underscores if the cgroup driver is systemd. The UID of a static
// pod is a hash without dashes.
var podDir = regexp.MustCompile(`(?:^|[/-])pod([0-9a-f]{32}|[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})(?:\.slice)?(?:/|$)`)

// podUID finds the pod in /proc/PID/cgroup, empty if the process is in none. Any
// hierarchy will do: where the v1 controllers are in use, the unified one may not know
// of pods. Of pods inside pods it is the outer one.
func podUID(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if m := podDir.FindStringSubmatch(cgroupPath(line)); m != nil {
			return strings.ReplaceAll(m[1], "_", "-")
		}
	}
	return ""
}

// unified finds the path in the cgroup v2 hierarchy.
func unified(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if strings.HasPrefix(line, "0::") {
			return cgroupPath(line)
		}
	}
	return ""
}

// cgroupPath is the third field of "hierarchy:controllers:path".
func cgroupPath(line string) string {
	parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
	return parts[len(parts)-1]
}

// below tells whether a cgroup is another, or inside it.
func below(path, parent string) bool {
	return parent == "/" || path == parent || strings.HasPrefix(path, parent+"/")
}
