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
	// reading ends when no more queries are to be read, work when the time to
	// answer what was read is over.
	reading, work context.Context
	queries       sync.WaitGroup
	conns         connSet
}

// Serve answers queries until ctx ends. Then it answers what was already received
// and is in flight, for at most 5 s, closes the sockets and returns nil. It owns
// the sockets from the call on and closes them in any case. It returns an error if
// a socket cannot be set up or breaks, or if an upstream is one of the sockets.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	defer l.close()
	own, err := l.addresses()
	if err != nil {
		return err
	}
	s.listening(own, true)
	defer s.listening(own, false)
	if err := s.checkLoop(); err != nil {
		return err
	}
	sockets, err := l.sockets()
	if err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	v := &serving{Server: s, reading: reading, work: work, conns: connSet{limit: s.cfg.MaxConns}}

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
	timer := time.AfterFunc(v.Server.drain, func() {
		abort()
		v.conns.closeAll()
	})
	defer timer.Stop()
	v.queries.Wait()
}

// listening notes addresses at which we listen, or takes them off the list again.
func (s *Server) listening(own []netip.AddrPort, on bool) {
	for {
		old := s.listen.Load()
		list := slices.Clone(*old)
		for _, addr := range own {
			if on {
				list = append(list, addr)
			} else if i := slices.Index(list, addr); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
		}
		if s.listen.CompareAndSwap(old, &list) {
			return
		}
	}
}

// checkLoop refuses an upstream among the listeners.
func (s *Server) checkLoop() error {
	for _, up := range s.cfg.Upstreams {
		if s.isOwn(up) {
			return fmt.Errorf("serve: upstream %s is this resolver itself", up)
		}
	}
	return nil
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

func (l Listeners) sockets() ([]*mmsg.Socket, error) {
	var sockets []*mmsg.Socket
	for _, c := range l.UDP {
		u, err := newUDPSocket(c)
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
