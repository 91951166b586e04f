// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"fmt"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// ingredient is one thing that the kernel must have for the rules of Netfilter and
// Zones.
type ingredient struct {
	name string // as an operator looks for it, with its kernel module
	use  func(conn *nftables.Conn, chain *nftables.Chain)
}

func ingredients() []ingredient {
	rule := func(exprs ...expr.Any) func(*nftables.Conn, *nftables.Chain) {
		return func(conn *nftables.Conn, chain *nftables.Chain) { addRule(conn, chain, exprs) }
	}
	return []ingredient{
		{"nf_tables with NAT (nf_tables, nft_chain_nat)", func(*nftables.Conn, *nftables.Chain) {}},
		{"the owner match (nft_meta)", rule(owner(expr.MetaKeySKUID)...)},
		{"the redirect target (nft_redir)", rule(&expr.Redir{})},
		{"conntrack zones (nft_ct, CONFIG_NF_CONNTRACK_ZONES)", func(conn *nftables.Conn, chain *nftables.Chain) {
			raw := conn.AddChain(&nftables.Chain{
				Name: "raw", Table: chain.Table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
			})
			addRule(conn, raw, zone(zoneUpstream))
		}},
	}
}

// Missing names what this kernel lacks for Netfilter and Zones, with the kernel's own
// words, or is empty. It tries in a namespace of its own.
func Missing(tb testing.TB) string {
	tb.Helper()
	return firstMissing(tb, ingredients())
}

func firstMissing(tb testing.TB, all []ingredient) string {
	tb.Helper()
	ns := testenv.NewNetNS(tb)
	for i, ingredient := range all {
		conn, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
		if err == nil {
			table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: fmt.Sprint("probe", i)})
			ingredient.use(conn, conn.AddChain(&nftables.Chain{
				Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
				Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
			}))
			err = conn.Flush()
		}
		if err != nil {
			return fmt.Sprintf("%s: %v", ingredient.name, err)
		}
	}
	return ""
}
