// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"encoding/binary"
	"os/exec"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The two conntrack zones of a sidecar since Istio 1.11.
const (
	zoneUpstream    = 1 // proxy and nameserver
	zoneApplication = 2 // application and proxy
)

// Netfilter redirects DNS with three rules in nat/OUTPUT, those of a sidecar.
func Netfilter() Interceptor { return netfilter{name: "netfilter"} }

// Zones is Netfilter with the flows of the proxy and of applications in conntrack
// zones of their own, so that neither inherits from the other.
func Zones() Interceptor { return netfilter{name: "zones", zones: true} }

type netfilter struct {
	name  string
	zones bool
}

func (n netfilter) Name() string                      { return n.name }
func (n netfilter) OwnResolver() bool                 { return false }
func (n netfilter) Command(_ testing.TB, _ *exec.Cmd) {}
func (n netfilter) Verdicts(testing.TB) Verdicts      { return Verdicts{} }

// Install speaks netlink, so no iptables is needed. The rules end with the
// client's namespace.
func (n netfilter) Install(tb testing.TB, w *World) {
	tb.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(w.Client.File().Fd())))
	if err != nil {
		tb.Fatalf("open netfilter: %v", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "seed"})
	redirect(conn, table)
	if n.zones {
		separate(conn, table)
	}
	if err := conn.Flush(); err != nil {
		tb.Fatalf("install netfilter rules: %v", err)
	}
}

// redirect makes nat/OUTPUT: what the proxy sends returns, the rest goes to it.
func redirect(conn *nftables.Conn, table *nftables.Table) {
	chain := conn.AddChain(&nftables.Chain{
		Name:     "nat-output",
		Table:    table,
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest,
	})
	port := make([]byte, 2)
	binary.BigEndian.PutUint16(port, proxyPort)
	toProxy := []expr.Any{
		&expr.Immediate{Register: 1, Data: port},
		&expr.Redir{RegisterProtoMin: 1},
	}
	addRule(conn, chain, udpPort(destination, dnsPort), owner(expr.MetaKeySKUID), verdict(expr.VerdictReturn))
	addRule(conn, chain, udpPort(destination, dnsPort), owner(expr.MetaKeySKGID), verdict(expr.VerdictReturn))
	addRule(conn, chain, udpPort(destination, dnsPort), toProxy)
}

// separate makes raw/OUTPUT and raw/PREROUTING, which run before conntrack. The
// first zone set wins, hence the owner's rules come first.
func separate(conn *nftables.Conn, table *nftables.Table) {
	output := conn.AddChain(&nftables.Chain{
		Name:     "raw-output",
		Table:    table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityRaw,
	})
	prerouting := conn.AddChain(&nftables.Chain{
		Name:     "raw-prerouting",
		Table:    table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw,
	})
	for _, key := range []expr.MetaKey{expr.MetaKeySKUID, expr.MetaKeySKGID} {
		addRule(conn, output, udpPort(destination, dnsPort), owner(key), zone(zoneUpstream))
		addRule(conn, output, udpPort(source, proxyPort), owner(key), zone(zoneApplication))
	}
	addRule(conn, output, udpPort(destination, dnsPort), zone(zoneApplication))
	addRule(conn, prerouting, udpPort(source, dnsPort), zone(zoneUpstream))
}

func addRule(conn *nftables.Conn, chain *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, part := range parts {
		exprs = append(exprs, part...)
	}
	conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs})
}

// Offsets of the ports in a UDP header.
const (
	source      = 0
	destination = 2
)

func udpPort(offset uint32, port uint16) []expr.Any {
	value := make([]byte, 2)
	binary.BigEndian.PutUint16(value, port)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

// owner matches sockets whose user or group is the proxy's.
func owner(key expr.MetaKey) []expr.Any {
	id := make([]byte, 4)
	binary.NativeEndian.PutUint32(id, proxyOwner)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: id},
	}
}

// zone sets the conntrack zone and ends the chain.
func zone(number uint16) []expr.Any {
	value := make([]byte, 2)
	binary.NativeEndian.PutUint16(value, number)
	return append([]expr.Any{
		&expr.Immediate{Register: 1, Data: value},
		&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true},
	}, verdict(expr.VerdictAccept)...)
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind}}
}
