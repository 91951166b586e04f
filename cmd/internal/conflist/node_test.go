// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const list2 = `{"cniVersion":"1.0.0","name":"second","plugins":[{"type":"ptp"}]}`

// Which file, and what is there afterwards.
func TestChoice(t *testing.T) {
	made := "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    " + conf + ",\n    " + entry + "\n  ]\n}\n"
	for _, tc := range []struct {
		name         string
		before, want map[string]string
		err          error
	}{
		{"empty", nil, map[string]string{}, ErrNone},
		{"others' files only", map[string]string{"README": "x", "10-net.conflist.bak": bare, "20-net.conf.dnsteer-saved": conf},
			map[string]string{"README": "x", "10-net.conflist.bak": bare, "20-net.conf.dnsteer-saved": conf}, ErrNone},
		{"two lists", map[string]string{"10-a.conflist": bare, "20-b.conflist": list2}, map[string]string{"10-a.conflist": chained, "20-b.conflist": list2}, nil},
		{"by bytes, not by number", map[string]string{"9-a.conflist": list2, "10-b.conflist": bare}, map[string]string{"9-a.conflist": list2, "10-b.conflist": chained}, nil},
		{"capitals first", map[string]string{"a.conflist": list2, "Z.conflist": bare}, map[string]string{"a.conflist": list2, "Z.conflist": chained}, nil},
		{"hidden ones too", map[string]string{"10-a.conflist": list2, ".net.conflist": bare}, map[string]string{"10-a.conflist": list2, ".net.conflist": chained}, nil},
		{"conf before list of its name", map[string]string{"10-a.conf": conf, "10-a.conflist": list2},
			map[string]string{"10-a.conf.conflist": made, "10-a.conf.dnsteer-saved": conf, "10-a.conflist": list2}, nil},
		{"list before conf", map[string]string{"10-a.conflist": bare, "10-b.conf": conf}, map[string]string{"10-a.conflist": chained, "10-b.conf": conf}, nil},
		{"json", map[string]string{"10-a.json": conf}, map[string]string{"10-a.json.conflist": made, "10-a.json.dnsteer-saved": conf}, nil},
		{"first is half written", map[string]string{"10-a.conflist": bare[:30], "20-b.conflist": list2}, map[string]string{"10-a.conflist": bare[:30], "20-b.conflist": list2}, ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, tc.before)
			if _, err := n.Install(); !errors.Is(err, tc.err) {
				t.Fatalf("install: %v, want %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, files(t, n)); diff != "" {
				t.Errorf("installed (-want +got):\n%s", diff)
			}
			if tc.err != nil {
				return
			}
			if _, err := n.Uninstall(); err != nil {
				t.Fatalf("uninstall: %v", err)
			}
			if diff := cmp.Diff(tc.before, files(t, n)); diff != "" {
				t.Errorf("uninstalled (-before +after):\n%s", diff)
			}
		})
	}
}

// A directory that is not there yet is one without configurations.
func TestNoDirectory(t *testing.T) {
	n := newNode(t, nil)
	n.ConfDir += "/none"
	if _, err := n.Install(); !errors.Is(err, ErrNone) {
		t.Errorf("install: %v, want ErrNone", err)
	}
	if changed, err := n.Uninstall(); err != nil || len(changed) > 0 {
		t.Errorf("uninstall: %v, %v", changed, err)
	}
}

// Mode and owner stay, of a list and of what a .conf becomes.
func TestModeAndOwner(t *testing.T) {
	testenv.Privileged(t)
	for _, tc := range []struct{ before, text, after string }{
		{"10-a.conflist", bare, "10-a.conflist"},
		{"10-a.conf", conf, "10-a.conf.conflist"},
	} {
		for _, mode := range []os.FileMode{0o600, 0o644, 0o664, 0o400} {
			t.Run(fmt.Sprintf("%s/%o", tc.before, mode), func(t *testing.T) {
				n := newNode(t, map[string]string{tc.before: tc.text})
				path := filepath.Join(n.ConfDir, tc.before)
				if err := errors.Join(os.Chown(path, 1001, 1002), os.Chmod(path, mode)); err != nil {
					t.Fatal(err)
				}
				install(t, n)
				checkOwner(t, filepath.Join(n.ConfDir, tc.after), mode)
				if _, err := n.Uninstall(); err != nil {
					t.Fatal(err)
				}
				checkOwner(t, path, mode)
			})
		}
	}
}

