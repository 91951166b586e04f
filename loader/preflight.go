// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Preflight looks at everything that Load, Listen and Resteer need, in the calling
// thread's network namespace, and returns all findings at once, the good ones too. It
// changes nothing. Features are found by trying them, not by the kernel's version.
func Preflight(opts Options) []Finding {
	var all []Finding
	all = append(all, checkCapabilities(opts)...)
	all = append(all, checkCgroup(opts))
	if opts.BPFFS != "" {
		all = append(all, checkPins(opts))
	}
	all = append(all, checkHooks()...)
	all = append(all, checkHelpers())
	all = append(all, checkLink(opts), checkLayout(), checkPidfd(), checkCookie(), checkUnprivileged())
	all = append(all, checkForeign(opts)...)
	all = append(all, CheckOrder(opts))
	if opts.BPFFS != "" {
		all = append(all, checkLoaded(opts))
	}
	return append(all, checkIPv6(), CheckPort(opts), checkConntrack(opts))
}

// checkCapabilities reads the effective set of the calling thread. Before Linux 5.8
// there was no CAP_BPF and no CAP_PERFMON; CAP_SYS_ADMIN stood for both.
func checkCapabilities(opts Options) []Finding {
	effective, err := effectiveCapabilities()
	if err != nil {
		return []Finding{{"capabilities", "to know them", err.Error(), "mount /proc", Failure}}
	}
	const run = "run as root, or grant it (AmbientCapabilities= of systemd, securityContext.capabilities of Kubernetes)"
	var out []Finding
	for _, want := range []struct {
		bit      int
		name     string
		need     string
		severity Severity
		skip     bool
	}{
		{unix.CAP_BPF, "CAP_BPF", "to load programs", Failure, false},
		{unix.CAP_PERFMON, "CAP_PERFMON", "to read whom a socket belongs to", Failure, false},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach programs to cgroups", Failure, false},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to mount a BPF filesystem and enter namespaces", Warning, opts.BPFFS == ""},
		{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "to steer sockets that are connected already", Warning, false},
		{unix.CAP_NET_RAW, "CAP_NET_RAW", "to lose no answer that is under way to them meanwhile", Warning, false},
	} {
		if want.skip {
			continue
		}
		f := Finding{Check: want.name, Need: want.need, Have: "effective"}
		if want.bit >= unix.CAP_PERFMON && effective.lacks(unix.CAP_SYS_ADMIN) && effective.lacks(want.bit) ||
			want.bit < unix.CAP_PERFMON && effective.lacks(want.bit) {
			f.Have, f.Remedy, f.Severity = "not effective", run, want.severity
		}
		out = append(out, f)
	}
	return out
}

type capabilitySet uint64

func (c capabilitySet) lacks(bit int) bool { return c&(1<<bit) == 0 }

func effectiveCapabilities() (capabilitySet, error) {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, os.NewSyscallError("capget", err)
	}
	return capabilitySet(data[0].Effective) | capabilitySet(data[1].Effective)<<32, nil
}

func checkCgroup(opts Options) Finding {
	f := Finding{Check: "cgroup", Need: "a directory of cgroup v2", Have: opts.Cgroup}
	root, err := CgroupRoot()
	if err != nil {
		f.Have, f.Severity = "no cgroup v2 mounted", Failure
		f.Remedy = "mount -t cgroup2 none /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1"
		return f
	}
	dir, _, err := openCgroup(opts.Cgroup)
	if err != nil {
		f.Have, f.Severity = err.Error(), Failure
		f.Remedy = fmt.Sprintf("name a directory below %s, where cgroup v2 is mounted", root)
		return f
	}
	_ = dir.Close()
	return f
}

func checkPins(opts Options) Finding {
	f := Finding{Check: "bpffs", Need: "a BPF filesystem to pin to", Have: opts.BPFFS}
	if err := opts.checkBPFFS(); err != nil {
		f.Have, f.Severity = err.Error(), Failure
		f.Remedy = fmt.Sprintf("mount -t bpf bpf %s", opts.BPFFS)
	} else if unix.Faccessat(unix.AT_FDCWD, opts.BPFFS, unix.W_OK, unix.AT_EACCESS) != nil {
		f.Have, f.Severity = "no right to write to "+opts.BPFFS, Failure
		f.Remedy = "run as the owner of " + opts.BPFFS
	}
	return f
}

