// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// pingTimeout is how late a resolver may answer and still count as alive.
const pingTimeout = 3 * loader.HeartbeatInterval

// scope is one namespace with its listeners and its resolver.
type scope struct {
	namespace *os.File
	entrance  entrance
	enrolment *loader.Enrolment
	resolver  *resolver.Scope
	log       *slog.Logger

	cancelBeat, cancelServe context.CancelFunc
	beaten                  chan struct{} // closed when beating has ended
	served                  chan error    // the end of Serve
}

// newScope opens the listeners inside the namespace, serves them, and then enrols it. It
// makes a descriptor of its own of the namespace.
func (a *agent) newScope(namespace *os.File, dns *cnirpc.DNS, log *slog.Logger) (*scope, error) {
	fd, err := unix.FcntlInt(namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep network namespace: %w", err)
	}
	s := &scope{namespace: os.NewFile(uintptr(fd), namespace.Name()), entrance: a.entrance, log: log}
	var listeners *loader.Listeners
	err = s.within(func() error {
		listeners, err = loader.Listen(a.datapath.Port())
		return err
	})
	if err != nil {
		_ = s.namespace.Close()
		return nil, err
	}
	if s.enrolment, err = a.datapath.Attend(listeners); err != nil {
		listeners.Close()
		_ = s.namespace.Close()
		return nil, err
	}
	if err := s.begin(dns, a.server); err != nil {
		return nil, errors.Join(err, s.withdraw(), s.drain(a.datapath.Port()))
	}
	return s, nil
}

func (s *scope) within(f func() error) error { return s.entrance.within(s.namespace, f) }

// begin serves first and enrols then: no query is steered to where nobody reads.
func (s *scope) begin(dns *cnirpc.DNS, server *resolver.Server) error {
	conf := readDNS(dns)
	var err error
	s.resolver, err = server.NewScope(resolver.ScopeConfig{
		Settings: resolver.Settings{Search: conf.search},
		Origin:   s.enrolment.Origin,
		Logger:   s.log,
	})
	if err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	err = s.within(func() error {
		return s.enrolment.Enrol(loader.Scope{
			OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner,
			PrimaryIPv4: conf.primary(netip.Addr.Is4), PrimaryIPv6: conf.primary(netip.Addr.Is6),
		})
	})
	if err != nil {
		return err
	}
	var ctx context.Context
	ctx, s.cancelBeat = context.WithCancel(context.Background())
	s.beaten = make(chan struct{})
	go s.beat(ctx)
	return nil
}

func (s *scope) serve() error {
	udp, err := s.enrolment.Listeners.UDP()
	if err != nil {
		return err
	}
	tcp, err := s.enrolment.Listeners.TCP()
	if err != nil {
		for _, c := range udp {
			_ = c.Close()
		}
		return err
	}
	var ctx context.Context
	ctx, s.cancelServe = context.WithCancel(context.Background())
	s.served = make(chan error, 1)
	go func() { s.served <- s.resolver.Serve(ctx, resolver.Listeners{UDP: udp, TCP: tcp}) }()
	return nil
}

// beat keeps the heart beating for as long as the resolver answers.
func (s *scope) beat(ctx context.Context) {
	defer close(s.beaten)
	tick := time.NewTicker(loader.HeartbeatInterval)
	defer tick.Stop()
	self := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.enrolment.Listeners.Port)
	for {
		err := s.within(func() error {
			ctx, cancel := context.WithTimeout(ctx, pingTimeout)
			defer cancel()
			if err := resolver.Ping(ctx, self); err != nil {
				return err
			}
			return s.enrolment.Beat()
		})
		if err != nil && ctx.Err() == nil {
			s.log.Warn("miss a heartbeat", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// withdraw ends the scope: from here on queries go to their nameserver.
func (s *scope) withdraw() error {
	if s.cancelBeat != nil {
		s.cancelBeat()
		<-s.beaten
	}
	return s.enrolment.Withdraw()
}

// drain answers what has arrived before, and lets go of the namespace. That takes some
// 20 ms, or as long as an upstream does.
func (s *scope) drain(port uint16) error {
	var errs []error
	if s.cancelServe != nil {
		s.cancelServe()
		errs = append(errs, <-s.served)
	}
	s.enrolment.Close()
	errs = append(errs, s.within(func() error { return loader.RemoveTagRoute(port) }))
	_ = s.namespace.Close()
	return errors.Join(errs...)
}

// podDNS is what of a pod's resolv.conf decides.
type podDNS struct {
	nameservers []netip.Addr
	search      []string
}

// readDNS skips what makes no sense, as the C library does.
func readDNS(dns *cnirpc.DNS) podDNS {
	if dns == nil {
		return podDNS{}
	}
	conf := podDNS{search: dns.Searches}
	for _, text := range dns.Servers {
		if a, err := netip.ParseAddr(text); err == nil {
			conf.nameservers = append(conf.nameservers, a)
		}
	}
	return conf
}

// primary is the first nameserver of a family, the invalid address without one. One
// with a zone is never steered.
func (c podDNS) primary(is func(netip.Addr) bool) netip.Addr {
	for _, a := range c.nameservers {
		if is(a) && a.Zone() == "" {
			return a
		}
	}
	return netip.Addr{}
}
