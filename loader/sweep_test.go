// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestCgroupRemovedWhileLoaded(t *testing.T) {
	kinds(t, func(t *testing.T, legacy bool) {
		parent := testenv.NewCgroup(t)
		opts := Options{Cgroup: filepath.Join(parent.Path, "app"), BPFFS: testenv.BPFFS(t)}
		if err := os.Mkdir(opts.Cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		d := mustLoad(t, opts, seams{legacy: legacy})
		remove(t, opts.Cgroup)

		_, err := Open(opts)
		wantErr(t, "open", err, ErrCgroupGone)
		_, err = Upgrade(opts)
		wantErr(t, "upgrade", err, ErrCgroupGone)
		all, err := List(opts.BPFFS)
		if err != nil || len(all) != 1 || all[0].Cgroup != "" || !strings.Contains(all[0].Problem, ErrCgroupGone.Error()) {
			t.Errorf("list: %+v, %v, want one whose cgroup is gone", all, err)
		}

		// Another cgroup by that name is another cgroup. Loading sweeps.
		if err := os.Mkdir(opts.Cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err = Open(opts)
		wantErr(t, "open the next", err, ErrNotLoaded)
		next := mustLoad(t, opts, seams{legacy: legacy})
		testenv.Eventually(t, waitMost, func() error {
			if _, err := Sweep(opts.BPFFS); err != nil {
				return err
			}
			if _, err := os.Stat(opts.stateDir(d.id)); !os.IsNotExist(err) {
				return errUnexpected("state of the cgroup that is gone: %v", err)
			}
			return nil
		})
		wantErr(t, "unload what was swept", d.Unload(nil), ErrNotLoaded)
		if err := next.Unload(nil); err != nil {
			t.Error(err)
		}
		wantClean(t, opts)
		remove(t, opts.Cgroup)
	})
}

func TestUnloadOfRemovedCgroup(t *testing.T) {
	parent := testenv.NewCgroup(t)
	opts := Options{Cgroup: filepath.Join(parent.Path, "app"), BPFFS: testenv.BPFFS(t)}
	if err := os.Mkdir(opts.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	d := mustLoad(t, opts, seams{})
	remove(t, opts.Cgroup)
	testenv.Eventually(t, waitMost, func() error {
		if err := Unload(opts, 0); !errors.Is(err, ErrCgroupGone) {
			return errUnexpected("unload: %v, want %v", err, ErrCgroupGone)
		}
		if _, err := os.Stat(opts.root()); !os.IsNotExist(err) {
			return errUnexpected("state is left: %v", err)
		}
		return nil
	})
	wantErr(t, "unload through what was opened", d.Unload(nil), ErrNotLoaded)
}

// A socket may outlive its cgroup, with its programs: as long as it does, so does the
// datapath.
func TestSweepSparesCgroupWithSockets(t *testing.T) {
	needLinks(t)
	parent := testenv.NewCgroup(t)
	app := filepath.Join(parent.Path, "app")
	if err := os.Mkdir(app, 0o755); err != nil {
		t.Fatal(err)
	}
	opts := Options{Cgroup: app, BPFFS: testenv.BPFFS(t)}
	d := mustLoad(t, opts, seams{})
	orphan := orphanSocket(t, app)
	remove(t, app)
	if swept, err := Sweep(opts.BPFFS); err != nil || len(swept) != 0 {
		t.Errorf("swept %v, %v, although a socket lives", swept, err)
	}
	if _, err := os.Stat(opts.stateDir(d.id)); err != nil {
		t.Errorf("state: %v", err)
	}
	if err := unix.Close(orphan); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, waitMost, func() error {
		if _, err := Sweep(opts.BPFFS); err != nil {
			return err
		}
		if _, err := os.Stat(opts.root()); !os.IsNotExist(err) {
			return errUnexpected("state is left: %v", err)
		}
		return nil
	})
}

// orphanSocket gets a socket of a process of the cgroup, which ends.
func orphanSocket(t *testing.T, cgroup string) int {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	arg, err := json.Marshal(shape{Server: at(primary)})
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.Command(t, "query", string(arg))
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	c := pipe(t, cmd)
	testenv.NewNetNS(t).Start(cmd)
	inode := c.report(t).Socket
	all := namespaces{"": {sockets: map[uint64]*connectedSocket{inode: {procSocket: procSocket{inode: inode}, fd: -1}}}}
	if err := all.collectFrom(cmd.Process.Pid); err != nil || all.missing() {
		t.Fatalf("get socket %d: %v", inode, err)
	}
	if err := c.in.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all[""].sockets[inode].fd
}

// limit: who may not open a cgroup by its id cannot tell that it has gone, and leaves its state.
func TestSweepWithoutCapability(t *testing.T) {
	needLinks(t)
	parent := testenv.NewCgroup(t)
	opts := Options{Cgroup: filepath.Join(parent.Path, "app"), BPFFS: testenv.BPFFS(t)}
	if err := os.Mkdir(opts.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, opts, seams{}).Close()
	remove(t, opts.Cgroup)
	arg, err := json.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	out, err := testenv.Command(t, "sweep", string(arg)).CombinedOutput()
	if err != nil || string(out) != "0\n" {
		t.Errorf("swept without the capability: %s, %v", out, err)
	}
	testenv.Eventually(t, waitMost, func() error {
		swept, err := Sweep(opts.BPFFS)
		if err != nil || len(swept) != 1 {
			return errUnexpected("swept with it: %v, %v", swept, err)
		}
		return nil
	})
}

// runSweep sweeps without CAP_DAC_READ_SEARCH, and prints how many states it removed.
func runSweep(args []string) int {
	var opts Options
	if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
		return 2
	}
	runtime.LockOSThread() // whose capabilities they are
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	data[0].Effective &^= 1 << unix.CAP_DAC_READ_SEARCH
	if err == nil {
		err = unix.Capset(&header, &data[0])
	}
	var swept []uint64
	if err == nil {
		swept, err = Sweep(opts.BPFFS)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(len(swept))
	return 0
}

// What cannot be removed now, as if the process died meanwhile, keeps the name by which the
// next one finds it.
func TestSweepInterrupted(t *testing.T) {
	for _, suffix := range []string{asideSuffix, oldSuffix} {
		t.Run(suffix, func(t *testing.T) {
			opts := pinned(t)
			d := mustLoad(t, opts, seams{})
			left := opts.stateDir(d.id) + suffix
			busy := filepath.Join(left, "maps", "busy")
			if err := errors.Join(os.Rename(opts.stateDir(d.id), left), os.Mkdir(busy, 0o750), unix.Mount("tmpfs", busy, "tmpfs", 0, "")); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := Sweep(opts.BPFFS); !errors.Is(err, unix.EBUSY) {
					t.Errorf("sweep: %v, want %v", err, unix.EBUSY)
				}
			}
			mounts, err := filepath.Glob(opts.root() + "/*/maps/busy")
			if err != nil || len(mounts) != 1 {
				t.Fatalf("mounted at %v, %v", mounts, err)
			}
			if err := unix.Unmount(mounts[0], 0); err != nil {
				t.Fatal(err)
			}
			if swept, err := Sweep(opts.BPFFS); err != nil || len(swept) != 1 {
				t.Errorf("swept %v, %v, want one", swept, err)
			}
			wantClean(t, opts)
		})
	}
}

