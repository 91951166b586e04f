// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func pinned(t *testing.T) Options {
	t.Helper()
	testenv.Privileged(t)
	return Options{Cgroup: testenv.NewCgroup(t).Path, BPFFS: testenv.BPFFS(t)}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestPinnedLife(t *testing.T) {
	opts := pinned(t)
	opts.Port = 15099
	_, err := Open(opts)
	wantErr(t, "open before load", err, ErrNotLoaded)
	_, err = Upgrade(opts)
	wantErr(t, "upgrade before load", err, ErrNotLoaded)
	wantErr(t, "unload before load", Unload(opts, 0), ErrNotLoaded)
	wantClean(t, opts)

	d := mustLoad(t, opts, seams{})
	_, err = Load(opts)
	wantErr(t, "load twice", err, ErrLoaded)
	wantAttached(t, opts.Cgroup, 1)
	before := running(t, opts.Cgroup)
	d.Close()
	d.Close() // twice is fine
	opts.Port = 0
	if d, err = Open(opts); err != nil {
		t.Fatalf("open: %v", err)
	}
	defer d.Close()
	if d.Port() != 15099 {
		t.Errorf("adopted port %d, want 15099", d.Port())
	}
	if changed, err := Upgrade(opts); changed || err != nil {
		t.Errorf("upgrade to the same programs: %v, %v", changed, err)
	}
	if diff := cmp.Diff(before, running(t, opts.Cgroup)); diff != "" {
		t.Errorf("programs changed (-loaded +now):\n%s", diff)
	}
	if err := Unload(opts, 0); err != nil {
		t.Errorf("unload: %v", err)
	}
	wantErr(t, "unload what another has unloaded", d.Unload(nil), ErrNotLoaded)
	_, err = Open(opts)
	wantErr(t, "open after unload", err, ErrNotLoaded)
	wantClean(t, opts)
}

func TestUnpinnedLife(t *testing.T) {
	testenv.Privileged(t)
	for _, tc := range []struct {
		name string
		end  func(*Datapath) error
	}{
		{"close", func(d *Datapath) error { d.Close(); return nil }},
		{"unload", func(d *Datapath) error { return d.Unload(nil) }},
	} {
		for _, legacy := range []bool{false, true} {
			t.Run(tc.name+map[bool]string{true: "/legacy"}[legacy], func(t *testing.T) {
				opts := Options{Cgroup: testenv.NewCgroup(t).Path}
				d := mustLoad(t, opts, seams{legacy: legacy})
				wantAttached(t, opts.Cgroup, 1)
				_, err := Open(opts)
				wantErr(t, "open", err, ErrNotLoaded)
				_, err = Upgrade(opts)
				wantErr(t, "upgrade", err, ErrNotLoaded)
				wantErr(t, "unload by name", Unload(opts, 0), ErrNotLoaded)
				wantAttached(t, opts.Cgroup, 1)
				if err := tc.end(d); err != nil {
					t.Errorf("%s: %v", tc.name, err)
				}
				wantClean(t, opts)
			})
		}
	}
}

func TestBadPlaces(t *testing.T) {
	testenv.Privileged(t)
	cgroup, bpffs, dir := testenv.NewCgroup(t).Path, testenv.BPFFS(t), t.TempDir()
	for _, tc := range []struct {
		name string
		opts Options
		want error
	}{
		{"no such cgroup", Options{Cgroup: cgroup + "/none", BPFFS: bpffs}, ErrCgroupGone},
		{"directory", Options{Cgroup: dir, BPFFS: bpffs}, ErrNotCgroup2},
		{"file of a cgroup", Options{Cgroup: cgroup + "/cgroup.procs", BPFFS: bpffs}, ErrNotCgroup2},
		{"pins in a directory", Options{Cgroup: cgroup, BPFFS: dir}, ErrNotBPFFS},
		{"pins nowhere", Options{Cgroup: cgroup, BPFFS: dir + "/none"}, ErrNotBPFFS},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Load(tc.opts)
			wantErr(t, "load", err, tc.want)
			_, err = Open(tc.opts)
			wantErr(t, "open", err, tc.want)
			_, err = Upgrade(tc.opts)
			wantErr(t, "upgrade", err, tc.want)
			wantErr(t, "unload", Unload(tc.opts, 0), tc.want)
		})
	}
	wantClean(t, Options{Cgroup: cgroup, BPFFS: bpffs})
}

func TestOtherLayout(t *testing.T) {
	opts := pinned(t)
	d := mustLoad(t, opts, seams{})
	about, err := d.about()
	if err != nil {
		t.Fatal(err)
	}
	about.Layout++
	if err := d.maps[bpf.SteerMapSteerAbout].Put(uint32(0), about); err != nil {
		t.Fatal(err)
	}
	_, err = Open(opts)
	wantErr(t, "open", err, ErrLayout)
	_, err = Upgrade(opts)
	wantErr(t, "upgrade", err, ErrLayout)
	_, err = Load(opts)
	wantErr(t, "load", err, ErrLoaded)
	wantAttached(t, opts.Cgroup, 1) // none of that may end it
	if err := Unload(opts, 0); err != nil {
		t.Errorf("unload: %v", err)
	}
	wantClean(t, opts)
}

