// SPDX-License-Identifier: Apache-2.0

// Package privilege gives up what the agent does not need, and says what it keeps.
package privilege

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// need is a capability, and what it is for.
type need struct {
	value cap.Value
	why   string
}

// needs are all that the agent keeps. Each is used for as long as it runs: pods come, and
// an agent that handed over may have to load programs again.
func needs() []need {
	return []need{
		{cap.BPF, "load programs, and tell the datapath of scopes"},
		{cap.PERFMON, "programs read the kernel's structures of sockets"},
		{cap.NET_ADMIN, "attach programs, and set routes of tags in pods' namespaces"},
		{cap.NET_RAW, "pass on answers that are under way to a socket that is connected again"},
		{cap.SYS_ADMIN, "enter network namespaces"},
		{cap.SYS_PTRACE, "see namespaces, resolv.conf and sockets of other processes"},
		{cap.DAC_OVERRIDE, "read those files, and write the node's CNI configuration"},
		{cap.DAC_READ_SEARCH, "find out whether a cgroup is gone"},
		{cap.CHOWN, "share a port between listeners, and keep owners of configurations"},
		{cap.FOWNER, "keep modes of configurations"},
	}
}

// Drop makes the process, all its threads, user and group id with the needed capabilities
// and no others. It must be root before. It logs what it keeps.
func Drop(id int, log *slog.Logger) error {
	keep, missing, err := choose(cap.GetProc())
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("give up privileges: a capability is missing: %s", strings.Join(missing, "; "))
	}
	// With the groups first: who is another user may not change them.
	if err := errors.Join(cap.SetGroups(id), cap.SetUID(id), keep.SetProc()); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	for _, n := range needs() {
		log.Info("keep capability", "capability", n.value, "to", n.why)
	}
	return nil
}

// choose makes the set to keep of what we have, and names what is not there.
func choose(have *cap.Set) (keep *cap.Set, missing []string, err error) {
	keep = cap.NewSet()
	for _, n := range needs() {
		ok, err := have.GetFlag(cap.Permitted, n.value)
		if err != nil {
			return nil, nil, fmt.Errorf("look for %s: %w", n.value, err)
		}
		if !ok {
			missing = append(missing, fmt.Sprintf("%s, to %s", n.value, n.why))
			continue
		}
		for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
			if err := keep.SetFlag(flag, true, n.value); err != nil {
				return nil, nil, fmt.Errorf("keep %s: %w", n.value, err)
			}
		}
	}
	return keep, missing, nil
}
