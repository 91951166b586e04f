// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/istiod"
)

// mesh is a table as istiod makes one: Services, a headless one with its endpoints,
// ServiceEntries with addresses of their own and with allotted ones, wildcards.
func mesh() map[string]istiod.Info {
	return map[string]istiod.Info{
		"reviews.shop.svc.cluster.local": istiod.Kubernetes("reviews", "shop", "192.0.2.10", "2001:db8::10"),
		"db.shop.svc.cluster.local":      istiod.Kubernetes("db", "shop", "192.0.2.21", "192.0.2.22"),
		"db-0.db.shop.svc.cluster.local": istiod.Kubernetes("db-0.db", "shop", "192.0.2.21"),
		"db-1.db.shop.svc.cluster.local": istiod.Kubernetes("db-1.db", "shop", "192.0.2.22"),
		"ratings.shop.svc.west.example":  istiod.Kubernetes("ratings", "shop", "192.0.2.30"),
		"Pay.Example.org":                istiod.External("240.240.0.1", "2001:2::1"),
		"v6.example.org":                 istiod.External("2001:db8::66"),
		"none.example.org":               istiod.External(),
		"net.example.org":                istiod.External("192.0.2.0/24", "nonsense", "0.0.0.0"),
		"some.example.org":               istiod.External("192.0.2.0/24", "192.0.2.44", "192.0.2.44", "::ffff:192.0.2.45"),
		"*.apps.example.org":             istiod.External("192.0.2.50"),
		"special.apps.example.org":       istiod.External("192.0.2.51"),
		"*.deep.apps.example.org":        istiod.External("192.0.2.52"),
		"absolute.example.org.":          istiod.External("192.0.2.60"),
		"mcs.shop.svc.clusterset.local":  {IPs: []string{"192.0.2.70"}, Registry: "Kubernetes"},
		"*":                              istiod.External("192.0.2.99"),
		"*prefix.example.org":            istiod.External("192.0.2.99"),
	}
}

// What the sidecar's proxy answers of a table, in both forms of xDS.
func TestMesh(t *testing.T) {
	for _, isOld := range []bool{false, true} {
		t.Run(map[bool]string{false: "delta", true: "state of the world"}[isOld], func(t *testing.T) {
			i := &istiod.Server{IsOld: isOld}
			i.Start(t, "127.0.0.1:0")
			i.Serve(t, mesh())
			b := newBench(t, plain(i), "shop.svc.cluster.local", "svc.cluster.local", "cluster.local")
			<-b.source.Served()
			for _, tc := range []struct {
				name, qtype string
				want        []string
			}{
				{"reviews.shop.svc.cluster.local", "A", []string{"A 192.0.2.10"}},
				{"REVIEWS.shop.svc.cluster.LOCAL", "AAAA", []string{"AAAA 2001:db8::10"}},
				{"db.shop.svc.cluster.local", "A", []string{"A 192.0.2.21", "A 192.0.2.22"}},
				{"db-1.db.shop.svc.cluster.local", "A", []string{"A 192.0.2.22"}},
				{"ratings.shop.svc.west.example", "A", []string{"A 192.0.2.30"}},
				{"mcs.shop.svc.clusterset.local", "A", []string{"A 192.0.2.70"}},
				{"pay.example.org", "A", []string{"A 240.240.0.1"}},
				{"pay.example.org", "AAAA", []string{"AAAA 2001:2::1"}},
				{"some.example.org", "A", []string{"A 192.0.2.44", "A 192.0.2.45"}},
				{"absolute.example.org", "A", []string{"A 192.0.2.60"}},
				// Other types, and the other family, are no data, with an SOA.
				{"v6.example.org", "A", nil},
				{"reviews.shop.svc.cluster.local", "HTTPS", nil},
				{"reviews.shop.svc.cluster.local", "TXT", nil},
				{"pay.example.org", "HTTPS", nil},
				// What a host of a ServiceEntry has elsewhere is asked there.
				{"pay.example.org", "TXT", []string{unknown}},
				// Hosts without an address are left to the nameserver.
				{"none.example.org", "A", []string{unknown}},
				{"net.example.org", "A", []string{unknown}},
				{"other.shop.svc.cluster.local", "A", []string{unknown}},
				// SRV of a name that is not in the table too: a table has no ports.
				{"_http._tcp.reviews.shop.svc.cluster.local", "SRV", []string{unknown}},
				// A wildcard reaches any depth, but for where a longer one does.
				{"a.apps.example.org", "A", []string{"A 192.0.2.50"}},
				{"b.a.apps.example.org", "A", []string{"A 192.0.2.50"}},
				{"special.apps.example.org", "A", []string{"A 192.0.2.51"}},
				{"x.deep.apps.example.org", "A", []string{"A 192.0.2.52"}},
				{"apps.example.org", "A", []string{unknown}},
				// Not so in DNS: names that exist keep wildcards away.
				{"below.special.apps.example.org", "A", []string{"A 192.0.2.50"}},
				{"deep.apps.example.org", "A", []string{"A 192.0.2.50"}},
				// What the client's own search list makes of a name.
				{"pay.example.org.shop.svc.cluster.local", "A", []string{"A 240.240.0.1", "CNAME pay.example.org."}},
				{"x.apps.example.org.svc.cluster.local", "A", []string{"A 192.0.2.50", "CNAME x.apps.example.org."}},
				// Short names are the search list's.
				{"reviews", "A", []string{unknown}},
				{"reviews.shop", "A", []string{unknown}},
				// Addresses give no names back unless told.
				{"10.2.0.192.in-addr.arpa", "PTR", []string{unknown}},
			} {
				if got, _ := b.ask(t, tc.name, tc.qtype); !slices.Equal(got, tc.want) {
					t.Errorf("%s %s is %q, want %q", tc.name, tc.qtype, got, tc.want)
				}
			}
			if _, origin := b.ask(t, "pay.example.org", "A"); origin != "table istio "+i.Address() {
				t.Errorf("origin %q", origin)
			}
			// What cannot be a name is left out, and said.
			b.log.Saw(t, patience, "leave records out", "*prefix.example.org")
			waitFor(t, i, "the table is taken", func(s istiod.Seen) bool { return s.Taken == s.Version && len(s.Faults) == 0 })
		})
	}
}

