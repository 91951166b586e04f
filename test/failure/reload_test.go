// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/etc"
)

// byNewTable is the address of the name after a reload.
var byNewTable = netip.MustParseAddr("198.51.100.21")

// TestReload changes the names under load: a change is noticed, SIGHUP does not wait
// for that, a bad file changes nothing but the log. No query is lost.
func TestReload(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, w *world, signal func(os.Signal))
	}{
		{"changed file", func(t *testing.T, w *world, _ func(os.Signal)) {
			t.Helper()
			w.writeHosts(t, byNewTable)
		}},
		{"replaced file", func(t *testing.T, w *world, _ func(os.Signal)) {
			t.Helper()
			old := w.hosts
			w.hosts += ".new"
			w.writeHosts(t, byNewTable)
			if err := os.Rename(w.hosts, old); err != nil {
				t.Fatalf("replace names: %v", err)
			}
		}},
		{"SIGHUP", func(t *testing.T, w *world, signal func(os.Signal)) {
			t.Helper()
			w.changeUnseen(t, byNewTable)
			signal(unix.SIGHUP)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			service := w.run(t)
			load := w.load(t, patience, Unconnected, PerQuery, Connected, TCP)
			load.await("answered by the table", by(byTable, 0))
			tc.change(t, w, service.Signal)
			load.awaitMany("answered by the new table", 20, by(byNewTable, 0))
			queries := load.stop(0)
			service.Stop()
			assertOneChange(t, queries)
		})
	}
}

// TestReloadResolvConf gives clients a search list: the name that they make with it is one
// of the table from then on, without a restart.
func TestReloadResolvConf(t *testing.T) {
	w := newWorld(t)
	w.place.Etc = etc.Write(t, w.place.ResolvConf)
	service := w.run(t)
	load := w.start(t, plan{Name: tableName + "example.net.", Servers: nameservers, Shapes: []Shape{Unconnected, TCP}, Timeout: patience})
	load.await("answered by its nameserver", by(byNameserver, 0))
	write(t, filepath.Join(w.place.Etc, "resolv.conf"), w.place.ResolvConf+"search example.net\n")
	load.awaitMany("answered by the table", 20, by(byTable, 0))
	assertAnswered(t, load.stop(0))
	service.Stop()
}

// TestReloadBad breaks the names in both formats.
func TestReloadBad(t *testing.T) {
	for _, tc := range []struct{ name, flag, good, bad, want string }{
		{
			"hosts", "--hosts",
			fmt.Sprintf("%s %s\n", byTable, tableName),
			fmt.Sprintf("# changed\n%s %s\n192.0.2.300 web.example.org\n", byNewTable, tableName),
			":3: ",
		},
		{
			"yaml", "--names",
			fmt.Sprintf("names:\n  %s: [%s]\n", tableName, byTable),
			fmt.Sprintf("names:\n  %s: [%s]\n  web.example.org: {address: 192.0.2.1}\n", tableName, byNewTable),
			":3: ",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			file := t.TempDir() + "/names"
			write(t, file, tc.good)
			service := w.runWith(t, tc.flag, file)
			load := w.load(t, patience, Unconnected, PerQuery, Connected, TCP)
			load.await("answered by the table", by(byTable, 0))
			write(t, file, tc.bad)
			service.Signal(unix.SIGHUP)
			service.AwaitStderr("keep the old names: " + file + tc.want)
			load.awaitMany("answered by the old table", 20, by(byTable, now()))
			queries := load.stop(0)
			service.Stop()
			if n := len(queries) - count(queries, by(byTable, 0)); n > 0 {
				t.Errorf("%d of %d queries were not answered by the old table", n, len(queries))
			}
		})
	}
}

// changeUnseen writes other names in such a way that only who reads the file sees it:
// same inode, size and time.
func (w *world) changeUnseen(t *testing.T, addr netip.Addr) {
	t.Helper()
	before, err := os.Stat(w.hosts)
	if err != nil {
		t.Fatalf("look at names: %v", err)
	}
	w.writeHosts(t, addr)
	if err := os.Chtimes(w.hosts, time.Time{}, before.ModTime()); err != nil {
		t.Fatalf("set time of names: %v", err)
	}
	if after, err := os.Stat(w.hosts); err != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		t.Fatalf("the change of names can be seen: %v, %v", after, err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
}

// assertOneChange fails the test unless every query was answered: by the old table, or
// by the new one, and by no other than that from the first new answer on.
func assertOneChange(t *testing.T, queries []query) {
	t.Helper()
	changed := firstEnd(queries, by(byNewTable, 0))
	for _, q := range queries {
		switch {
		case q.Err == "" && q.Answer == byNewTable:
		case q.Err == "" && q.Answer == byTable && q.Start <= changed:
		default:
			t.Errorf("%s to %s, %v after the first new answer: %v: %s", q.Shape, q.Server, q.Start-changed, q.Answer, q.Err)
		}
	}
	t.Logf("%d queries", len(queries))
}
