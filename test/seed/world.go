// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// TableName is a service of the other cluster; only the proxy knows it.
	TableName = "reviews.cluster2.example.org."
	// localSuffix ends the names that only the nameserver knows.
	localSuffix = ".shop.example.org."

	dnsPort   = 53
	proxyPort = 15053
	// proxyOwner is the UID and GID that netfilter's rules exempt.
	proxyOwner = 1337
	// appOwner is an ordinary user.
	appOwner = 1000
)

// What the names resolve to.
var (
	tableAddr = netip.MustParseAddr("198.51.100.20")
	localAddr = netip.MustParseAddr("198.51.100.80")
)

// TableAddr is the address of TableName.
func TableAddr() netip.Addr { return tableAddr }

// LocalAddr is the address of every name that the nameserver knows, *.shop.example.org.
func LocalAddr() netip.Addr { return localAddr }

// World is where the story happens: one pod, one nameserver.
type World struct {
	Client *testenv.NetNS  // the pod: application and proxy
	Server *testenv.NetNS  // the nameserver
	Cgroup *testenv.Cgroup // the pod's processes run in it

	Nameserver netip.AddrPort // whom the application asks
	Proxy      netip.AddrPort // who should answer
	Hosts      string         // the proxy's own names, in the format of /etc/hosts

	upstream *testenv.Server
}

// NewWorld makes a world without a proxy; Tell makes one for each story.
func NewWorld(tb testing.TB) *World {
	tb.Helper()
	client, server := testenv.NewLink(tb)
	w := &World{
		Client:     client,
		Server:     server,
		Cgroup:     testenv.NewCgroup(tb),
		Nameserver: netip.MustParseAddrPort("192.0.2.53:53"),
		Proxy:      netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), proxyPort),
		Hosts:      fmt.Sprintf("%s %s\n", tableAddr, strings.TrimSuffix(TableName, ".")),
	}
	w.upstream = testenv.Nameserver(tb, server, w.Nameserver, dns.HandlerFunc(answerLocal))
	return w
}

// confinePorts makes the kernel choose source ports among those of the story: a
// resolver that takes a random port for each query, as it should, then collides with
// the application too, only not on cue.
func (w *World) confinePorts(tb testing.TB) {
	tb.Helper()
	const path = "/proc/sys/net/ipv4/ip_local_port_range"
	w.Client.Do(func() {
		if err := os.WriteFile(path, fmt.Appendf(nil, "%d %d", firstPort, lastPort), 0); err != nil {
			tb.Fatalf("confine source ports: %v", err)
		}
	})
}

// answerLocal knows every name of the shop and no other.
func answerLocal(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	m.Authoritative = true
	if q := r.Question[0]; strings.HasSuffix(q.Name, localSuffix) {
		m.Answer = []dns.RR{addressRecord(q.Name, localAddr)}
	} else {
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

func addressRecord(name string, addr netip.Addr) dns.RR {
	return &dns.A{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30},
		A:   addr.AsSlice(),
	}
}

// StartProxy runs the stand-in for a mesh sidecar's resolver, and returns when it
// listens.
func (w *World) StartProxy(tb testing.TB) {
	tb.Helper()
	cmd := testenv.Command(tb, roleProxy, w.Proxy.String(), w.Nameserver.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: proxyOwner, Gid: proxyOwner},
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatalf("make pipe: %v", err)
	}
	w.Cgroup.Enter(cmd)
	w.Client.Start(cmd)
	if _, err := io.ReadFull(stdout, make([]byte, len(proxyReady))); err != nil {
		tb.Fatalf("start proxy: %v", err)
	}
}
