// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// A second run in the same namespace gets no further than its port, and a run whose
// names are bad no further than those: what steers goes on.
func TestRunTwice(t *testing.T) {
	w := newWorld(t)
	first := dnsteer.Run(t, w.place, w.bpffs, "--hosts", w.hosts)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs, "--hosts", w.hosts}, "address already in use"},
		{[]string{"run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs, "--port", "15099"}, "it steers to port 15053, not 15099"},
		{[]string{"unload", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs}, "a 'dnsteer run' uses the datapath"},
	} {
		var stderr strings.Builder
		cmd := w.place.Command(t, tc.args...)
		cmd.Stderr = &stderr
		w.place.Start(t, cmd)
		if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), tc.want) || !strings.Contains(stderr.String(), "hint: ") {
			t.Errorf("dnsteer %q: %v, stderr %q, want a failure, %q and a hint", tc.args, err, &stderr, tc.want)
		}
	}
	if n := dnsteer.Attached(t, w.place.Cgroup); n != 8 {
		t.Errorf("%d programs are attached afterwards, want 8", n)
	}
	first.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// Runs in several namespaces share the datapath of their cgroup. It goes with the last.
func TestRunInTwoNamespaces(t *testing.T) {
	w := newWorld(t)
	first := dnsteer.Run(t, w.place, w.bpffs, "--hosts", w.hosts, "--except", "192.0.2.64/26,192.0.2.99")
	other := w.place
	other.NetNS = testenv.NewNetNS(t)
	second := dnsteer.Run(t, other, w.bpffs, "--hosts", w.hosts, "--except", "192.0.2.99", "--except", "192.0.2.64/26")
	second.AwaitStderr("adopted the datapath")
	if said := second.Stderr(); strings.Contains(said, "--except") {
		t.Errorf("stderr %q, although both runs have the same nameservers", said)
	}
	first.Stop()
	if n := dnsteer.Attached(t, other.Cgroup); n != 8 {
		t.Errorf("%d programs are attached while a run needs them, want 8", n)
	}
	second.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
	dnsteer.AssertGone(t, other, w.bpffs)
}

// What was loaded by hand is there after a run that could not start, and 'unload
// --force' takes it from one that did.
func TestRunOnWhatWasLoaded(t *testing.T) {
	w := newWorld(t)
	d, err := loader.Load(loader.Options{Cgroup: w.place.Cgroup.Path, BPFFS: w.bpffs, Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	for _, tc := range []struct{ command, want string }{
		{"load --only 192.0.2.99 --cgroup " + w.place.Cgroup.Path, ", with --port 15053 and --except 192.0.2.64/26\n"},
		{"status", "nameservers  --except 192.0.2.64/26\n"},
		{"status --json", `"except": [
      "192.0.2.64/26"
    ]`},
	} {
		cmd := w.place.Command(t, append(strings.Fields(tc.command), "--bpffs", w.bpffs)...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		w.place.Start(t, cmd)
		if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), tc.want) {
			t.Errorf("dnsteer %s: %v, %q, want %q", tc.command, err, &out, tc.want)
		}
	}
	cmd := w.place.Command(t, "run", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs, "--names", w.hosts)
	w.place.Start(t, cmd)
	if err := cmd.Wait(); err == nil {
		t.Error("a hosts file was read as YAML")
	}
	if n := dnsteer.Attached(t, w.place.Cgroup); n != 8 {
		t.Errorf("%d programs are attached after a run that failed, want 8", n)
	}
	s := dnsteer.Run(t, w.place, w.bpffs, "--hosts", w.hosts, "--only", "192.0.2.99")
	s.AwaitStderr("warning: it was loaded with --except 192.0.2.64/26, and stays so, while this run has --only 192.0.2.99;")
	cmd = w.place.Command(t, "unload", "--force", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs)
	w.place.Start(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Errorf("unload by force: %v", err)
	}
	s.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}

// Unload also takes away what one that was killed has half loaded or half unloaded.
func TestUnloadOfHalf(t *testing.T) {
	w := newWorld(t)
	for _, suffix := range []string{"_new", "_old"} {
		d, err := loader.Load(loader.Options{Cgroup: w.place.Cgroup.Path, BPFFS: w.bpffs})
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		state, err := filepath.Glob(filepath.Join(w.bpffs, "dnsteer", "*"))
		if err != nil || len(state) != 1 {
			t.Fatalf("state: %v, %v", state, err)
		}
		if err := os.Rename(state[0], state[0]+suffix); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"removed what was left half", "nothing is loaded"} {
			cmd := w.place.Command(t, "unload", "--cgroup", w.place.Cgroup.Path, "--bpffs", w.bpffs)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			w.place.Start(t, cmd)
			if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), want) {
				t.Errorf("unload of what has %s: %v, %q, want %q", suffix, err, &out, want)
			}
			dnsteer.AssertGone(t, w.place, w.bpffs)
		}
	}
}

// A resolver that hangs does not keep a run from ending.
func TestEndWithHungResolver(t *testing.T) {
	w := newWorld(t)
	s := dnsteer.Run(t, w.place, w.bpffs, "--hosts", w.hosts)
	if err := unix.Kill(s.Worker(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	dnsteer.AssertGone(t, w.place, w.bpffs)
}
