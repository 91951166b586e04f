// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// facts are what there is to say of an answer.
type facts struct {
	from     source
	rcode    int
	saved    bool
	upstream netip.AddrPort
	failure  *failure // instead of an upstream's remarks
	remarks  []option
	msg      *message // which has the remarks
}

func factsOf(res *Response) facts {
	return facts{from: res.from, rcode: res.msg.rcode(), saved: res.saved, upstream: res.upstream, msg: res.msg}
}

// note counts and logs an answer that has just left, but for those of the wire path.
func (sc *Scope) note(in packet, req *Request, a facts, now time.Time) {
	t := in.counters
	if t == nil { // no loop has read it
		t = &sc.server.metrics.sets[0]
	}
	took := now.Sub(in.read)
	t.count(in.tcp, a.from, a.rcode)
	t.durations[a.from].observe(1, took)
	sc.answered[a.from].Add(1)
	if a.saved {
		t.saved.Add(1)
	}
	if log := sc.server.queryLog; log.samples() {
		line := logLine{scope: sc, client: in.client, local: in.local, tcp: in.tcp, took: took, facts: a}
		if req != nil {
			line.name, line.qtype = req.msg.name, req.msg.qtype
		}
		log.write(line)
	}
}

// metrics are those of the server that works on a request.
func (r *Request) metrics() *metrics {
	if r.scope == nil {
		return new(metrics) // a question of our own
	}
	return r.scope.server.metrics
}

// readyNotes is what the wire path counts between a read and the write that answers: a
// clock is read twice for all that were read together.
type readyNotes struct {
	counters *counters
	answered *share // the scope's: one addition for all that were read together
	read     time.Time
	n        [sourceCount]int
	last     facts // of what was added last
}

// begin notes that queries have been read.
func (r *readyNotes) begin(now time.Time) { r.read = now }

// add notes that an answer is on its way, and whether it saved a query upstream.
func (r *readyNotes) add(tcp bool, from source, rcode int, saved bool) {
	r.n[from]++
	r.last = facts{from: from, rcode: rcode}
	r.counters.count(tcp, from, rcode)
	if saved {
		r.counters.saved.Add(1)
	}
}

// log writes a line of the query log for the answer that was added last.
func (p *wirePath) log(client netip.AddrPort, local netip.Addr, tcp bool) {
	if !p.queryLog.samples() {
		return
	}
	p.queryLog.write(logLine{
		scope: p.Scope, client: client, local: local, tcp: tcp, name: wireName(p.q.name), qtype: p.q.qtype, took: time.Since(p.read),
		facts: p.last,
	})
}

// end notes that the answers have left.
func (r *readyNotes) end() {
	if r.n == [sourceCount]int{} {
		return
	}
	took := time.Since(r.read)
	for from, n := range r.n {
		if n > 0 {
			r.counters.durations[from].observe(n, took)
			r.answered[from].Add(uint64(n))
		}
	}
	r.counters.hits.Add(uint64(r.n[fromCache]))
	r.n = [sourceCount]int{}
}

// rcodeName is the rcode's name in metrics and in the query log.
func rcodeName(r int) string {
	if r == dns.RcodeBadVers {
		return "BADVERS" // not BADSIG, which stands in TSIG records
	}
	if name, ok := dns.RcodeToString[r]; ok && r < rcodeCount-1 {
		return name
	}
	return "OTHER"
}
