// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// TestAnotherServer: dig @server is answered by that server, and says so, unless the table
// has the name.
func TestAnotherServer(t *testing.T) {
	p := newPlace(t)
	client, server := testenv.NewLink(t)
	p.NetNS = client
	other := netip.MustParseAddrPort("192.0.2.7:53")
	for _, addr := range []netip.AddrPort{nameserver, other} {
		testenv.Nameserver(t, server, addr, nil)
	}
	hosts := writeHosts(t, "198.51.100.20")
	for _, tc := range []struct {
		at   netip.Addr
		name string
		want string
	}{
		{other.Addr(), "www.example.org", testenv.AnswerOf(other.Addr()).String()},
		{nameserver.Addr(), "www.example.org", testenv.AnswerOf(nameserver.Addr()).String()},
		{other.Addr(), tableName, "198.51.100.20"},
	} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			cmd := p.Command(t, "exec", "--hosts", hosts, "--", "dig", "+noall", "+answer", "+stats", transport, "+tries=1", "@"+tc.at.String(), tc.name, "A")
			stdout, stderr := run(t, p, cmd)
			if !strings.Contains(stdout, "\tA\t"+tc.want+"\n") || !strings.Contains(stdout, ";; SERVER: "+tc.at.String()+"#53(") {
				t.Errorf("dig %s @%s %s, want %s:\n%s%s", transport, tc.at, tc.name, tc.want, stdout, stderr)
			}
		}
	}
}