// A table replaces the one before: names come, change, go; nobody else's suffer.
func TestUpdates(t *testing.T) {
	for _, isOld := range []bool{false, true} {
		t.Run(map[bool]string{false: "delta", true: "state of the world"}[isOld], func(t *testing.T) {
			i := &istiod.Server{IsOld: isOld}
			i.Start(t, "127.0.0.1:0")
			b := newBench(t, plain(i))
			// Before there is a table the nameserver is asked.
			if got, _ := b.ask(t, "a.example.org", "A"); !slices.Equal(got, []string{unknown}) {
				t.Errorf("before: %q", got)
			}
			i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1"), "b.example.org": istiod.External("192.0.2.2"), "*.w.example.org": istiod.External("192.0.2.3")})
			b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
			b.eventually(t, "x.w.example.org", "A", "A 192.0.2.3")
			i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.9"), "c.example.org": istiod.External("192.0.2.4")})
			b.eventually(t, "a.example.org", "A", "A 192.0.2.9")
			b.eventually(t, "c.example.org", "A", "A 192.0.2.4")
			for _, name := range []string{"b.example.org", "x.w.example.org"} {
				if got, _ := b.ask(t, name, "A"); !slices.Equal(got, []string{unknown}) {
					t.Errorf("%s is still %q", name, got)
				}
			}
			i.Serve(t, nil)
			b.eventually(t, "a.example.org", "A", unknown)
			if n := b.names.Table().Names(); n != 0 {
				t.Errorf("%d names are left", n)
			}
		})
	}
}

// A delta may say that the table is gone.
func TestRemoval(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	b := newBench(t, plain(i))
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	waitFor(t, i, "the table is taken", func(s istiod.Seen) bool { return s.Taken == s.Version && s.Deltas == 1 })
	i.Remove()
	b.eventually(t, "a.example.org", "A", unknown)
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.2")})
	b.eventually(t, "a.example.org", "A", "A 192.0.2.2")
}

// What a sidecar that captures DNS says of itself, since istiod leaves out of the table
// what the others have no use for.
func TestNode(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	i.Serve(t, nil)
	c := plain(i)
	c.Cluster, c.Network, c.Domain, c.Families = "east", "vpc-1", "east.example", []string{"ipv4", "ipv6"}
	b := newBench(t, c)
	<-b.source.Served()
	node := i.Seen().Nodes[0]
	if id := strings.Split(node.GetId(), "~"); len(id) != 4 || id[0] != "sidecar" || id[1] != "127.0.0.1" ||
		!strings.HasPrefix(id[2], "dnsteer-") || !strings.HasSuffix(id[2], ".steer") || id[3] != "steer.svc.east.example" {
		t.Errorf("node is %q", node.GetId())
	}
	want := map[string]any{"NAMESPACE": "steer", "CLUSTER_ID": "east", "NETWORK": "vpc-1", "INSTANCE_IPS": "127.0.0.1,2001:db8::1",
		"ISTIO_VERSION": "dnsteer", "DNS_CAPTURE": "true", "DNS_AUTO_ALLOCATE": "true"}
	if got := node.GetMetadata().AsMap(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("metadata is %v, want %v", got, want)
	}
	if got := i.Seen().Headers[0].Get("clusterid"); !slices.Equal(got, []string{"east"}) {
		t.Errorf("clusterid is %q", got)
	}
}