func TestImpossibleOptions(t *testing.T) {
	opts := pinned(t)
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"port", func(o *Options) { o.Port = 53 }, "port 53"},
		{"only", func(o *Options) { o.Only = make([]netip.Prefix, 1) }, "prefix is invalid"},
		{"except", func(o *Options) { o.Except = make([]netip.Prefix, 1) }, "prefix is invalid"},
	} {
		bad := opts
		tc.change(&bad)
		if _, err := Load(bad); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		wantClean(t, bad)
	}
}

// What is listed reaches the programs, IPv4 as v4-mapped.
func TestNameserverRules(t *testing.T) {
	w := newWorld(t)
	w.opts.Only = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.opts.Except = []netip.Prefix{netip.PrefixFrom(secondary, 32)}
	w.resolve(t, w.load(t))
	for server, want := range map[netip.Addr]netip.Addr{
		primary: fromTable, secondary: testenv.AnswerOf(secondary), primary6: testenv.AnswerOf(primary6),
	} {
		s := shape{Server: at(server)}
		w.startQuerier(t, s).settle(t, 3).wantFrom(t, s, want)
	}
}

// Open takes from what is loaded which nameservers are steered, in whatever words it was told.
func TestNameserversReadBack(t *testing.T) {
	parse := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	for _, tc := range []struct {
		name                 string
		only, except         []netip.Prefix
		wantOnly, wantExcept []netip.Prefix
	}{
		{"all", nil, nil, nil, nil},
		{"only", parse("192.0.2.53/24", "2001:db8::/32", "192.0.2.0/24"), nil, parse("192.0.2.0/24", "2001:db8::/32"), nil},
		{"except", nil, parse("2001:db8::53/128", "192.0.2.53/32"), nil, parse("192.0.2.53/32", "2001:db8::53/128")},
		{"both", parse("192.0.2.0/24"), parse("192.0.2.53/32"), parse("192.0.2.0/24"), parse("192.0.2.53/32")},
		{"in both", parse("192.0.2.0/24", "192.0.2.53/32"), parse("192.0.2.53/32"), parse("192.0.2.0/24"), parse("192.0.2.53/32")},
		{"v4-mapped", nil, parse("::ffff:192.0.2.0/120"), nil, parse("192.0.2.0/24")},
		{"each family", parse("0.0.0.0/0"), parse("::/8"), parse("0.0.0.0/0"), parse("::/8")},
		{"only everything", parse("::/0"), nil, parse("::/0"), nil},
		{"nothing", nil, parse("::/0"), nil, parse("::/0")},
		{"nothing but", parse("192.0.2.0/24"), parse("::/0"), parse("192.0.2.0/24"), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := Options{Only: tc.only, Except: tc.except}
			only, except := opts.rules().lists()
			if diff := cmp.Diff(tc.wantOnly, only, same); diff != "" {
				t.Errorf("only (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.wantExcept, except, same); diff != "" {
				t.Errorf("except (-want +got):\n%s", diff)
			}
			if !opts.SameNameservers(Options{Only: only, Except: except}) {
				t.Error("they are said to differ from what they were made of")
			}
			other := Options{Only: append(parse("198.51.100.53/32"), tc.only...)}
			if opts.SameNameservers(other) {
				t.Errorf("they are said to be %v alone", other.Only)
			}
		})
	}
	opts := pinned(t)
	loaded := opts
	loaded.Only, loaded.Except = parse("192.0.2.0/24", "2001:db8::/32"), parse("192.0.2.53/32")
	mustLoad(t, loaded, seams{})
	d, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := d.Options(); !slices.Equal(got.Only, loaded.Only) || !slices.Equal(got.Except, loaded.Except) {
		t.Errorf("only %v, except %v", got.Only, got.Except)
	}
	mustUnload(t, opts)
}

// As many as there is room for are read back, and one more is no load.
func TestManyNameservers(t *testing.T) {
	opts := pinned(t)
	for i := range 4096 {
		opts.Except = append(opts.Except, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	mustLoad(t, opts, seams{})
	d, err := Open(Options{Cgroup: opts.Cgroup, BPFFS: opts.BPFFS})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got := d.Options(); !got.SameNameservers(opts) {
		t.Errorf("%d nameservers are read back, want %d", len(got.Except), len(opts.Except))
	}
	if err := Unload(opts, 0); err != nil {
		t.Error(err)
	}
	opts.Except = append(opts.Except, netip.PrefixFrom(primary, 32))
	if _, err := Load(opts); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("load with %d nameservers: %v, want %v", len(opts.Except), err, unix.ENOSPC)
	}
	wantClean(t, opts)
}
