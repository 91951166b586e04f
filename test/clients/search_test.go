// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// searchList is that of a pod in namespace "a", and what its dnsConfig adds.
const searchList = "search a.svc.cluster.local svc.cluster.local cluster.local corp.example.org\noptions ndots:5 timeout:10 attempts:1"

// meshNames are names of other clusters, as sources give them.
const meshNames = `names:
  b.a.svc.cluster.local: [198.51.100.1, "2001:db8:100::1"]
  b.ns.svc.cluster.local: [198.51.100.2, "2001:db8:100::2"]
  reviews.shop.svc.east.example.org: [198.51.100.3, "2001:db8:100::3"]
  web.corp.example.org: [198.51.100.4, "2001:db8:100::4"]
  short.ns: [198.51.100.5, "2001:db8:100::5"]
`

// many is one more, which has too many addresses for a datagram.
const manyAddresses = 40

var many = func() string {
	var addrs []string
	for i := range manyAddresses {
		addrs = append(addrs, fmt.Sprintf("203.0.113.%d", i+1))
	}
	return "  many.ns.svc.cluster.local: [" + strings.Join(addrs, ", ") + "]\n"
}()

// clusterZone is what the pod's own cluster knows.
const clusterZone = "kubernetes.default.svc A 198.51.100.9\nkubernetes.default.svc AAAA 2001:db8:100::9\n"

// searched are names as an application writes them, and what the nameserver is asked on
// the way: what stands in the search list before the table's name, and never that name,
// nor one that is an expansion of it.
var searched = []struct {
	name      string
	host      string // the last part of its addresses
	forwarded []string
}{
	{"b", "1", nil},
	{"b.ns", "2", []string{"b.ns.a.svc.cluster.local."}},
	{"b.ns.svc", "2", []string{"b.ns.svc.a.svc.cluster.local.", "b.ns.svc.svc.cluster.local."}},
	{"b.ns.svc.cluster.local", "2", nil},
	{"b.ns.svc.cluster.local.", "2", nil},
	{"reviews.shop.svc.east.example.org", "3", nil},
	{"web", "4", []string{"web.a.svc.cluster.local.", "web.cluster.local.", "web.svc.cluster.local."}},
	{"short.ns", "5", nil},
	{"kubernetes.default", "9", []string{"kubernetes.default.a.svc.cluster.local.", "kubernetes.default.svc.cluster.local."}},
}

// TestSearchList asks in a pod as applications do, for names of other clusters and of its
// own, with both C libraries, over UDP and TCP, to a nameserver of each family.
func TestSearchList(t *testing.T) {
	glibc := compile(t, "gcc", "gcc libc6-dev", "libc.c", "-lresolv")
	musl := musl(t)
	for _, tc := range []struct {
		name              string
		library           []string
		nameserver, proto string // of a question; both go over to TCP where an answer is cut
	}{
		{"glibc UDP v4", []string{glibc}, "192.0.2.53", "udp"},
		{"glibc UDP v6", []string{glibc}, "2001:db8::53", "udp"},
		{"glibc TCP v4", []string{glibc}, "192.0.2.53", "tcp"},
		{"glibc TCP v6", []string{glibc}, "2001:db8::53", "tcp"},
		{"musl v4", musl, "192.0.2.53", "udp"},
		{"musl v6", musl, "2001:db8::53", "udp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := "nameserver " + tc.nameserver + "\n" + searchList
			if tc.proto == "tcp" {
				conf += " use-vc"
			}
			client, server := testenv.NewLink(t)
			addr := netip.AddrPortFrom(netip.MustParseAddr(tc.nameserver), 53)
			nameserver := testenv.Nameserver(t, server, addr, testenv.Zone(t, "cluster.local", clusterZone))
			names := filepath.Join(t.TempDir(), "names.yaml")
			if err := os.WriteFile(names, []byte(meshNames+many), 0o644); err != nil {
				t.Fatal(err)
			}
			place := dnsteer.Place{Binary: dnsteer.Build(t), NetNS: client, Cgroup: testenv.NewCgroup(t), ResolvConf: conf}
			service := dnsteer.Run(t, place, testenv.BPFFS(t), "--names", names)
			ask := func(name string, start Start) Answer {
				t.Helper()
				nameserver.Reset()
				return parseLines(run(t, []*exec.Cmd{etc.Command(t, conf, append(tc.library, string(Address), name)...)}, start))
			}
			steered := func(tb testing.TB, cmd *exec.Cmd) {
				tb.Helper()
				place.Cgroup.Enter(cmd)
				client.For(tb).Start(cmd)
			}
			// With nothing in between: it is the protocol that is meant, and not the table.
			ask("b", func(tb testing.TB, cmd *exec.Cmd) { client.For(tb).Start(cmd) })
			if queries := nameserver.Queries(); len(queries) == 0 || queries[0].Proto != tc.proto {
				t.Errorf("without dnsteer the nameserver is asked %v, want %s", queries, tc.proto)
			}
			for _, s := range searched {
				want := Answer{Addrs: []string{"198.51.100." + s.host, "2001:db8:100::" + s.host}}
				if diff := cmp.Diff(want, ask(s.name, steered)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", s.name, diff)
				}
				if diff := cmp.Diff(s.forwarded, asked(nameserver)); diff != "" {
					t.Errorf("the nameserver was asked for %s (-want +got):\n%s", s.name, diff)
				}
			}
			// No datagram without EDNS has room for so many addresses.
			if got := ask("many.ns", steered).Addrs; len(got) != manyAddresses {
				t.Errorf("many.ns has %d addresses, want %d: %v", len(got), manyAddresses, got)
			}
			if calls := service.Calls(); calls[loader.Steered] == 0 {
				t.Errorf("no call was steered: %v", calls)
			}
			service.Stop()
		})
	}
}

// asked are the names that a nameserver was asked for, each once.
func asked(s *testenv.Server) []string {
	var names []string
	for _, q := range s.Queries() {
		names = append(names, strings.ToLower(q.Name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
