// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// Each file with what becomes of it. What was there before us is there after us.
func TestGolden(t *testing.T) {
	for _, path := range testdata(t, "install") {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			before := read(t, path)
			n := newNode(t, map[string]string{name: before})
			install(t, n)
			list := name
			if filepath.Ext(name) != listExt {
				list += listExt
			}
			got := files(t, n)[list]
			if *update {
				write(t, path+".golden", got)
			}
			if diff := cmp.Diff(read(t, path+".golden"), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkLoads(t, filepath.Join(n.ConfDir, list))
			if changed := install(t, n); len(changed) > 0 {
				t.Errorf("installed again, it changed %v", changed)
			}
			if _, err := n.Uninstall(); err != nil {
				t.Errorf("uninstall: %v", err)
			}
			if strings.Contains(before, `"type":"dnsteer-cni"`) || strings.Contains(before, `"type": "dnsteer-cni"`) {
				return // it had entries of ours, and is better without
			}
			if diff := cmp.Diff(map[string]string{name: before}, files(t, n)); diff != "" {
				t.Errorf("uninstalled (-before +after):\n%s", diff)
			}
		})
	}
}

// checkLoads lets the library of the runtimes read it.
func checkLoads(t *testing.T, path string) {
	t.Helper()
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		t.Errorf("a runtime refuses it: %v", err)
		return
	}
	var ours []int
	for i, p := range list.Plugins {
		if p.Network.Type == PluginName {
			ours = append(ours, i)
		}
	}
	if len(ours) != 1 || ours[0] == 0 || list.Name == "" {
		t.Errorf("a runtime sees our entry at %v", ours)
	}
}

// What is taken out of a list that had entries of ours, of whatever version.
func TestRemovePrior(t *testing.T) {
	for _, name := range []string{"prior-version", "prior-not-last", "prior-many", "installed", "installed-relaid"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "install", name+listExt)
			n := newNode(t, map[string]string{"10-net.conflist": read(t, path)})
			if _, err := n.Uninstall(); err != nil {
				t.Fatal(err)
			}
			got := files(t, n)["10-net.conflist"]
			if *update {
				write(t, path+".removed", got)
			}
			if diff := cmp.Diff(read(t, path+".removed"), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is not touched, and why.
func TestRefuse(t *testing.T) {
	for name, want := range map[string]string{
		"empty.conflist":              "half of it",
		"blank.conflist":              "half of it",
		"half.conflist":               "half of it",
		"two-documents.conflist":      "half of it",
		"byte-order-mark.conflist":    "half of it",
		"comment.conflist":            "half of it",
		"trailing-comma.conflist":     "half of it",
		"array.conflist":              "not an object",
		"null.conflist":               "not an object",
		"no-plugins.conflist":         "no plugin to be chained after",
		"no-plugin.conflist":          "no plugin to be chained after",
		"plugins-object.conflist":     "not a list",
		"plugins-strings.conflist":    "plugin 1 has no type",
		"untyped.conflist":            "plugin 1 has no type",
		"twice.conflist":              `"plugins" twice`,
		"alone.conflist":              "no plugin to be chained after",
		"nameless.conflist":           "no name",
		"unversioned.conflist":        `unsupported version of CNI ""`,
		"old.conflist":                `unsupported version of CNI "0.2.0"`,
		"new.conflist":                `unsupported version of CNI "1.2.0"`,
		"new-among-versions.conflist": `unsupported version of CNI "2.0.0"`,
		"list.conf":                   "no plugin to be chained after",
		"old.conf":                    `unsupported version of CNI "0.2.0"`,
		"half.conf":                   "half of it",
		"ours.conf":                   "no plugin to be chained after",
	} {
		t.Run(name, func(t *testing.T) {
			// A second file must not be taken for the first.
			before := map[string]string{name: read(t, filepath.Join("testdata", "refuse", name)), "zz-second.conflist": bare}
			n := newNode(t, before)
			_, err := n.Install()
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want %q with the name of the file", err, want)
			}
			if _, err := n.Uninstall(); err != nil {
				t.Errorf("uninstall: %v", err)
			}
			if diff := cmp.Diff(before, files(t, n)); diff != "" {
				t.Errorf("it was touched (-before +after):\n%s", diff)
			}
		})
	}
	if all := testdata(t, "refuse"); len(all) != 25 {
		t.Errorf("%d files in testdata/refuse, 25 are tried", len(all))
	}
}

func testdata(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", dir))
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".golden" && ext != ".removed" {
			paths = append(paths, filepath.Join("testdata", dir, e.Name()))
		}
	}
	return paths
}

// Whatever the text: what is inserted can be taken out, and nothing else has moved.
func FuzzEdit(f *testing.F) {
	for _, dir := range []string{"install", "refuse"} {
		paths, err := filepath.Glob(filepath.Join("testdata", dir, "*"))
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			f.Add([]byte(read(f, path)))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		bareText, removeErr := remove(text)
		inserted, err := insert(text, Entry{})
		if !bytes.Equal(text, before) {
			t.Fatal("the text itself was changed")
		}
		if err != nil {
			return
		}
		if removeErr != nil {
			t.Fatalf("it can be inserted but not removed: %v", removeErr)
		}
		l, err := scan(inserted)
		if err != nil {
			t.Fatalf("what was inserted is no list: %v: %q", err, inserted)
		}
		if len(l.ours()) != 1 || l.plugins[0].ours {
			t.Errorf("not once, after another: %q", inserted)
		}
		if again, err := insert(inserted, Entry{}); err != nil || !bytes.Equal(again, inserted) {
			t.Errorf("inserted twice: %q, %v", again, err)
		}
		if after, err := remove(inserted); err != nil || !bytes.Equal(after, bareText) {
			t.Errorf("removed: %q, want %q, %v", after, bareText, err)
		}
	})
}
