// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestEnrolNamespace(t *testing.T) {
	client, _ := testenv.NewLink(t)
	d, err := Load(Options{Cgroup: testenv.NewCgroup(t).Path})
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	defer d.Close()
	primary, source := netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.1")
	scope := Scope{OwnerUID: 1337, OwnerGID: 1338, PrimaryIPv4: primary}
	closed := scope
	closed.FailClosed = true
	node := scope
	node.Node = true

	for _, tc := range []struct {
		name    string
		scope   Scope
		foreign bool
		inside  bool // called by a thread of the namespace
		flags   bpf.SteerScopeFlag
	}{
		{"plain", scope, false, false, 0},
		{"closed", closed, false, false, bpf.SteerScopeFlagSCOPE_CLOSED},
		{"foreign", scope, true, false, bpf.SteerScopeFlagSCOPE_FOREIGN | bpf.SteerScopeFlagSCOPE_UNTAGGED},
		{"of the node", node, false, false, bpf.SteerScopeFlagSCOPE_NODE},
		{"from inside", scope, false, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			enrol := func() { err = d.EnrolNamespace(client.Cookie(), tc.scope, tc.foreign) }
			want := bpf.SteerScope{Flags: tc.flags, OwnerUid: 1337, OwnerGid: 1338}
			want.Primary[familyIPv4] = toAddress(primary)
			if tc.inside {
				client.Do(enrol)
				want.PrimarySource[familyIPv4] = toAddress(source)
				want.Source[familyIPv4] = toAddress(source)
				want.Source[familyIPv6] = toAddress(netip.MustParseAddr("2001:db8::1"))
			} else {
				enrol()
			}
			if err != nil {
				t.Fatal(err)
			}
			var got bpf.SteerScope
			if err := d.maps[bpf.SteerMapSteerEnrolled].Lookup(client.Cookie(), &got); err != nil {
				t.Fatalf("look up: %v", err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("scope (-want +got):\n%s", diff)
			}
		})
	}

	for range 2 { // the second finds nothing, which is no error
		if err := d.WithdrawNamespace(client.Cookie()); err != nil {
			t.Error(err)
		}
	}
	var left bpf.SteerScope
	if err := d.maps[bpf.SteerMapSteerEnrolled].Lookup(client.Cookie(), &left); err == nil {
		t.Error("the namespace is still enrolled")
	}
}

func TestNamespaceCookie(t *testing.T) {
	a, b := testenv.NewNetNS(t), testenv.NewNetNS(t)
	seen := make(map[uint64]bool)
	for _, ns := range []*testenv.NetNS{a, b} {
		ns.Do(func() {
			cookie, err := NamespaceCookie()
			if err != nil {
				t.Fatal(err)
			}
			if want := ns.Cookie(); cookie != want {
				t.Errorf("cookie %d, want %d", cookie, want)
			}
			seen[cookie] = true
		})
	}
	if len(seen) != 2 {
		t.Errorf("two namespaces have %d cookies", len(seen))
	}
}

// What is enrolled on behalf of the node is told from the rest, and stays told until it is
// withdrawn. When there is no room for more, the error says so.
func TestNodeNamespaces(t *testing.T) {
	testenv.Privileged(t)
	d, err := Load(Options{Cgroup: testenv.NewCgroup(t).Path})
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	defer d.Close()
	const first = 1 << 40 // nobody's
	enrolled := d.maps[bpf.SteerMapSteerEnrolled]
	room := uint64(enrolled.MaxEntries())
	var want, others []uint64
	for cookie := uint64(first); cookie < first+8; cookie++ {
		node := cookie%2 == 0
		if node {
			want = append(want, cookie)
		}
		if err := d.EnrolNamespace(cookie, Scope{Node: node}, true); err != nil {
			t.Fatal(err)
		}
	}
	for cookie := uint64(first + 8); cookie < first+room; cookie++ {
		others = append(others, cookie)
	}
	if _, err := enrolled.BatchUpdate(others, make([]bpf.SteerScope, len(others)), nil); err != nil {
		t.Fatal(err)
	}
	got, err := d.NodeNamespaces()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("namespaces of the node (-want +got):\n%s", diff)
	}
	err = d.EnrolNamespace(first+room, Scope{}, false)
	if want := fmt.Sprintf("there are %d already", room); !errors.Is(err, unix.E2BIG) || !strings.Contains(err.Error(), want) {
		t.Errorf("one more: %v, want %q", err, want)
	}
	for _, cookie := range want {
		if err := d.WithdrawNamespace(cookie); err != nil {
			t.Error(err)
		}
	}
	if got, err := d.NodeNamespaces(); err != nil || len(got) > 0 {
		t.Errorf("after they were withdrawn: %d, %v", len(got), err)
	}
}
