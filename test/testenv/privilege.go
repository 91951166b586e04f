// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// capability is one bit of CapEff that the tests need.
type capability struct {
	bit  int
	name string
}

// capabilities lists what making namespaces, cgroups, datapaths and processes
// of other owners takes. CAP_BPF and CAP_PERFMON exist since Linux 5.8;
// CAP_SYS_ADMIN stands for them before that.
var capabilities = []capability{
	{unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_PERFMON, "CAP_PERFMON"},
	{unix.CAP_BPF, "CAP_BPF"},
}

// Privileged fails the test unless it runs as root with the capabilities that
// the datapath and the helpers of this package need. It never skips, so a run
// that is green did test what it claims.
func Privileged(tb testing.TB) {
	tb.Helper()
	const remedy = "run the tests as root (sudo make test), in a container with --privileged"
	if uid := os.Geteuid(); uid != 0 {
		tb.Fatalf("this test needs root, runs as uid %d: %s", uid, remedy)
	}
	effective, err := effectiveCaps()
	if err != nil {
		tb.Fatalf("read capabilities: %v", err)
	}
	if missing := missingCaps(effective, lastCap()); len(missing) > 0 {
		tb.Fatalf("this test needs %s: %s", strings.Join(missing, ", "), remedy)
	}
}

// missingCaps names the capabilities that effective lacks, leaving out those
// that a kernel whose newest capability is last does not know.
func missingCaps(effective uint64, last int) []string {
	var missing []string
	for _, c := range capabilities {
		if c.bit <= last && effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// effectiveCaps reads the process's own CapEff.
func effectiveCaps() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, fmt.Errorf("find CapEff in /proc/self/status")
}

// lastCap is the newest capability that the kernel knows; without the file, all
// that we ask for.
func lastCap() int {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return unix.CAP_LAST_CAP
	}
	last, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return unix.CAP_LAST_CAP
	}
	return last
}
