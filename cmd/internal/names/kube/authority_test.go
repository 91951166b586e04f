// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/dnsteer/dnsteer/resolver"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// patience is for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// told is a source whose clusters are told by a test, without API servers, and a resolver
// that has nobody to ask.
type told struct {
	*Source
	ctx  context.Context
	addr netip.AddrPort
}

func newTold(t *testing.T, c Config) *told {
	t.Helper()
	all := resolver.NewNames()
	s := &told{Source: NewSource(all.AddLayer("kubernetes"), c)}
	server, err := resolver.New(resolver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	all.Follow(server)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s.addr = netip.MustParseAddrPort(udp.LocalAddr().String())
	ctx, cancel := context.WithCancel(context.Background())
	s.ctx = ctx
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() { s.Run(ctx) })
	running.Go(func() {
		if err := server.Serve(ctx, resolver.Listeners{UDP: []*net.UDPConn{udp}}); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// add adds a cluster of which nothing is listed, until list is called.
func (s *told) add(c Cluster) (made *cluster, list func(services ...string)) {
	made = s.newCluster(c)
	kinds := made.kinds()
	made.unsynced = len(kinds)
	s.mu.Lock()
	s.slots = append(s.slots, &slot{name: c.Name, next: made, served: make(chan struct{})})
	s.mu.Unlock()
	return made, func(services ...string) {
		var objects []any
		for _, name := range services {
			objects = append(objects, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec: corev1.ServiceSpec{ClusterIP: "192.0.2.1", ClusterIPs: []string{"192.0.2.1"}}})
		}
		for i, w := range kinds {
			all := objects
			if i > 0 {
				all = nil
			}
			_ = (&store{watched: w, to: made}).Replace(all, "") // which has no errors
		}
	}
}

// eventually waits until these names are answered so.
func (s *told) eventually(t *testing.T, step string, want map[string]string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		for name, want := range want {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			a, err := resolver.Query(ctx, s.addr, name, "A", false)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(a.Rcode, " ", len(a.Records))
			if len(a.Authority) > 0 {
				got += " " + strings.Join(strings.Fields(a.Authority[0])[:2], " ")
			}
			if got != want {
				return fmt.Errorf("%s: %s is %q, want %q", step, name, got, want)
			}
		}
		return nil
	})
}

// A zone is the table's own while every cluster that has it is served.
func TestAuthority(t *testing.T) {
	const (
		east, svc, web = "x.default.svc.east.example.org", "svc.east.example.org", "web.default.svc.east.example.org"
		west, shared   = "x.default.svc.west.example.org", "x.default.svc.shared.example.org"
		asked          = "SERVFAIL 0"
		noEast, noneIn = "NXDOMAIN 0 east.example.org. 5", "NXDOMAIN 0 shared.example.org. 5"
	)
	s := newTold(t, Config{MaxAge: time.Millisecond})
	eastern, listEast := s.add(Cluster{Name: "east", Zones: []string{"east.example.org", "shared.example.org"}, Authority: []string{"east.example.org", "shared.example.org"}})
	_, listWest := s.add(Cluster{Name: "west", Zones: []string{"west.example.org", "shared.example.org"}, Authority: []string{"shared.example.org"}})
	s.eventually(t, "nothing is listed", map[string]string{east: asked, west: asked, shared: asked, web: asked})
	listEast("web")
	s.eventually(t, "east is listed", map[string]string{east: noEast, svc: "NOERROR 0 east.example.org. 5", web: "NOERROR 1", west: asked, shared: asked})
	listWest("web")
	s.eventually(t, "west too", map[string]string{east: noEast, west: asked, shared: noneIn, "web.default.svc.west.example.org": "NOERROR 1"})
	eastern.failed("services", errors.New("it is away"))
	s.eventually(t, "east is let go", map[string]string{east: asked, web: asked, shared: asked})
	eastern.heard("services")
	s.eventually(t, "east is back", map[string]string{east: noEast, web: "NOERROR 1", shared: noneIn})
	nowhere := &rest.Config{Host: "http://127.0.0.1:1"}
	if err := s.Set(s.ctx, Cluster{Name: "north", Zones: []string{"shared.example.org"}, Rest: nowhere}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "another one that is not listed", map[string]string{east: noEast, shared: asked})
	s.Remove("north")
	s.eventually(t, "without it", map[string]string{east: noEast, shared: noneIn})
	s.Remove("east")
	s.eventually(t, "without east", map[string]string{east: asked, web: asked, shared: noneIn})
}

// The zone of ServiceImports may be its own too, of Secrets that with a cluster's name in it.
func TestAuthorityOfImports(t *testing.T) {
	s := newTold(t, Config{Imports: ImportVersion})
	_, list := s.add(Cluster{Name: "here", Local: true, Zones: []string{ImportZone}, Authority: []string{ImportZone}})
	const name = "x.default.svc.clusterset.local"
	s.eventually(t, "nothing is listed", map[string]string{name: "SERVFAIL 0"})
	list()
	s.eventually(t, "listed", map[string]string{name: "NXDOMAIN 0 clusterset.local. 5"})
	if got := of("east", []string{"cluster.local", "{cluster}.example.org"}); len(got) != 2 || got[1] != "east.example.org" {
		t.Errorf("zones are %q", got)
	}
}
