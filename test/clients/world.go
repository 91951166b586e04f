// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// bigText is the length of the long text: four times a datagram.
const bigText = 4096

// Knowledge is which names the nameserver has.
type Knowledge int

const (
	// Everything: the table's names too, as if nothing had to be intercepted.
	Everything Knowledge = iota
	// Local: not the table's names; they do not exist for it.
	Local
)

// Hosts is the name table in the format of /etc/hosts.
const Hosts = `198.51.100.20     reviews.cluster2.example.org
198.51.100.21     ratings.cluster2.example.org
2001:db8:100::21  ratings.cluster2.example.org
`

// local are the nameserver's own names.
const local = `
@    SOA ns hostmaster 1 3600 600 86400 300
www  CNAME web
web  A 198.51.100.80
web  AAAA 2001:db8:100::80
`

// remote are the names of the table, as the nameserver writes them.
const remote = `
reviews.cluster2  A 198.51.100.20
ratings.cluster2  A 198.51.100.21
ratings.cluster2  AAAA 2001:db8:100::21
`

// hostAddrs are all addresses in answers; a web server listens on each.
var hostAddrs = []string{
	"198.51.100.20/32", "198.51.100.21/32", "198.51.100.80/32",
	"2001:db8:100::21/128", "2001:db8:100::80/128",
}

// World is a client namespace and the nameserver that its resolv.conf names.
type World struct {
	Client     *testenv.NetNS
	Nameserver *testenv.Server // 192.0.2.53
}

// NewWorld makes a world whose nameserver knows so much. Behind every address it
// gives out is a web server, for clients that only connect.
func NewWorld(tb testing.TB, knowledge Knowledge) *World {
	tb.Helper()
	client, server := testenv.NewLink(tb)
	text := local + bigRecord()
	if knowledge == Everything {
		text += remote
	}
	addr := netip.MustParseAddrPort("192.0.2.53:53")
	w := &World{
		Client:     client,
		Nameserver: testenv.Nameserver(tb, server, addr, testenv.Zone(tb, "example.org", text)),
	}
	serveWeb(tb, server)
	return w
}

// Start starts cmd in the client namespace with nothing in between.
func (w *World) Start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	w.Client.For(tb).Start(cmd)
}

// bigRecord cuts bigText bytes into character strings, of at most 255 bytes each.
func bigRecord() string {
	const size = 128
	record := new(strings.Builder)
	record.WriteString("big TXT")
	for range bigText / size {
		fmt.Fprintf(record, " %q", strings.Repeat("x", size))
	}
	record.WriteString("\n")
	return record.String()
}

// serveWeb gives the server namespace the addresses and an empty page on each.
func serveWeb(tb testing.TB, server *testenv.NetNS) {
	tb.Helper()
	handle, err := netlink.NewHandleAt(netns.NsHandle(server.File().Fd()))
	if err != nil {
		tb.Fatalf("open netlink: %v", err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		tb.Fatalf("find lo: %v", err)
	}
	for _, cidr := range hostAddrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			tb.Fatalf("parse %s: %v", cidr, err)
		}
		if err := handle.AddrAdd(lo, addr); err != nil {
			tb.Fatalf("add %s to lo: %v", cidr, err)
		}
	}
	var listener net.Listener
	server.Do(func() { listener, err = net.Listen("tcp", "[::]:80") })
	if err != nil {
		tb.Fatalf("listen for a web server: %v", err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(listener) }()
	tb.Cleanup(func() {
		if err := web.Close(); err != nil {
			tb.Errorf("close web server: %v", err)
		}
		<-ended
	})
}