func checkOwner(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1001 || st.Gid != 1002 || info.Mode() != mode {
		t.Errorf("%s is of %d:%d, %v, want 1001:1002, %v", path, st.Uid, st.Gid, info.Mode(), mode)
	}
}

// What is not a file in the directory is not followed, read or replaced.
func TestOddFiles(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"link", func(path string) error { return os.Symlink(filepath.Dir(path)+"/../plugin", path) }, "symbolic link"},
		{"dangling link", func(path string) error { return os.Symlink("/nowhere", path) }, "symbolic link"},
		{"pipe", func(path string) error { return syscall.Mkfifo(path, 0o600) }, "not a file"},
		{"giant", func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, maxSize+1))
		}, "not a file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, nil)
			path := filepath.Join(n.ConfDir, "10-a.conflist")
			if err := tc.make(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.Install(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("install: %v, want %q", err, tc.want)
			}
			_, _ = n.Uninstall() // it may say that it cannot read it
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced: %v", err)
			}
		})
	}
}

// A directory by that name is none of the configurations.
func TestDirectoryNamedList(t *testing.T) {
	n := newNode(t, map[string]string{"20-a.conflist": bare})
	if err := os.Mkdir(filepath.Join(n.ConfDir, "10-a.conflist"), 0o755); err != nil {
		t.Fatal(err)
	}
	install(t, n)
	if got := read(t, filepath.Join(n.ConfDir, "20-a.conflist")); got != chained {
		t.Errorf("got %s", got)
	}
}

// An entry that says something else is brought up to date in its place, and a version
// with which no pod would start loses it.
func TestChangedEntry(t *testing.T) {
	n := newNode(t, map[string]string{"10-a.conflist": chained})
	n.Entry = Entry{Socket: "/run/other.sock", Timeout: "1s", Required: true}
	install(t, n)
	path := filepath.Join(n.ConfDir, "10-a.conflist")
	want := strings.Replace(chained, `true}}`, `true},"socket":"/run/other.sock","timeout":"1s","required":true}`, 1)
	if got := read(t, path); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	newer := func(text string) string { return strings.Replace(text, "1.0.0", "1.2.0", 1) }
	write(t, path, newer(want))
	changed, err := n.Install()
	if !errors.Is(err, ErrVersion) || len(changed) != 1 {
		t.Errorf("install: %v, %v, want ErrVersion and a change", changed, err)
	}
	if got := read(t, path); got != newer(bare) {
		t.Errorf("got %s", got)
	}
}

