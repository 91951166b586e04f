// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/resolvconf"
	"github.com/dnsteer/dnsteer/loader"
)

// podScope is one namespace with a resolver that is not ours: a mesh sidecar's, usually.
// The datapath steers to it for as long as somebody listens on the target.
type podScope struct {
	namespace *os.File // the pod's
	home      home
	datapath  *loader.Datapath
	cookie    uint64
	owner     uint32 // of the listener
	listens   bool   // one did when it was enrolled
}

var _ scope = (*podScope)(nil)

var (
	errSilent = errors.New("what listens there answers no query")
	errNone   = errors.New("what has the port is no resolver, or has let go of it")
	errLoop   = errors.New("the pod's own resolver has its own queries steered back to it; run it as user or group 1337")
)

// newPodScope enrols the namespace for its own resolver. One that listens already must
// answer, before and after; one that will come, as the sidecar of a pod that is about to
// start, is taken at its word.
func (a *agent) newPodScope(p plan) (*podScope, error) {
	s := &podScope{namespace: p.namespace, home: a.home, datapath: a.datapath}
	var err error
	if s.owner, s.listens, err = s.listener(); err != nil {
		return nil, err
	}
	if !s.listens {
		return s, s.enrol(p.conf)
	}
	if err := s.probe(p.conf); err != nil {
		return nil, err
	}
	if err := s.enrol(p.conf); err != nil {
		return nil, err
	}
	if err := s.probe(p.conf); err != nil {
		return nil, errors.Join(errLoop, err, s.withdraw())
	}
	return s, nil
}

func (s *podScope) enrol(conf resolvconf.Conf) error {
	return s.home.within(s.namespace, func() (err error) {
		if s.cookie, err = loader.NamespaceCookie(); err != nil {
			return err
		}
		settings := settingsOf(conf)
		settings.Node = true
		if s.listens && s.owner != 0 {
			settings.OwnerUID = s.owner
		} // Root is an application's too; a mesh's root has the group.
		return s.datapath.EnrolNamespace(s.cookie, settings, true)
	})
}

// listener looks who has the target's port: the owner of the socket, who will be that of
// its queries to upstreams too.
func (s *podScope) listener() (owner uint32, listens bool, err error) {
	err = s.home.within(s.namespace, func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := netlink.SocketDiagUDP(family)
			if err != nil {
				return fmt.Errorf("look who listens: %w", err)
			}
			for _, found := range sockets {
				if found.ID.SourcePort == s.datapath.Port() && found.ID.DestinationPort == 0 {
					owner, listens = found.UID, true
				}
			}
		}
		return nil
	})
	return owner, listens, err
}

const (
	// probeTimeout is how long a resolver may take for a question that it has to pass on.
	probeTimeout = time.Second
	// probeID is the ID of our question, whose answer nobody else can see.
	probeID = 15053
)

// probe asks the pod's resolver for a name that it cannot have heard of, in the pod's own
// search domain: the cluster's DNS knows that there is none. Without a domain, it is the
// root's nameservers. The socket is ours, so it is not steered.
func (s *podScope) probe(conf resolvconf.Conf) error {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}
	if len(conf.Search) > 0 {
		text := fmt.Sprintf("dnsteer-%08x.%s.", rand.Uint32(), strings.TrimSuffix(conf.Search[0], "."))
		if name, err := dnsmessage.NewName(text); err == nil {
			question.Name, question.Type = name, dnsmessage.TypeA
		}
	}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: probeID, RecursionDesired: true}, Questions: []dnsmessage.Question{question}}
	wire, err := query.Pack()
	if err != nil {
		return fmt.Errorf("ask the pod's resolver: %w", err)
	}
	target := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.datapath.Port())
	var f *os.File
	err = s.home.within(s.namespace, func() (err error) {
		f, err = connect("udp", target)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask the pod's resolver: %w", err)
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("ask the pod's resolver: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(probeTimeout))
	if _, err := conn.Write(wire); err != nil {
		return fmt.Errorf("ask the pod's resolver: %w", err)
	}
	answer := make([]byte, 64<<10)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("ask the pod's resolver: %w: %w", errSilent, err)
	}
	var parser dnsmessage.Parser
	if h, err := parser.Start(answer[:n]); err != nil || h.ID != probeID || !h.Response {
		return fmt.Errorf("ask the pod's resolver: %w", errSilent)
	}
	return nil
}

// endLeft withdraws, once, what an agent that was killed has enrolled for pods' own resolvers
// and no pod has a scope for: it has gone since, or is not to be steered any more. Others'
// entries, as those of "dnsteer run", stay.
func (a *agent) endLeft() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.leftEnded {
		return
	}
	held := make(map[uint64]bool)
	for _, p := range a.pods {
		if p.beginning != nil {
			return // whose may be held is not known yet: the next time
		}
		if s, ok := p.scope.(*podScope); ok {
			held[s.cookie] = true
		}
	}
	a.leftEnded = true
	enrolled, err := a.datapath.NodeNamespaces()
	ended := 0
	for _, cookie := range enrolled {
		if !held[cookie] {
			err = errors.Join(err, a.datapath.WithdrawNamespace(cookie))
			ended++
		}
	}
	if err != nil {
		a.log.Warn("some namespaces stay enrolled that should not be", "err", err)
	}
	if ended > 0 {
		a.log.Info("withdrew what a killed agent has left", "namespaces", ended)
	}
}

func (s *podScope) check() error {
	if !s.isSame() {
		return errors.New("the pod's own resolver has gone, or is another than it was")
	}
	return nil
}

// isSame tells whether what listens is what was enrolled.
func (s *podScope) isSame() bool {
	owner, listens, err := s.listener()
	return err != nil || listens == s.listens && owner == s.owner
}

// setConf changes nothing: which nameserver a query was for, this resolver is not told.
func (s *podScope) setConf(resolvconf.Conf) {}

func (s *podScope) withdraw() error { return s.datapath.WithdrawNamespace(s.cookie) }

func (s *podScope) drain() error { return nil }
