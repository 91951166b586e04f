// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// findings are those of one check.
func findings(t *testing.T, all []Finding, check string) []Finding {
	t.Helper()
	var out []Finding
	for _, f := range all {
		if f.Check == check {
			out = append(out, f)
		}
	}
	return out
}

// ofKernel are the checks that depend on the kernel alone, and may warn on an old one;
// test/matrix/features compares them with what that has.
var ofKernel = []string{"bpf_link", "kernel BTF", "pidfd_getfd", "unprivileged bpf", "conntrack"}

// notOK maps the checks that found something to its severity, but for warnings of the
// kernel.
func notOK(all []Finding) map[string]string {
	out := make(map[string]string)
	for _, f := range all {
		if f.Severity != OK && !(f.Severity == Warning && slices.Contains(ofKernel, f.Check)) {
			out[f.Check] = f.Severity.String()
		}
	}
	return out
}

func TestPreflightOfThisMachine(t *testing.T) {
	opts := pinned(t)
	testenv.NewNetNS(t).Do(func() {
		all := Preflight(opts)
		got := notOK(all)
		if diff := cmp.Diff(map[string]string{}, got); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
		if n := len(all); n < 22 {
			t.Errorf("only %d findings, the good ones are to be told too", n)
		}
		for _, f := range all {
			if f.Need == "" || f.Have == "" || (f.Severity == OK) != (f.Remedy == "") {
				t.Errorf("incomplete: %+v", f)
			}
		}
	})
	wantClean(t, opts)
}

func TestPreflightFinds(t *testing.T) {
	opts := pinned(t)
	dir := t.TempDir()
	for _, tc := range []struct {
		name   string
		opts   Options
		before func(t *testing.T)
		want   map[string]string
		remedy string // a part of the first
	}{
		{"no cgroup", Options{Cgroup: "/none"}, nil, map[string]string{"cgroup": "failure"}, "name a directory below"},
		{"cgroup is a directory", Options{Cgroup: dir}, nil, map[string]string{"cgroup": "failure"}, "name a directory below"},
		{"no BPF filesystem", Options{Cgroup: opts.Cgroup, BPFFS: dir}, nil,
			map[string]string{"bpffs": "failure"}, "mount -t bpf"},
		{"no IPv6", opts, func(t *testing.T) {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, map[string]string{"IPv6": "warning"}, "disable_ipv6"},
		{"port taken over UDP", opts, func(t *testing.T) { hold(t, "udp") }, map[string]string{"port": "warning"}, "sport = :15053"},
		{"port taken over TCP", opts, func(t *testing.T) { hold(t, "tcp") }, map[string]string{"port": "warning"}, "sport = :15053"},
		{"another port taken", Options{Cgroup: opts.Cgroup, Port: 15054}, func(t *testing.T) { hold(t, "udp") }, map[string]string{}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t).Do(func() {
				if tc.before != nil {
					tc.before(t)
				}
				all := Preflight(tc.opts)
				got := notOK(all)
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("findings (-want +got):\n%s", diff)
				}
				for _, f := range all {
					if f.Severity != OK && !slices.Contains(ofKernel, f.Check) {
						if !strings.Contains(f.Remedy, tc.remedy) {
							t.Errorf("%s", f)
						}
						break
					}
				}
			})
		})
	}
}

// hold binds the port in the calling thread's namespace.
func hold(t *testing.T, network string) {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", DefaultPort)
	if network == "tcp" {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return
	}
	c, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

func TestPreflightKnowsWhatIsLoaded(t *testing.T) {
	opts := pinned(t)
	d := mustLoad(t, Options{Cgroup: opts.Cgroup, BPFFS: opts.BPFFS, Port: 15099}, seams{})
	f := findings(t, Preflight(opts), "datapath")
	if len(f) != 1 || f[0].Severity != OK || !strings.Contains(f[0].Have, "port 15099") {
		t.Errorf("loaded: %+v", f)
	}
	if err := d.detach(requests); err != nil {
		t.Fatal(err)
	}
	if f = findings(t, Preflight(opts), "datapath"); len(f) != 1 || f[0].Severity != Failure {
		t.Errorf("detached: %+v", f)
	}
	if err := Unload(opts, 0); err != nil {
		t.Error(err)
	}
}

// Without any privilege, Load fails with every reason at once, and leaves nothing.
func TestUnprivileged(t *testing.T) {
	opts := pinned(t)
	arg, err := json.Marshal(Options{Cgroup: opts.Cgroup}) // no bpffs: nobody may look below the run directory's
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, "unprivileged", string(arg))
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "hook connect6", "helpers", "run as root"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no word of %s:\n%s", want, out)
		}
	}
	wantClean(t, opts)
}

func TestPreflightErrorInOneLineAndWhole(t *testing.T) {
	cause := errors.New("attach: operation not permitted")
	err := error(&PreflightError{Err: cause, Findings: []Finding{
		{"CAP_BPF", "to load programs", "not effective", "run as root", Failure},
		{"bpffs", "a BPF filesystem", "none", "mount it", Failure},
	}})
	wantErr(t, "unwrap", err, cause)
	const short = "attach: operation not permitted (CAP_BPF: need to load programs, have not effective; and 1 more)"
	if err.Error() != short || fmt.Sprintf("%v", err) != short {
		t.Errorf("got %q, want %q", err, short)
	}
	const whole = "attach: operation not permitted\n\tCAP_BPF: need to load programs, have not effective: run as root\n\tbpffs: need a BPF filesystem, have none: mount it"
	if diff := cmp.Diff(whole, fmt.Sprintf("%+v", err)); diff != "" {
		t.Errorf("%%+v (-want +got):\n%s", diff)
	}
}

func TestCgroupByID(t *testing.T) {
	cgroup := testenv.NewCgroup(t).Child(t)
	dir, id, err := openCgroup(cgroup.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	found, err := openCgroupID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if found.Name() != filepath.Clean(cgroup.Path) {
		t.Errorf("cgroup %d is %s, want %s", id, found.Name(), cgroup.Path)
	}
	_, err = openCgroupID(1 << 62)
	wantErr(t, "open no cgroup", err, ErrCgroupGone)
}
