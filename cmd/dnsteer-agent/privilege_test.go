// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// The agent is user and group 1337 in all its threads, holds what it says and no more, and
// cannot get more.
func TestPrivilege(t *testing.T) {
	w := newWorld(t)
	defer w.unload(t)
	agent := w.start(t, testenv.NewNetNS(t))
	w.twoPods(t)
	const want = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE |
		1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", agent.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", agent.cmd.Process.Pid, task.Name()))
		if err != nil {
			continue // it has ended
		}
		field := func(name string) string {
			m := regexp.MustCompile(`(?m)^` + name + `:[ \t]*(.*)$`).FindStringSubmatch(string(status))
			if m == nil {
				t.Fatalf("no %s in %s", name, status)
			}
			return strings.TrimSpace(m[1])
		}
		for _, name := range []string{"Uid", "Gid"} {
			if got := field(name); got != "1337\t1337\t1337\t1337" {
				t.Errorf("%s: %q", name, got)
			}
		}
		if got := field("Groups"); got != "" {
			t.Errorf("groups: %q", got)
		}
		for name, want := range map[string]uint64{"CapEff": want, "CapPrm": want, "CapInh": 0, "CapAmb": 0} {
			if got, err := strconv.ParseUint(field(name), 16, 64); err != nil || got != want {
				t.Errorf("%s: %x, want %x", name, got, want)
			}
		}
	}
	log := agent.end(t, unix.SIGTERM)
	if n := strings.Count(log, "keep capability"); n != 10 {
		t.Errorf("it tells of %d capabilities: %s", n, log)
	}
}
