// SPDX-License-Identifier: Apache-2.0

package resolvconf

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Conf
		v4, v6     string
	}{
		{name: "empty"},
		{
			name: "kubernetes",
			text: "search a.svc.cluster.local svc.cluster.local\nnameserver 192.0.2.10\noptions ndots:5\n",
			want: Conf{
				Nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
				Search:      []string{"a.svc.cluster.local", "svc.cluster.local"},
			},
			v4: "192.0.2.10",
		},
		{
			name: "options",
			text: "options timeout:1 attempts:3 rotate edns0\noptions timeout:99 attempts:-1 attempts:x\n",
			want: Conf{Timeout: 30 * time.Second, Attempts: 3, Rotate: true},
		},
		{
			name: "comments, garbage and both families",
			text: "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\nnameserver x\n\tnameserver  2001:db8::53 \nnameserver 192.0.2.53\n",
			want: Conf{Nameservers: []netip.Addr{netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("192.0.2.53")}},
			v4:   "192.0.2.53", v6: "2001:db8::53",
		},
		{
			name: "the last search or domain counts",
			text: "search a.example.org\ndomain b.example.org\n",
			want: Conf{Search: []string{"b.example.org"}},
		},
		{
			name: "a nameserver with a zone is nobody's primary",
			text: "nameserver fe80::1%eth0\nnameserver 2001:db8::53\n",
			want: Conf{Nameservers: []netip.Addr{netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2001:db8::53")}},
			v6:   "2001:db8::53",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Parse(tc.text)
			opts := cmpopts.EquateComparable(netip.Addr{})
			if diff := cmp.Diff(tc.want, got, opts); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
			if a := got.Primary(netip.Addr.Is4); a.IsValid() != (tc.v4 != "") || a.IsValid() && a.String() != tc.v4 {
				t.Errorf("primary of IPv4 is %v, want %q", a, tc.v4)
			}
			if a := got.Primary(netip.Addr.Is6); a.IsValid() != (tc.v6 != "") || a.IsValid() && a.String() != tc.v6 {
				t.Errorf("primary of IPv6 is %v, want %q", a, tc.v6)
			}
		})
	}
}

// What a runtime tells is read as the file is.
func TestNew(t *testing.T) {
	got := New([]string{"192.0.2.53", "x"}, []string{"example.org"}, []string{"ndots:5", "timeout:2", "rotate", "attempts:9"})
	want := Parse("nameserver 192.0.2.53\nsearch example.org\noptions ndots:5 timeout:2 rotate attempts:9\n")
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || got.Attempts != 5 || !got.Rotate {
		t.Errorf("(-file +told):\n%s", diff)
	}
}

// FuzzParse: whatever a file says, what is made of it is within the bounds of the C
// library, and the same when it is written and read again (resolv.conf(5)).
func FuzzParse(f *testing.F) {
	f.Add("search a.svc.cluster.local svc.cluster.local\nnameserver 192.0.2.10\noptions ndots:5 timeout:1 attempts:2 rotate\n")
	f.Add("# a\n;b\nnameserver fe80::1%eth0\nnameserver\ndomain\toptions\noptions timeout: attempts:-1 rotate:x timeout:9999999999999999999\n")
	f.Fuzz(func(t *testing.T, text string) {
		conf := Parse(text)
		if conf.Timeout < 0 || conf.Timeout > 30*time.Second || conf.Attempts < 0 || conf.Attempts > 5 {
			t.Errorf("%q: timeout %s, %d attempts", text, conf.Timeout, conf.Attempts)
		}
		var again strings.Builder
		for _, a := range conf.Nameservers {
			fmt.Fprintf(&again, "nameserver %s\n", a)
		}
		if len(conf.Search) > 0 {
			fmt.Fprintf(&again, "search %s\n", strings.Join(conf.Search, " "))
		}
		fmt.Fprintf(&again, "options timeout:%d attempts:%d\n", conf.Timeout/time.Second, conf.Attempts)
		if conf.Rotate {
			again.WriteString("options rotate\n")
		}
		if diff := cmp.Diff(conf, Parse(again.String()), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-once +again):\n%s", text, diff)
		}
	})
}