// What others do to a .conf that we made a list of.
func TestConfLife(t *testing.T) {
	later := strings.Replace(conf, "bridge", "later", 1)
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, n Node)
		want map[string]string // after Uninstall
	}{
		{"nothing", func(*testing.T, Node) {}, map[string]string{"10-a.conf": conf}},
		{"written anew", func(t *testing.T, n Node) { write(t, filepath.Join(n.ConfDir, "10-a.conf"), later) }, map[string]string{"10-a.conf": later}},
		{"written anew and installed", func(t *testing.T, n Node) {
			write(t, filepath.Join(n.ConfDir, "10-a.conf"), later)
			if changed := install(t, n); len(changed) != 1 {
				t.Errorf("changed %v", changed)
			}
			if got := files(t, n)["10-a.conf.conflist"]; !strings.Contains(got, "later") {
				t.Errorf("the list is still %s", got)
			}
		}, map[string]string{"10-a.conf": later}},
		{"chained after us", func(t *testing.T, n Node) {
			path := filepath.Join(n.ConfDir, "10-a.conf.conflist")
			write(t, path, strings.Replace(read(t, path), entry, entry+`,{"type":"mesh"}`, 1))
			install(t, n)
		}, map[string]string{"10-a.conf.conflist": "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    " + conf + `,{"type":"mesh"}` + "\n  ]\n}\n"}},
		{"list removed", func(t *testing.T, n Node) {
			if err := os.Remove(filepath.Join(n.ConfDir, "10-a.conf.conflist")); err != nil {
				t.Fatal(err)
			}
		}, map[string]string{"10-a.conf": conf}},
		{"died before the rename", func(t *testing.T, n Node) {
			path := filepath.Join(n.ConfDir, "10-a.conf")
			if err := os.Rename(path+savedExt, path); err != nil {
				t.Fatal(err)
			}
			install(t, n)
		}, map[string]string{"10-a.conf": conf}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, map[string]string{"10-a.conf": conf})
			install(t, n)
			tc.do(t, n)
			if _, err := n.Uninstall(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, files(t, n)); diff != "" {
				t.Errorf("uninstalled (-want +got):\n%s", diff)
			}
		})
	}
}

// A list of that name which is not ours is not overwritten.
func TestConfWithForeignList(t *testing.T) {
	before := map[string]string{"10-a.conf": conf, "10-a.conf.conflist": list2}
	n := newNode(t, before)
	if _, err := n.Install(); err == nil || !strings.Contains(err.Error(), "is not ours") {
		t.Errorf("install: %v", err)
	}
	if diff := cmp.Diff(before, files(t, n)); diff != "" {
		t.Errorf("it was touched (-before +after):\n%s", diff)
	}
}

// The binary is put there whole, executable, and once.
func TestBinary(t *testing.T) {
	n := newNode(t, map[string]string{"10-a.conflist": chained})
	path := filepath.Join(n.BinDir, PluginName)
	for _, step := range []struct {
		name string
		do   func() error
		want int // changes
	}{
		{"absent", func() error { return nil }, 1},
		{"in place", func() error { return nil }, 0},
		{"of another version", func() error { return os.WriteFile(path, []byte("other!"), 0o755) }, 1},
		{"not executable", func() error { return os.Chmod(path, 0o644) }, 1},
		{"a link", func() error { return errors.Join(os.Remove(path), os.Symlink(n.Plugin, path)) }, 1},
		{"removed", func() error { return os.RemoveAll(n.BinDir) }, 1},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if changed := install(t, n); len(changed) != step.want {
			t.Errorf("%s: changed %v", step.name, changed)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o755 || read(t, path) != "binary" {
			t.Errorf("%s: %v, %v", step.name, info, err)
		}
	}
	if err := errors.Join(n.RemoveBinary(), n.RemoveBinary()); err != nil {
		t.Error(err)
	}
	n.Plugin += ".none"
	if changed, err := n.Install(); !errors.Is(err, os.ErrNotExist) || len(changed) > 0 {
		t.Errorf("without a binary to install: %v, %v", changed, err)
	}
}

// What a dead process left is removed, what a living one is writing is not.
func TestSweep(t *testing.T) {
	n := newNode(t, map[string]string{".dnsteer-1-10-a.conflist.tmp": "x", "10-a.conflist": chained, ".dnsteer-notes": "mine"})
	sweep(n.ConfDir, time.Hour)
	if got := files(t, n); len(got) != 3 {
		t.Errorf("young files: %v", got)
	}
	sweep(n.ConfDir, 0)
	if diff := cmp.Diff(map[string]string{"10-a.conflist": chained, ".dnsteer-notes": "mine"}, files(t, n)); diff != "" {
		t.Errorf("old files (-want +got):\n%s", diff)
	}
}
