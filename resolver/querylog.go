// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// queryLog writes a line for each query, or for one in some. Nil is off.
type queryLog struct {
	log   *slog.Logger
	every uint64
	seen  atomic.Uint64
}

func newQueryLog(log *slog.Logger, every int) *queryLog {
	if log == nil {
		return nil
	}
	return &queryLog{log: log, every: uint64(max(every, 1))}
}

// samples tells whether this query is to be logged. It counts.
func (q *queryLog) samples() bool {
	return q != nil && q.seen.Add(1)%q.every == 0
}

// logLine is one line of the query log.
type logLine struct {
	scope  *Scope
	client netip.AddrPort
	local  netip.Addr
	tcp    bool
	name   wireName
	qtype  uint16
	took   time.Duration
	facts
}

func (q *queryLog) write(l logLine) {
	attrs := make([]slog.Attr, 0, 10)
	attrs = append(attrs, slog.Any("client", unmap(l.client)))
	if server, ok := originOf(l.scope.origin, l.local); ok {
		attrs = append(attrs, slog.Any("server", server))
	}
	attrs = append(attrs, slog.String("protocol", protocols[protocolIndex(l.tcp)]))
	if l.name != "" {
		attrs = append(attrs, slog.String("qname", l.name.String()), slog.String("qtype", dns.Type(l.qtype).String()))
	}
	attrs = append(attrs, slog.String("rcode", rcodeName(l.rcode)), slog.String("source", l.from.String()))
	if l.upstream.IsValid() {
		attrs = append(attrs, slog.Any("upstream", l.upstream))
	}
	attrs = append(attrs, slog.Duration("duration", l.took))
	if ede := l.extendedErrors(); ede != "" {
		attrs = append(attrs, slog.String("ede", ede))
	}
	q.log.LogAttrs(context.Background(), slog.LevelInfo, "query", attrs...)
}

// extendedErrors are the extended errors of the answer in words.
func (a *facts) extendedErrors() string {
	var words []string
	remarks := a.remarks
	if a.msg != nil {
		if opt, err := a.msg.edns(); err == nil && opt != nil {
			remarks = opt.options
		}
	}
	if a.failure != nil {
		if a.failure.ede != noEDE {
			words = append(words, fmt.Sprintf("%d %s", a.failure.ede, a.failure.text))
		}
		remarks = a.failure.remarks
	}
	for _, o := range remarks {
		if o.code == dns.EDNS0EDE && len(o.data) >= 2 {
			words = append(words, strings.TrimSpace(fmt.Sprintf("%d %s", binary.BigEndian.Uint16(o.data), o.data[2:])))
		}
	}
	return strings.Join(words, "; ")
}
