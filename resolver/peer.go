// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// peer is an upstream as one scope knows it, with the sockets to it.
type peer struct {
	scope *Scope
	up    Upstream
	tls   *tls.Config  // nil without TLS
	http  *http.Client // nil without HTTPS
	// cookies and cases are for a plain upstream.
	cookies jar
	cases   speller

	loopDue, loopsUntil atomic.Int64 // in nanoseconds, see loop.go

	mu      sync.Mutex // guards what follows
	ports   []*port    // that take queries
	streams []*stream
	opening int           // ports that will be there soon
	opened  chan struct{} // closed when one of them is, or is not; nil if nobody waits
	dice    dice
	sweeper *time.Timer // runs while there are ports
	used    time.Time
	health  health
}

// maxPeers is how many upstreams a scope remembers: a client may ask any address.
const maxPeers = 64

// peers are those of a scope.
type peers struct {
	mu   sync.Mutex // guards what follows
	byUp map[Upstream]*peer
}

// peer finds what is known of an upstream. Beyond maxPeers the one that was not used
// for longest is forgotten.
func (sc *Scope) peerOf(up Upstream) *peer {
	s := &sc.peers
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.byUp[up]; ok {
		return p
	}
	if len(s.byUp) >= maxPeers {
		s.forgetOldest()
	}
	if s.byUp == nil {
		s.byUp = make(map[Upstream]*peer)
	}
	p := &peer{scope: sc, up: up, used: time.Now()}
	if up.transport >= overTLS {
		p.tls = p.newTLS()
	}
	if up.transport == overHTTPS {
		p.http = p.newHTTP()
	}
	if up.transport == plainDNS {
		p.cookies.Store(newCookie(netip.Addr{}))
		p.cases.on = sc.server.cfg.RandomCase
	}
	s.byUp[up] = p
	return p
}

// peersOf is what is known of upstreams, in their order.
func (sc *Scope) peersOf(ups []Upstream) []*peer {
	list := make([]*peer, len(ups))
	for i, up := range ups {
		list[i] = sc.peerOf(up)
	}
	return list
}

func (s *peers) forgetOldest() {
	var oldest *peer
	var since time.Time
	for _, p := range s.byUp {
		if used := p.lastUse(); oldest == nil || used.Before(since) {
			oldest, since = p, used
		}
	}
	delete(s.byUp, oldest.up)
	oldest.retire()
}

// close ends all sockets of a scope.
func (s *peers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.byUp {
		p.close()
	}
}

func (p *peer) lastUse() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// send sends a try by UDP, by another port than the try before: whatever loses what one
// socket sends need not lose all. The answer, or what went wrong later, is delivered to it.
func (p *peer) send(ctx context.Context, t *try) error {
	for {
		from, err := p.port(ctx)
		if err != nil {
			return err
		}
		if t.before.went(from) {
			continue // there are others: none is drawn from fewer than minPorts
		}
		if id, ok := p.reserve(from, t); ok {
			from.send(t, id)
			return nil
		}
	}
}

// reserve gives a try an ID on a port; ok is false if that takes none any more. A port
// that has taken enough is retired where there are others.
func (p *peer) reserve(from *port, t *try) (id uint16, ok bool) {
	t.opt = p.cookies.opt(t, from.conn.LocalAddr())
	id, nth := from.add(t)
	if nth >= maxUses {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.ports) > minPorts {
			p.remove(from)
		}
	}
	return id, nth > 0
}

// port draws one of the open ports, or opens another one where they are few. However many
// queries come at once, they open no more than they need.
func (p *peer) port(ctx context.Context) (*port, error) {
	for {
		open, opened, claimed := p.findPort()
		if claimed {
			return p.open(ctx)
		}
		if open != nil {
			return open, nil
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// findPort claims the place of a port that is to be opened, or else draws one of those that
// are open. Where there are too few, opened tells when to look again.
func (p *peer) findPort() (open *port, opened chan struct{}, claimed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	open = p.drawFrom(minPorts, time.Now())
	if p.claim() {
		return nil, nil, true
	}
	if open == nil && p.opened == nil {
		p.opened = make(chan struct{})
	}
	return open, p.opened, false
}

// claim takes the place of another port, for whoever opens it; false if there are enough.
func (p *peer) claim() bool {
	if len(p.ports)+p.opening >= maxPorts {
		return false
	}
	p.opening++
	return true
}

// readyPort draws one of the open ports, and has others opened where there are few; nil
// where there are too few to draw from. It does not block.
func (p *peer) readyPort(now time.Time) *port {
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.drawFrom(minPorts, now)
	if p.opening == 0 && p.claim() {
		go p.openOthers()
	}
	return open
}

// openOthers opens ports until there are enough to draw from for a while. The place of the
// first one is claimed.
func (p *peer) openOthers() {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	for {
		if _, err := p.open(ctx); err != nil {
			return // the next query finds out, and tells
		}
		p.mu.Lock()
		more := p.claim()
		p.mu.Unlock()
		if !more {
			return
		}
	}
}

// open opens a port whose place is claimed.
func (p *peer) open(ctx context.Context) (*port, error) {
	conn, err := p.scope.dial(ctx, "udp", p.up.addr)
	var opened *port
	if err == nil {
		opened = newPort(p, conn)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening--
	if p.opened != nil {
		close(p.opened)
		p.opened = nil
	}
	if err != nil {
		return nil, err
	}
	go opened.read()
	p.ports = append(p.ports, opened)
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(portLife, p.sweep)
	}
	return opened, nil
}

// drawFrom draws one port of so many at least, nil where there are fewer.
func (p *peer) drawFrom(least int, now time.Time) *port {
	p.used = now
	for len(p.ports) >= least {
		open := p.ports[p.dice.below(min(len(p.ports), 256))]
		if !open.isOld(now) {
			return open
		}
		p.remove(open)
	}
	return nil
}

// drop lets a port take no more queries.
func (p *peer) drop(gone *port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(gone)
}

func (p *peer) remove(gone *port) {
	if i := slices.Index(p.ports, gone); i >= 0 {
		p.ports = slices.Delete(p.ports, i, i+1)
	}
	gone.retire()
}

// sweep retires ports that are old, and runs again as long as there are others.
func (p *peer) sweep() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports = slices.DeleteFunc(p.ports, func(open *port) bool {
		if !open.isOld(now) {
			return false
		}
		open.retire()
		return true
	})
	if p.sweeper = nil; len(p.ports) > 0 {
		p.sweeper = time.AfterFunc(portLife, p.sweep)
	}
}

// retire closes what nobody waits for, and lets the rest take no more queries.
func (p *peer) retire() { p.end((*port).retire, (*stream).retire) }

// close closes everything.
func (p *peer) close() { p.end((*port).close, (*stream).close) }

func (p *peer) end(endPort func(*port), endStream func(*stream)) {
	p.mu.Lock()
	ports, streams := p.ports, p.streams
	p.ports, p.streams = nil, nil
	if p.sweeper != nil {
		p.sweeper.Stop()
		p.sweeper = nil
	}
	p.mu.Unlock()
	if p.http != nil {
		p.http.CloseIdleConnections()
	}
	for _, open := range ports {
		endPort(open)
	}
	for _, open := range streams {
		endStream(open)
	}
}
