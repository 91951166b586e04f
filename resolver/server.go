// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Server answers queries on the sockets that Serve is given. It is safe for
// concurrent use; several Serve may run at once and share table and limits.
type Server struct {
	cfg       Config
	own       *Scope // of Config
	groups    groups
	table     atomic.Pointer[Table]
	cache     *cache // nil if it is off
	chain     Exchanger
	joins     *joinStage
	forwards  turns      // of what waits for upstreams
	forwarder *forwarder // the end of the chain, nil if there is another one
	loops     loopChecks
	metrics   *metrics
	queryLog  *queryLog     // nil if it is off
	drain     time.Duration // bounds the answers after the end
	// turns bounds the goroutines that work on a query. There are more than
	// forwards may be, and forwards above their own limit fail at once: a turn
	// comes soon, whatever the upstreams do.
	turns chan struct{}
	// owed is what answers cost that wait for clients to read.
	owed atomic.Int64

	mu     sync.Mutex     // guards scopes
	scopes map[*Scope]int // that are served, and how often
}

// New makes a Server with an empty table. It fails on an upstream that is none, or
// a negative limit.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, turns: make(chan struct{}, cfg.MaxForwards+shortLived), drain: drainTimeout, scopes: make(map[*Scope]int), metrics: new(metrics), queryLog: newQueryLog(cfg.QueryLog, cfg.QueryLogEvery)}
	s.own = s.newScope(ScopeConfig{MaxForwards: cfg.MaxForwards})
	if err := s.own.Set(Settings{}); err != nil {
		return nil, err
	}
	if cfg.CacheBytes > 0 {
		s.cache = newCache(cfg.CacheBytes)
	}
	s.SetTable(nil)
	s.chain = s.newChain(&forwarder{})
	return s, nil
}

// newChain answers in this order: the name table, the cache, whoever end asks. The
// limit counts those who wait, whether or not they wait for the same answer.
func (s *Server) newChain(end Exchanger) Exchanger {
	s.forwarder, _ = end.(*forwarder)
	s.forwards.most = int64(s.cfg.MaxForwards)
	lookup, fill := s.cache.lookup, s.cache.fill
	if s.cache == nil {
		lookup, fill = none, none
	}
	return chain(end,
		func(next Exchanger) Exchanger {
			return &tableStage{table: s.table.Load, next: next}
		},
		s.catchLoops,
		special,
		route,
		lookup,
		limit,
		s.join,
		fill,
	)
}

// none is the stage that is not there.
func none(next Exchanger) Exchanger { return next }

// Set is Scope.Set for the scope of Serve.
func (s *Server) Set(given Settings) error { return s.own.Set(given) }

// SetSearch replaces the search list of the clients of Serve.
func (s *Server) SetSearch(search []string) { s.own.SetSearch(search) }

// packet is one message as it arrived.
type packet struct {
	wire   []byte
	client netip.AddrPort
	local  netip.Addr
	tcp    bool

	read     time.Time // when
	counters *counters // of the loop that read it
}

// answer gives write the message or messages that answer in; none where silence is
// right. It returns what went wrong with write or, halfway, with a zone transfer.
func (sc *Scope) answer(ctx context.Context, in packet, write func([]byte) error) error {
	req, err := newRequest(in)
	if errors.Is(err, errDrop) {
		sc.server.metrics.dropped.Add(1)
		return nil
	}
	if req == nil {
		reply := malformed(in.wire)
		defer func() { sc.note(in, nil, facts{from: fromFailure, rcode: int(reply[3] & 0xf)}, time.Now()) }()
		return write(reply)
	}
	req.scope = sc
	var res *Response
	if err == nil {
		res, err = sc.server.chain.Exchange(ctx, req)
	}
	return sc.conclude(in, req, res, err, write)
}

// conclude writes what a client gets of a response or an error.
func (sc *Scope) conclude(in packet, req *Request, res *Response, err error, write func([]byte) error) error {
	wire, said := sc.compose(nil, req, res, err)
	if sc.server.queryLog == nil {
		said.msg = nil // a write may take long: nothing but what is written waits
	}
	defer func() { sc.note(in, req, said, time.Now()) }()
	if err != nil || res.rest == nil {
		return write(wire)
	}
	rest, origin := res.rest, res.origin
	defer rest.Close()
	if err := write(wire); err != nil {
		return err
	}
	return relay(req, rest, origin, write)
}

// compose makes what a client gets of a response or an error, in memory that is empty.
func (sc *Scope) compose(wire []byte, req *Request, res *Response, err error) ([]byte, facts) {
	if err == nil {
		return fit(wire, req, res.msg, res.origin), factsOf(res)
	}
	f := asFailure(err)
	sc.log.Debug("query failed", "qname", req.msg.name.String(), "client", req.Client, "err", err)
	return fit(wire, req, failed(req, f), "dnsteer: "+f.text), facts{from: fromFailure, rcode: int(f.rcode), failure: f}
}

// relay writes the rest of a zone transfer.
func relay(req *Request, rest *transfer, origin string, write func([]byte) error) error {
	for {
		m, err := rest.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := write(fit(nil, req, m, origin)); err != nil {
			return err
		}
	}
}

// newRequest reads a message and judges it as RFC 1035, 6891, 8906 and 9619 have
// it. Beside an error the request may be there, for an answer to be made from; nil
// with an error that is not errDrop means that only the header can be read.
func newRequest(in packet) (*Request, error) {
	// Answers to answers make loops, and less than a header has no ID.
	if len(in.wire) < headerLen || in.wire[2]&(bitQR>>8) != 0 {
		return nil, errDrop
	}
	m, err := parseMessage(in.wire)
	if err != nil {
		return nil, err
	}
	req := &Request{Client: in.client, Local: in.local, TCP: in.tcp, msg: m}
	if m.opcode() == opcodeDSO {
		// A session with us, which we do not offer (RFC 8490 section 5.1.1). What
		// stands behind its header are no records.
		return req, &failure{rcode: dns.RcodeNotImplemented, ede: dns.ExtendedErrorCodeNotSupported, text: "DNS stateful operations are not served"}
	}
	if len(m.wire) != len(in.wire) {
		return req, formErr(errTrailing.Error())
	}
	opt, err := m.edns()
	if err != nil {
		return req, formErr(err.Error())
	}
	req.edns = opt
	if opt != nil {
		if err := opt.check(in.tcp); err != nil {
			return req, err
		}
	}
	return req, req.checkOpcode()
}

func (r *Request) checkOpcode() error {
	m := r.msg
	switch {
	case m.opcode() == dns.OpcodeQuery && m.count(countQD) != 1:
		return formErr("not one question") // RFC 9619
	case isPing(m.wire):
		// Only the loop of a UDP socket answers it, see ping.go.
		return &failure{rcode: dns.RcodeRefused, ede: dns.ExtendedErrorCodeNotSupported, text: "ping is answered over UDP"}
	}
	return nil
}

const opcodeDSO = 6
