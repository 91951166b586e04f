// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	owner     uint32 // of the listener, whose own queries are not steered
}

var _ scope = (*podScope)(nil)

// errSilent says that what has the port answers no DNS query.
var errSilent = errors.New("what listens there answers no query")

// newPodScope enrols the namespace for its own resolver. One that listens already must
// answer; one that will come, as the sidecar of a pod that is about to start, is taken
// at its word.
func (a *agent) newPodScope(p *pod) (*podScope, error) {
	s := &podScope{namespace: p.file, home: a.home, datapath: a.datapath, owner: loader.DefaultOwner}
	owner, listens, err := s.listener()
	if err != nil {
		return nil, err
	}
	if listens {
		if err := s.probe(); err != nil {
			return nil, err
		}
		s.owner = owner
	}
	return s, s.enrol(p.conf)
}

func (s *podScope) enrol(conf resolvconf.Conf) error {
	return s.home.within(s.namespace, func() (err error) {
		if s.cookie, err = loader.NamespaceCookie(); err != nil {
			return err
		}
		settings := settingsOf(conf)
		settings.OwnerUID = s.owner
		return s.datapath.EnrolNamespace(s.cookie, settings, true)
	})
}

// listener looks who has the target's port: the owner of the socket, whose queries to
// upstreams have that owner too.
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

// probe asks the pod's resolver for the root's nameservers, which every resolver
// answers in some way. The socket is ours, so it is not steered.
func (s *podScope) probe() error {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}
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

// check fails if the resolver has gone, or is another owner's than it was.
func (s *podScope) check() error {
	owner, listens, err := s.listener()
	if err != nil {
		return err
	}
	if !listens {
		return errors.New("the pod's own resolver does not listen")
	}
	if owner != s.owner {
		return fmt.Errorf("the pod's own resolver is user %d's now, not user %d's", owner, s.owner)
	}
	return nil
}

// beat has nothing to say: the scope has no heartbeat.
func (s *podScope) beat() error { return nil }

// setConf changes nothing: which nameserver a query was for, this resolver is not told.
func (s *podScope) setConf(resolvconf.Conf) {}

func (s *podScope) withdraw() error { return s.datapath.WithdrawNamespace(s.cookie) }

func (s *podScope) drain() error { return nil }