// A table that cannot be read is refused with the reason; the one before stays, and the
// next one counts.
func TestWrongTable(t *testing.T) {
	for _, isOld := range []bool{false, true} {
		t.Run(map[bool]string{false: "delta", true: "state of the world"}[isOld], func(t *testing.T) {
			i := &istiod.Server{IsOld: isOld}
			i.Start(t, "127.0.0.1:0")
			i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
			b := newBench(t, plain(i))
			b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
			good := istiod.Table(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.2"), "b.example.org": istiod.External("192.0.2.3")})
			for n, wrong := range []struct {
				typeURL string
				table   []byte
				fault   string
			}{
				{tableType, good[:len(good)-3], "unexpected EOF"},
				{tableType, []byte("\x0a\x05\x0a\x03\xff\xfe\xfd"), "it is not UTF-8"},
				{"type.googleapis.com/envoy.config.cluster.v3.Cluster", good, "is \"type.googleapis.com/envoy.config.cluster.v3.Cluster\", no name table"},
			} {
				i.Set(wrong.typeURL, wrong.table)
				waitFor(t, i, "the table is refused", func(s istiod.Seen) bool { return len(s.Faults) == n+1 })
				if fault := i.Seen().Faults[n]; !strings.Contains(fault, wrong.fault) {
					t.Errorf("fault %q, want %q", fault, wrong.fault)
				}
				got, origin := b.ask(t, "a.example.org", "A")
				if !slices.Equal(got, []string{"A 192.0.2.1"}) || !strings.Contains(origin, "(wrong for ") {
					t.Errorf("the name is %q, from %s", got, origin)
				}
			}
			b.log.Saw(t, patience, "istiod's table is refused; names stay as they were", "no name table")
			i.Set(tableType, good)
			if origin := b.eventually(t, "a.example.org", "A", "A 192.0.2.2"); strings.Contains(origin, "wrong") {
				t.Errorf("the name is from %s", origin)
			}
		})
	}
}

// A headless Service may have more endpoints than a datagram has room for.
func TestManyEndpoints(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	var many, more []string
	for n := range 200 {
		many = append(many, fmt.Sprintf("192.0.2.%d", n+1))
	}
	for n := range 20000 {
		more = append(more, fmt.Sprintf("10.0.%d.%d", n/200, n%200+1))
	}
	i.Serve(t, map[string]istiod.Info{"many.shop.svc.cluster.local": istiod.Kubernetes("many", "shop", many...), "more.shop.svc.cluster.local": istiod.Kubernetes("more", "shop", more...)})
	b := newBench(t, plain(i))
	<-b.source.Served()
	// The client asks again over TCP where it has to.
	if got, _ := b.ask(t, "many.shop.svc.cluster.local", "A"); len(got) != len(many) {
		t.Errorf("%d addresses, want %d", len(got), len(many))
	}
	got, _ := b.ask(t, "more.shop.svc.cluster.local", "A")
	if len(got) < 1000 || len(got) >= len(more) {
		t.Errorf("%d addresses of %d", len(got), len(more))
	}
	b.log.Saw(t, patience, "records left out: the others fill a message")
}

// What is optional: short names as they are, names of addresses.
func TestOptions(t *testing.T) {
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0")
	hosts := mesh()
	hosts["reviews.old"] = istiod.External("192.0.2.80")
	hosts["reviews.old.svc.cluster.local"] = istiod.Kubernetes("reviews", "old", "192.0.2.81")
	with := istiod.Kubernetes("with", "shop", "192.0.2.82")
	with.Also = []string{"with.shop.svc.clusterset.local"}
	hosts["with.shop.svc.cluster.local"] = with
	i.Serve(t, hosts)
	c := plain(i)
	c.ShortNames, c.Reverse, c.TTL = true, true, 7
	b := newBench(t, c)
	<-b.source.Served()
	for _, tc := range []struct {
		name, qtype string
		want        []string
	}{
		{"reviews.shop", "A", []string{"A 192.0.2.10"}},
		{"reviews.shop.svc", "A", []string{"A 192.0.2.10"}},
		{"db-0.db.shop", "A", []string{"A 192.0.2.21"}},
		{"with.shop.svc.clusterset.local", "A", []string{"A 192.0.2.82"}},
		// The namespace of a bare name is the client's.
		{"reviews", "A", []string{unknown}},
		// A host of that name counts more.
		{"reviews.old", "A", []string{"A 192.0.2.80"}},
		{"reviews.old.svc", "A", []string{"A 192.0.2.81"}},
		// Of another domain nobody knows whose they are.
		{"ratings.shop", "A", []string{unknown}},
		{"1.0.240.240.in-addr.arpa", "PTR", []string{"PTR pay.example.org."}},
	} {
		if got, _ := b.ask(t, tc.name, tc.qtype); !slices.Equal(got, tc.want) {
			t.Errorf("%s %s is %q, want %q", tc.name, tc.qtype, got, tc.want)
		}
	}
	a, err := resolver.Query(t.Context(), b.addr, "reviews.shop", "A", false)
	if err != nil || len(a.Records) != 1 || strings.Fields(a.Records[0])[1] != "7" {
		t.Errorf("%v, %v: want a TTL of 7", a.Records, err)
	}
}
