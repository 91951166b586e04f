// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dnsteer/dnsteer/resolver/internal/mmsg"
)

// Listeners are the sockets of one Serve. Those on a wildcard address are fine:
// answers leave from the address that was asked.
type Listeners struct {
	UDP []*net.UDPConn
	TCP []*net.TCPListener
}

// serving is one run of Serve.
type serving struct {
	*Server
	*Scope
	// reading ends when no more queries are to be read, work when the time to
	// answer what was read is over.
	reading, work context.Context
	queries       sync.WaitGroup
	conns         connSet
}

// Serve is Scope.Serve for the one scope that Config speaks of.
func (s *Server) Serve(ctx context.Context, l Listeners) error { return s.own.Serve(ctx, l) }

// Serve answers queries until ctx ends. Then it answers what was already received
// and is in flight, for at most 5 s, closes the sockets and returns nil. It owns
// the sockets from the call on and closes them in any case. It returns an error if
// a socket cannot be set up or breaks, or if an upstream is one of the sockets.
func (sc *Scope) Serve(ctx context.Context, l Listeners) error {
	defer l.close()
	own, err := l.addresses()
	if err != nil {
		return err
	}
	sc.listening(own, true)
	defer sc.listening(own, false)
	if err := sc.checkLoop(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer sc.served()()
	sockets, err := l.sockets(sc)
	if err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	v := &serving{Server: sc.server, Scope: sc, reading: reading, work: work, conns: connSet{limit: sc.server.cfg.MaxConns}}

	loops := make(chan error)
	running := 0
	for _, u := range sockets {
		defer context.AfterFunc(reading, func() { _ = u.Conn().SetReadDeadline(time.Now().Add(grace)) })()
		running++
		go func() { loops <- v.serveUDP(u) }()
	}
	for _, c := range l.TCP {
		defer context.AfterFunc(reading, func() { _ = c.SetDeadline(time.Now().Add(grace)) })()
		running++
		go func() { loops <- v.serveTCP(c) }()
	}
	var errs []error
	for ; running > 0; running-- {
		if err := <-loops; err != nil {
			errs = append(errs, err)
			stop() // one broken socket ends all: whoever started us shall know
		}
	}
	v.finish(abort)
	return errors.Join(errs...)
}

// finish waits for the queries in flight, but not forever.
func (v *serving) finish(abort func()) {
	timer := time.AfterFunc(v.drain, func() {
		abort()
		v.conns.closeAll()
	})
	defer timer.Stop()
	v.queries.Wait()
}

// listening notes addresses at which we listen, or takes them off the list again.
func (sc *Scope) listening(own []netip.AddrPort, on bool) {
	for {
		old := sc.listen.Load()
		list := slices.Clone(*old)
		for _, addr := range own {
			if on {
				list = append(list, addr)
			} else if i := slices.Index(list, addr); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
		}
		if sc.listen.CompareAndSwap(old, &list) {
			return
		}
	}
}

// isOwn reports whether a query to addr would come back to us.
func (sc *Scope) isOwn(addr netip.AddrPort) bool {
	for _, own := range *sc.listen.Load() {
		if own.Port() != addr.Port() {
			continue
		}
		if own.Addr() == addr.Addr() || own.Addr().IsUnspecified() && addr.Addr().IsLoopback() {
			return true
		}
	}
	return false
}

// served puts the scope on the list of those that are, until the returned function is
// called.
func (sc *Scope) served() (end func()) {
	s := sc.server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scopes[sc]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.scopes[sc]--; s.scopes[sc] == 0 {
			delete(s.scopes, sc)
			sc.peers.close()
		}
	}
}

func (l Listeners) addresses() ([]netip.AddrPort, error) {
	var own []netip.AddrPort
	for _, c := range l.UDP {
		own = append(own, unmap(c.LocalAddr().(*net.UDPAddr).AddrPort()))
	}
	for _, c := range l.TCP {
		own = append(own, unmap(c.Addr().(*net.TCPAddr).AddrPort()))
	}
	if len(own) == 0 {
		return nil, errors.New("serve: no listeners")
	}
	return own, nil
}

func (l Listeners) sockets(sc *Scope) ([]*mmsg.Socket, error) {
	var sockets []*mmsg.Socket
	for _, c := range l.UDP {
		u, err := newUDPSocket(c, func(err error) { sc.notSent(c, err) })
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, u)
	}
	return sockets, nil
}

func (l Listeners) close() {
	for _, c := range l.UDP {
		_ = c.Close()
	}
	for _, c := range l.TCP {
		_ = c.Close()
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