// checkForeign looks at who else is attached in the cgroup and above. Who allows
// company is none of our business.
func checkForeign(opts Options) []Finding {
	var out []Finding
	for _, h := range hooks() {
		b := alone(opts.Cgroup, h)
		if b == nil {
			continue
		}
		f := Finding{Check: "foreign program", Need: "hook " + h.name + " shared", Have: b.Error(), Remedy: b.remedy(), Severity: Failure}
		if exclusive(opts.Cgroup, h) == nil {
			f.Severity = Warning // BPF_F_ALLOW_OVERRIDE, above
			f.Have += "; it does not run in " + opts.Cgroup + " while the datapath is loaded"
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{{Check: "foreign program", Need: "hooks shared", Have: "nobody who does not share"}}
	}
	return out
}

// checkLoaded tells what is loaded for this cgroup; that it is, is fine.
func checkLoaded(opts Options) Finding {
	f := Finding{Check: "datapath", Need: "none, or one of this layout", Have: "none"}
	d, err := Open(opts)
	switch {
	case err == nil:
		defer d.Close()
		version, _ := layoutVersion()
		f.Have = fmt.Sprintf("loaded, layout %d, port %d", version, d.Port())
	case errors.Is(err, ErrLayout), errors.Is(err, ErrDetached):
		f.Have, f.Severity = err.Error(), Failure
		f.Remedy = "unload it, then load again"
	case errors.Is(err, ErrNotBPFFS), errors.Is(err, ErrNotCgroup2):
		f.Have = "none: there is no place for one" // a finding of its own says why
	case !errors.Is(err, ErrNotLoaded):
		f.Have, f.Severity = "unknown: "+err.Error(), Warning
		f.Remedy = "see the other findings"
	}
	return f
}

func checkIPv6() Finding {
	f := Finding{Check: "IPv6", Need: "::1 in this network namespace", Have: "::1"}
	if !haveIPv6() {
		f.Have, f.Severity = "no ::1", Warning
		f.Remedy = "queries to IPv6 nameservers, if any, are not steered: sysctl net.ipv6.conf.lo.disable_ipv6=0, and set lo up"
	}
	return f
}

// CheckPort tells whether somebody has the target's port in the calling thread's network
// namespace, as Preflight does. It reads who is bound to it rather than binding it: for a
// moment that would keep a resolver from it which is just starting.
func CheckPort(opts Options) Finding {
	f := Finding{Check: "port", Need: fmt.Sprintf("%d free in this network namespace", opts.port()), Have: "free"}
	for _, table := range []string{"udp", "udp6", "tcp", "tcp6"} {
		sockets, err := readSocketTable("/proc/thread-self/net/" + table)
		if err != nil {
			continue // no IPv6
		}
		for _, s := range sockets {
			if s.local.Port() != opts.port() || s.remote.Port() != 0 {
				continue
			}
			f.Have, f.Severity = fmt.Sprintf("%s %s is taken", table, s.local), Warning
			f.Remedy = "a resolver of ours, or one that is to be used: nothing to do; else choose another port (--port), or end who has it: ss -lnp 'sport = :" +
				strconv.Itoa(int(opts.port())) + "'"
			return f
		}
	}
	return f
}

// checkConntrack: no decision hangs on conntrack, but steered flows make entries in its
// table like any others, and a full table drops packets.
func checkConntrack(opts Options) Finding {
	f := Finding{Check: "conntrack", Need: "room for steered flows, or none tracked", Have: "not in use"}
	count, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return f
	}
	limit, _ := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	used, _ := strconv.Atoi(strings.TrimSpace(string(count)))
	most, _ := strconv.Atoi(strings.TrimSpace(string(limit)))
	f.Have = fmt.Sprintf("%d of %d entries used", used, most)
	if 2*used < most {
		return f
	}
	f.Severity = Warning
	f.Remedy = fmt.Sprintf("raise net.netfilter.nf_conntrack_max, or do not track loopback: "+
		"nft add rule inet raw output oif lo udp dport %[1]d notrack; nft add rule inet raw output oif lo udp sport %[1]d notrack", opts.port())
	return f
}
