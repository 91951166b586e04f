// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A loop through another server looks like silence: the question comes back, and waits
// for the answer to itself. So one with a name that nobody can guess goes to a silent
// upstream, now and then; if it arrives here, the upstream leads back to us.

// loopSuffix is what these names have in common.
var loopSuffix = mustName("dnsteer-loop")

const (
	// loopCheck is how often a silent upstream is checked, and how long it is left alone
	// if it leads back: who mends that does not want to wait.
	loopCheck = 30 * time.Second
	// loopWait is how long the question may take.
	loopWait = 2 * time.Second
)

var errLoop = errors.New("leads back to this resolver")

// loopChecks are such questions on their way.
type loopChecks struct {
	mu  sync.Mutex // guards out
	out map[wireName]chan struct{}
}

// begin makes a name, and closes back when that arrives before end.
func (l *loopChecks) begin() (name wireName, back chan struct{}) {
	var secret [16]byte
	_, _ = rand.Read(secret[:]) // crypto/rand does not fail
	label := hex.EncodeToString(secret[:])
	name, back = wireName(byte(len(label)))+wireName(label)+loopSuffix, make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		l.out = make(map[wireName]chan struct{})
	}
	l.out[name] = back
	return name, back
}

func (l *loopChecks) end(name wireName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.out, name)
}

// arrive reports whether a name is one of ours.
func (l *loopChecks) arrive(name wireName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	back, ok := l.out[name]
	if ok {
		delete(l.out, name) // it may come more than once
		close(back)
	}
	return ok
}

// catchLoops answers the questions that have come back. Those of other servers like this
// one go on.
func (s *Server) catchLoops(next Exchanger) Exchanger {
	return &loopStage{loopChecks: &s.loops, next: next}
}

type loopStage struct {
	*loopChecks
	next Exchanger
}

func (s *loopStage) Exchange(ctx context.Context, req *Request) (*Response, error) {
	if suffixAt(req.msg.name, loopSuffix) > 0 && s.arrive(req.msg.name) {
		return nil, &failure{rcode: dns.RcodeRefused, ede: dns.ExtendedErrorCodeOther, text: "this resolver has asked that itself"}
	}
	return s.next.Exchange(ctx, req)
}

// isLooping reports whether an upstream was found to lead back to us.
func (p *peer) isLooping(now time.Time) bool { return now.UnixNano() < p.loopsUntil.Load() }

// isLooping reports whether all upstreams lead back to us.
func (r *race) isLooping() bool {
	now := time.Now()
	return !slices.ContainsFunc(r.peers, func(p *peer) bool { return !p.isLooping(now) })
}

// checkLoop finds out whether an upstream leads back to us, unless that was done just now.
func (r *race) checkLoop(p *peer) {
	now := time.Now().UnixNano()
	due := p.loopDue.Load()
	if p.up.transport != plainDNS || now < due || !p.loopDue.CompareAndSwap(due, now+int64(loopCheck)) {
		return
	}
	go func() {
		if p.leadsBack(r.ctx) {
			p.loopsUntil.Store(time.Now().Add(loopCheck).UnixNano())
			p.scope.server.metrics.loops.Add(1)
			p.scope.log.Warn("an upstream leads back to this resolver", "upstream", p.up)
			r.poke()
		}
	}()
}

// leadsBack asks, and sees whether the question arrives here.
func (p *peer) leadsBack(ctx context.Context) bool {
	name, back := p.scope.server.loops.begin()
	defer p.scope.server.loops.end(name)
	ctx, cancel := context.WithTimeout(ctx, loopWait)
	defer cancel()
	wire := append([]byte{0, 0, bitRD >> 8, 0, 0, 1, 0, 0, 0, 0, 0, 0}, name...)
	m, err := parseMessage(append(wire, 0, byte(dns.TypeA), 0, dns.ClassINET))
	if err != nil {
		return false
	}
	req := &Request{scope: p.scope, msg: m}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = askUDP(ctx, p.up.addr, req, nil)
	}()
	select {
	case <-back:
		cancel()
		<-answered
		return true
	case <-answered: // or it is over
	}
	select {
	case <-back:
		return true
	default:
		return false
	}
}
