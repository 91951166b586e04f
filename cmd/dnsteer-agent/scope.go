// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/resolver"
)

// scope is how a pod is steered: to the node's resolver (nodeScope) or to its own
// (podScope).
type scope interface {
	// withdraw ends it: from here on queries go to their nameserver.
	withdraw() error
	// drain answers what has arrived before, and lets go of the namespace. That takes
	// some 20 ms, or as long as an upstream does.
	drain() error
	// check tells whether it steers as it should.
	check() error
	// setConf is told of another resolv.conf.
	setConf(resolvconf.Conf)
}

// nodeScope is one namespace with listeners of ours in it.
type nodeScope struct {
	namespace *os.File // the pod's
	home      home
	enrolment *loader.Enrolment
	settings  loader.Scope // as it was enrolled
	resolver  *resolver.Scope
	log       *slog.Logger

	unfollow func()             // the namespace's routes
	stop     context.CancelFunc // of Serve
	served   chan struct{}      // closed when Serve has ended, with err
	err      error
}

var _ scope = (*nodeScope)(nil)

// newNodeScope opens the listeners inside the namespace, serves them, and then enrols
// it: no query is steered to where nobody reads. The error wraps unix.EADDRINUSE if
// somebody has the port.
func (a *agent) newNodeScope(p plan) (*nodeScope, error) {
	var listeners *loader.Listeners
	err := a.home.within(p.namespace, func() (err error) {
		listeners, err = listen(a.datapath.Port())
		return err
	})
	if err != nil {
		return nil, err
	}
	s := a.holdScope(p, a.heart.Attend(listeners))
	s.settings = settingsOf(p.conf)
	if err = s.serve(a.server, p.conf); err == nil {
		err = s.enrol()
	}
	if err != nil {
		return nil, errors.Join(err, s.withdraw(), s.drain())
	}
	return s, nil
}

// listen opens the listeners in the calling thread's namespace. containerd brings a
// pod's loopback interface up while plugins run, not before: one that is still down is
// brought up here, since without it there is no 127.0.0.1 to steer to.
func listen(port uint16) (*loader.Listeners, error) {
	listeners, err := loader.Listen(port)
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		return listeners, err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("bring up lo: %w", err)
	}
	return loader.Listen(port)
}

// adoptScope serves a scope that another agent has enrolled, and serves too. It takes the
// listeners over, and closes them if it fails.
func (a *agent) adoptScope(p plan, settings loader.Scope, listeners []*os.File) (*nodeScope, error) {
	enrolment, err := a.heart.Adopt(listeners)
	if err != nil {
		return nil, err
	}
	s := a.holdScope(p, enrolment)
	s.settings = settings
	if err := errors.Join(s.serve(a.server, p.conf), s.follow()); err != nil {
		s.letGo()
		return nil, err
	}
	return s, nil
}

// holdScope makes a scope of an enrolment, ours or another agent's; it is not served.
func (a *agent) holdScope(p plan, e *loader.Enrolment) *nodeScope {
	return &nodeScope{namespace: p.namespace, home: a.home, enrolment: e, log: p.log}
}

// serve answers in the namespace with what all pods share.
func (s *nodeScope) serve(server *resolver.Server, conf resolvconf.Conf) error {
	var err error
	s.resolver, err = server.NewScope(resolver.ScopeConfig{
		Settings: clientsOf(conf),
		Origin:   s.enrolment.Origin,
		Dial:     s.dial,
		Logger:   s.log,
	})
	if err != nil {
		return err
	}
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
	ctx, s.stop = context.WithCancel(context.Background())
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		if s.err = s.resolver.Serve(ctx, resolver.Listeners{UDP: udp, TCP: tcp}); s.err != nil {
			s.log.Error("stop serving a pod", "err", s.err)
		}
	}()
	return nil
}

// enrol makes the namespace a scope of ours, or again one of ours.
func (s *nodeScope) enrol() error {
	if err := s.follow(); err != nil {
		return err
	}
	return s.home.within(s.namespace, func() error { return s.enrolment.Enrol(s.settings) })
}

// follow keeps the addresses true that the namespace's sockets see as their own.
func (s *nodeScope) follow() error {
	if s.unfollow != nil {
		return nil
	}
	return s.home.within(s.namespace, func() (err error) {
		s.unfollow, err = s.enrolment.FollowRoutes(func(f func() error) error { return s.home.within(s.namespace, f) })
		return err
	})
}

// settingsOf says how a pod with that resolv.conf is steered: its first nameserver of
// each family is what 127.0.0.1 and ::1 stand for.
func settingsOf(conf resolvconf.Conf) loader.Scope {
	return loader.Scope{
		OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner,
		PrimaryIPv4: conf.Primary(netip.Addr.Is4), PrimaryIPv6: conf.Primary(netip.Addr.Is6),
	}
}

// clientsOf says what the clients of a pod with that resolv.conf do.
func clientsOf(conf resolvconf.Conf) resolver.Settings {
	return resolver.Settings{Search: conf.Search, Timeout: conf.Timeout, Attempts: conf.Attempts, Rotate: conf.Rotate}
}

// setConf changes what names are completed with, and how long clients wait. What
// 127.0.0.1 stands for stays: a socket that is connected to it would see the new
// nameserver's answer under the old one's name, and every other nameserver has a tag all
// the same.
func (s *nodeScope) setConf(conf resolvconf.Conf) {
	if err := s.resolver.Set(clientsOf(conf)); err != nil {
		s.log.Warn("resolv.conf not followed", "err", err)
	}
}

func (s *nodeScope) check() error {
	if !s.serves() {
		return fmt.Errorf("the resolver has ended: %w", s.err)
	}
	return s.enrolment.Beat() // which fails if it is no scope
}

// serves tells whether queries are read: a socket may have broken.
func (s *nodeScope) serves() bool {
	select {
	case <-s.served:
		return false
	default:
		return true
	}
}

func (s *nodeScope) withdraw() error { return s.enrolment.Withdraw() }

func (s *nodeScope) drain() error {
	port := s.enrolment.Listeners.Port
	s.letGo()
	return errors.Join(s.err, s.home.within(s.namespace, func() error { return loader.RemoveTagRoute(port) }))
}

// letGo stops serving, and leaves the scope to whoever else holds it.
func (s *nodeScope) letGo() {
	if s.unfollow != nil {
		s.unfollow()
	}
	if s.stop != nil {
		s.stop()
		<-s.served
	}
	s.enrolment.Close()
}
