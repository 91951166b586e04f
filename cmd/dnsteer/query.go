// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

func queryCommand(ctx context.Context, e env, args []string) error {
	fs := newFlags("query")
	server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), loader.DefaultPort)
	fs.Func("server", fmt.Sprintf("`address` of the resolver (default %s)", server), func(v string) (err error) {
		server, err = netip.ParseAddrPort(v)
		return err
	})
	tcp := fs.Bool("tcp", false, "ask over TCP")
	asJSON := fs.Bool("json", false, "print JSON")
	timeout := fs.Duration("timeout", 6*time.Second, "give up after this `long`")
	if err := parse(e, fs, args, true); err != nil {
		return err
	}
	if fs.NArg() < 1 || fs.NArg() > 2 {
		return usageError{"query: want NAME and at most a TYPE", "query"}
	}
	qtype := "A"
	if fs.NArg() == 2 {
		qtype = fs.Arg(1)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	answer, err := resolver.Query(ctx, server, fs.Arg(0), qtype, *tcp)
	if errors.As(err, new(net.Error)) {
		return withHint(err, fmt.Sprintf("does a resolver of dnsteer listen on %s in this network namespace? 'dnsteer status' tells", server))
	}
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(e, answer)
	}
	return printAnswer(e.stdout, answer)
}

// printAnswer prints records as in a zone file; all else is a comment.
func printAnswer(w io.Writer, a *resolver.Answer) error {
	from := a.Origin
	if from == "" {
		from = "a resolver that is not dnsteer"
	}
	lines := []string{fmt.Sprintf("; %s, from %s", a.Rcode, from)}
	if a.Error != "" {
		lines = append(lines, "; "+a.Error)
	}
	lines = append(lines, a.Records...)
	for _, r := range a.Authority {
		lines = append(lines, "; authority: "+r)
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func printJSON(e env, v any) error {
	encoder := json.NewEncoder(e.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