func TestSweepWithoutState(t *testing.T) {
	testenv.Privileged(t)
	bpffs := testenv.BPFFS(t)
	if swept, err := Sweep(bpffs); err != nil || swept != nil {
		t.Errorf("swept %v, %v, want nothing", swept, err)
	}
	if _, err := os.Stat(Options{BPFFS: bpffs}.root()); !os.IsNotExist(err) {
		t.Errorf("left a directory: %v", err)
	}
	_, err := Sweep(t.TempDir())
	wantErr(t, "sweep a directory", err, ErrNotBPFFS)
}

func TestStateName(t *testing.T) {
	for _, tc := range []struct {
		name   string
		id     uint64
		suffix string
		ours   bool
	}{
		{"12", 12, "", true},
		{"12_new", 12, asideSuffix, true},
		{"12_old", 12, oldSuffix, true},
		{"0", 0, "", true},
		{"012", 0, "", false},
		{"+12", 0, "", false},
		{"_new", 0, "", false},
		{"12_new_old", 0, "", false},
		{"12_next", 0, "", false},
		{"links", 0, "", false},
		{"18446744073709551616", 0, "", false},
	} {
		id, suffix, ours := stateName(tc.name)
		if ours != tc.ours || ours && (id != tc.id || suffix != tc.suffix) {
			t.Errorf("stateName(%q) = %d, %q, %v", tc.name, id, suffix, ours)
		}
	}
}
