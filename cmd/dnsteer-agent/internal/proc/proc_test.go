// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, testenv.Roles{"pod": pod}) }

// pod is a process of a container: below its own root, until its input ends. With a
// second argument it makes a network namespace for itself.
func pod(args []string) int {
	if len(args) > 1 {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	if err := unix.Chroot(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// startPod starts such a process in a cgroup below cg, and returns when it is there. It
// ends with end.
func startPod(t *testing.T, cg *testenv.Cgroup, name string, ns *testenv.NetNS, args ...string) (cmd *exec.Cmd, end func()) {
	t.Helper()
	path := filepath.Join(cg.Path, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd = testenv.Command(t, "pod", args...)
	cg.Enter(cmd)
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Start(cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("pod: %s, %v", line, err)
	}
	return cmd, func() { in.Close(); _ = cmd.Wait() }
}

const (
	uidA = "8f2d1c3e-0a1b-4c5d-9e8f-000000000001"
	uidB = "8f2d1c3e-0a1b-4c5d-9e8f-000000000002"
	uidC = "8f2d1c3e-0a1b-4c5d-9e8f-000000000003"
	uidS = "0123456789abcdef0123456789abcdef" // of a static pod
)

// Pods of both cgroup drivers, static ones, one with a namespace in its namespace; not
// those of the node's own network, nor of another part of the tree, nor no pods.
func TestScan(t *testing.T) {
	cg, other := testenv.NewCgroup(t), testenv.NewCgroup(t)
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	ownID, err := Identify(own)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := CgroupMounts("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	scanner := NewScanner("/proc", CgroupName(mounts, cg.Path), ownID)
	nsA, nsB, nsS := testenv.NewNetNS(t), testenv.NewNetNS(t), testenv.NewNetNS(t)
	expect := func(want map[string]*testenv.NetNS) map[string]Sighting {
		t.Helper()
		got, err := scanner.Scan()
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Errorf("saw %v, want %d pods", got, len(want))
		}
		for uid, ns := range want {
			id, err := Identify(ns.File())
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(got[uid].Path, &st); err != nil || got[uid].Namespace != id || id != (NamespaceID{st.Dev, st.Ino}) {
				t.Errorf("%s: saw %+v, want %v", uid, got[uid], id)
			}
		}
		return got
	}
	expect(nil)
	first, endFirst := startPod(t, cg, "kubepods/burstable/pod"+uidA+"/c1", nsA, "/")
	startPod(t, cg, "kubepods/burstable/pod"+uidA+"/c2", nsA, "/", "nested")
	_, endB := startPod(t, cg, "kubepods.slice/kubepods-pod"+strings.ReplaceAll(uidB, "-", "_")+".slice/cri-1.scope", nsB, "/")
	startPod(t, cg, "kubepods/besteffort/pod"+uidS+"/c1", nsS, "/")
	nsC := testenv.NewNetNS(t)
	late, _ := startPod(t, cg, "system.slice/podman-"+uidS, nsC, "/")
	startPod(t, other, "kubepods/pod8f2d1c3e-0a1b-4c5d-9e8f-000000000009/c1", testenv.NewNetNS(t), "/")
	got := expect(map[string]*testenv.NetNS{uidA: nsA, uidB: nsB, uidS: nsS})
	if got[uidA].PID != first.Process.Pid {
		t.Errorf("the oldest of %s is not the pod's: %+v", uidA, got[uidA])
	}
	// A runtime may move a process into the pod's cgroup when it has its namespace already.
	_, endC := startPod(t, cg, "kubepods/pod"+uidC+"/c1", nsC, "/")
	procs := filepath.Join(cg.Path, "kubepods/pod"+uidC, "c1/cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(late.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	endC()
	expect(map[string]*testenv.NetNS{uidA: nsA, uidB: nsB, uidC: nsC, uidS: nsS})
	endB()
	expect(map[string]*testenv.NetNS{uidA: nsA, uidC: nsC, uidS: nsS})
	endFirst() // now there is but the one that made a namespace for itself
	if got, err := scanner.Scan(); err != nil || len(got) != 3 || got[uidA].PID == first.Process.Pid {
		t.Errorf("after the first process: %v, %v", got, err)
	}
}

// A process that ends while it is looked at is not the pod's oldest.
func TestEndsMeanwhile(t *testing.T) {
	dir := t.TempDir()
	for _, pid := range []string{"100", "200"} {
		if err := os.MkdirAll(filepath.Join(dir, pid, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, pid, "ns/net"), "")
		write(t, filepath.Join(dir, pid, "cgroup"), "0::/kubepods/pod"+uidA+"/c1\n")
	}
	write(t, filepath.Join(dir, "100/stat"), "100 (c1) S"+strings.Repeat(" 7", 30))
	got, err := NewScanner(dir, "/", NamespaceID{}).Scan()
	if err != nil || got[uidA].PID != 100 {
		t.Errorf("saw %v, %v", got, err)
	}
}

func TestPodUID(t *testing.T) {
	for _, tc := range []struct{ cgroups, uid, unified string }{
		{"0::/\n", "", "/"},
		{"0::/kubepods/pod" + uidA + "/abc\n", uidA, "/kubepods/pod" + uidA + "/abc"},
		{"12:pids:/kubepods/burstable/pod" + uidA + "/abc\n0::/system.slice/containerd.service\n", uidA, "/system.slice/containerd.service"},
		{"0::/../../kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice/cri-containerd-ab.scope\n", uidA,
			"/../../kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(uidA, "-", "_") + ".slice/cri-containerd-ab.scope"},
		{"0::/kubepods/pod" + uidA + "/c/kubepods/pod" + uidB + "/d\n", uidA, "/kubepods/pod" + uidA + "/c/kubepods/pod" + uidB + "/d"},
		{"0::/user.slice/podcast\n", "", "/user.slice/podcast"},
		{"0::/kubepods/pod" + uidA + "x/abc\n", "", "/kubepods/pod" + uidA + "x/abc"},
		{"1:name=systemd:/a:b/pod" + uidS + "\n", uidS, ""},
		{"", "", ""},
		{"rubbish", "", ""},
	} {
		if got := podUID(tc.cgroups); got != tc.uid {
			t.Errorf("%q: pod %q, want %q", tc.cgroups, got, tc.uid)
		}
		if got := unified(tc.cgroups); got != tc.unified {
			t.Errorf("%q: unified %q, want %q", tc.cgroups, got, tc.unified)
		}
	}
}

func TestCgroupName(t *testing.T) {
	mounts := []Mount{{"/sys/fs/cgroup", "/"}, {"/sys/fs/cgroup/unified", "/../.."}, {"/host", "/x"}}
	for path, want := range map[string]string{
		"/sys/fs/cgroup": "/", "/sys/fs/cgroup/a": "/a", "/sys/fs/cgroup/unified/a/b": "/../../a/b",
		"/host": "/x", "/host/y": "/x/y", "/hosts/y": "/", "/elsewhere": "/",
	} {
		if got := CgroupName(mounts, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// What a pod puts in the place of its resolv.conf leads nowhere but into its own root,
// and never makes the reader wait or swell.
func TestResolvConf(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "nameserver 192.0.2.66\n")
	cg, ns := testenv.NewCgroup(t), testenv.NewNetNS(t)
	for _, tc := range []struct {
		name string
		make func(etc string) error
		want string // the text, or of the error
	}{
		{"plain", func(etc string) error {
			return os.WriteFile(etc+"/resolv.conf", []byte("nameserver 192.0.2.53\n"), 0o600)
		}, "nameserver 192.0.2.53\n"},
		{"link inside", func(etc string) error {
			return errors.Join(os.WriteFile(etc+"/real", []byte("search example.org\n"), 0o600), os.Symlink("/etc/real", etc+"/resolv.conf"))
		}, "search example.org\n"},
		{"link outside", func(etc string) error { return os.Symlink(secret, etc+"/resolv.conf") }, "no such file"},
		{"link above", func(etc string) error { return os.Symlink("../../../../../.."+secret, etc+"/resolv.conf") }, "no such file"},
		{"magic link", func(etc string) error { return os.Symlink("/proc/self/root"+secret, etc+"/resolv.conf") }, "no such file"},
		{"missing", func(string) error { return nil }, "no such file"},
		{"directory", func(etc string) error { return os.Mkdir(etc+"/resolv.conf", 0o755) }, "no plain file"},
		{"pipe", func(etc string) error { return unix.Mkfifo(etc+"/resolv.conf", 0o600) }, "no plain file"},
		{"endless", func(etc string) error {
			return errors.Join(os.WriteFile(etc+"/resolv.conf", []byte("#"), 0o600), os.Truncate(etc+"/resolv.conf", 1<<30))
		}, "#" + strings.Repeat("\x00", maxResolvConf-1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Mkdir(root+"/etc", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tc.make(root + "/etc"); err != nil {
				t.Fatal(err)
			}
			cmd, end := startPod(t, cg, "c", ns, root)
			defer end()
			text, err := ResolvConf("/proc", cmd.Process.Pid)
			if text != tc.want && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %d bytes, %v; want %.100q", len(text), err, tc.want)
			}
		})
	}
	if _, err := ResolvConf("/proc", 1<<22+1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
}

// A filesystem that does not answer keeps nobody waiting.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		if _, err := inTime(func() (string, error) { <-release; return "", nil }); !errors.Is(err, ErrSilent) {
			t.Error(err)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkScan is what a look at the node costs when nothing has changed.
func BenchmarkScan(b *testing.B) {
	scanner := NewScanner("/proc", "/", NamespaceID{})
	if _, err := scanner.Scan(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := scanner.Scan(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(scanner.known)), "processes")
}
