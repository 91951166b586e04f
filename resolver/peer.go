// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// peer is an upstream as one scope knows it, with the sockets to it.
type peer struct {
	scope *Scope
	addr  netip.AddrPort

	mu      sync.Mutex // guards what follows
	ports   []*port    // that take queries
	streams []*stream
	sweeper *time.Timer // runs while there are ports
	used    time.Time
}

// maxPeers is how many upstreams a scope remembers: a client may ask any address.
const maxPeers = 64

// peers are those of a scope.
type peers struct {
	mu     sync.Mutex // guards what follows
	byAddr map[netip.AddrPort]*peer
}

// peer finds what is known of an upstream. Beyond maxPeers the one that was not used
// for longest is forgotten.
func (sc *Scope) peer(addr netip.AddrPort) *peer {
	s := &sc.peers
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.byAddr[addr]; ok {
		return p
	}
	if len(s.byAddr) >= maxPeers {
		s.forgetOldest()
	}
	if s.byAddr == nil {
		s.byAddr = make(map[netip.AddrPort]*peer)
	}
	p := &peer{scope: sc, addr: addr, used: time.Now()}
	s.byAddr[addr] = p
	return p
}

func (s *peers) forgetOldest() {
	var oldest *peer
	var since time.Time
	for _, p := range s.byAddr {
		if used := p.lastUse(); oldest == nil || used.Before(since) {
			oldest, since = p, used
		}
	}
	delete(s.byAddr, oldest.addr)
	oldest.retire()
}

// close ends all sockets of a scope.
func (s *peers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.byAddr {
		p.close()
	}
}

func (p *peer) lastUse() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// send sends a try by UDP. The answer, or what went wrong later, is delivered to it.
func (p *peer) send(ctx context.Context, t *try) error {
	for {
		from, err := p.port(ctx)
		if err != nil {
			return err
		}
		id, last, ok := from.add(t)
		if !ok || last {
			p.drop(from)
		}
		if !ok {
			continue
		}
		if !t.waits(from, id) {
			from.forget(t, id)
			return nil
		}
		return from.write(t, id)
	}
}

// port draws one of the open ports, or opens another one.
func (p *peer) port(ctx context.Context) (*port, error) {
	if open := p.drawPort(); open != nil {
		return open, nil
	}
	conn, err := p.scope.dial(ctx, "udp", p.addr)
	if err != nil {
		return nil, err
	}
	opened := newPort(p, conn)
	go opened.read()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports = append(p.ports, opened)
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(portLife, p.sweep)
	}
	return opened, nil
}

// drawPort returns nil where there are too few.
func (p *peer) drawPort() *port {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = now
	for len(p.ports) >= maxPorts {
		i := draw(min(len(p.ports), 256))
		open := p.ports[i]
		if !open.isOld(now) {
			return open
		}
		p.ports = slices.Delete(p.ports, i, i+1)
		open.retire()
	}
	return nil
}

// drop lets a port take no more queries.
func (p *peer) drop(gone *port) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
	for _, open := range ports {
		endPort(open)
	}
	for _, open := range streams {
		endStream(open)
	}
}
