// SPDX-License-Identifier: Apache-2.0

// Package istiod is a server of names of a mesh for tests: an ADS server of
// go-control-plane that sends name tables as istiod does, written by the protocol buffer
// library.
package istiod

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// TableType is the type of a name table.
const TableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// minPing is how often a client may ask for signs of life: istiod ends connections that
// do it more often.
const minPing = 250 * time.Millisecond

// Server is an ADS server that has one resource, in the form in which istiod sends it:
// without a name, all of it at each change.
type Server struct {
	// IsOld has no deltas.
	IsOld bool
	// Token is asked for, in the metadata of each stream; empty for none.
	Token string

	listener net.Listener

	mu      sync.Mutex
	table   *anypb.Any // nil: there is none yet
	version int
	deltas  map[chan cache.DeltaResponse]*discovery.DeltaDiscoveryRequest
	wholes  map[chan cache.Response]*discovery.DiscoveryRequest

	seen Seen
	stop func()
}

// Seen is what a server has seen of its clients.
type Seen struct {
	Nodes   []*core.Node // of streams
	Headers []metadata.MD
	Faults  []string // of tables that were refused
	Version int      // of the table
	Taken   int      // version of the last table that was taken
	Deltas  int      // who waits for changes
}

// Seen is what it has seen so far.
func (i *Server) Seen() Seen {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.seen
	s.Version, s.Deltas = i.version, len(i.deltas)
	return s
}

// Start serves until the test ends, or until Stop.
func (i *Server) Start(t testing.TB, address string, options ...grpc.ServerOption) {
	t.Helper()
	var err error
	if i.listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	i.deltas = make(map[chan cache.DeltaResponse]*discovery.DeltaDiscoveryRequest)
	i.wholes = make(map[chan cache.Response]*discovery.DiscoveryRequest)
	ctx, cancel := context.WithCancel(context.Background())
	often := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing})
	s := grpc.NewServer(append(options, grpc.StreamInterceptor(i.authenticate), often)...)
	var xds discovery.AggregatedDiscoveryServiceServer = server.NewServer(ctx, i, i.callbacks())
	if i.IsOld {
		xds = wholeOnly{server: xds}
	}
	discovery.RegisterAggregatedDiscoveryServiceServer(s, xds)
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Serve(i.listener); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	i.stop = sync.OnceFunc(func() {
		cancel()
		s.Stop()
		running.Wait()
	})
	t.Cleanup(i.stop)
}

// Address is where it listens.
func (i *Server) Address() string { return i.listener.Addr().String() }

// Stop ends it, with all connections.
func (i *Server) Stop() { i.stop() }

// wholeOnly is a server from before there were deltas.
type wholeOnly struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server discovery.AggregatedDiscoveryServiceServer
}

func (w wholeOnly) StreamAggregatedResources(s discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return w.server.StreamAggregatedResources(s)
}

func (i *Server) authenticate(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	header, _ := metadata.FromIncomingContext(stream.Context())
	i.mu.Lock()
	i.seen.Headers = append(i.seen.Headers, header)
	token := i.Token
	i.mu.Unlock()
	if got := header.Get("authorization"); token != "" && (len(got) != 1 || got[0] != "Bearer "+token) {
		return status.Error(codes.Unauthenticated, "100% not a token of ours")
	}
	return handler(srv, stream)
}

func (i *Server) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			return i.heard(r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
		},
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			return i.heard(r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
		},
	}
}

// heard notes a subscription, or how a table was received. On one stream nonces count.
func (i *Server) heard(node *core.Node, typeURL, nonce, fault string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case typeURL != TableType:
		return status.Errorf(codes.InvalidArgument, "who has asked for %s?", typeURL)
	case nonce == "":
		i.seen.Nodes = append(i.seen.Nodes, node)
	case fault != "":
		i.seen.Faults = append(i.seen.Faults, fault)
	default:
		i.seen.Taken = i.version
	}
	return nil
}

// Set changes the table, for everybody who watches.
func (i *Server) Set(typeURL string, table []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.table = &anypb.Any{TypeUrl: typeURL, Value: table}
	i.version++
	for to, r := range i.deltas {
		delete(i.deltas, to)
		to <- i.delta(r)
	}
	for to, r := range i.wholes {
		delete(i.wholes, to)
		to <- i.whole(r)
	}
}

// Remove tells those who watch in deltas that the table is gone.
func (i *Server) Remove() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.table = nil
	i.version++
	for to, r := range i.deltas {
		delete(i.deltas, to)
		to <- &cache.DeltaPassthroughResponse{DeltaRequest: r, NextVersionMap: i.versions(),
			DeltaDiscoveryResponse: &discovery.DeltaDiscoveryResponse{TypeUrl: TableType, RemovedResources: []string{""}}}
	}
}

func (i *Server) versions() map[string]string { return map[string]string{"": strconv.Itoa(i.version)} }

func (i *Server) delta(r *discovery.DeltaDiscoveryRequest) cache.DeltaResponse {
	return &cache.DeltaPassthroughResponse{DeltaRequest: r, NextVersionMap: i.versions(),
		DeltaDiscoveryResponse: &discovery.DeltaDiscoveryResponse{TypeUrl: TableType, SystemVersionInfo: strconv.Itoa(i.version),
			ControlPlane: &core.ControlPlane{Identifier: "test"}, Resources: []*discovery.Resource{{Resource: i.table}}}}
}

func (i *Server) whole(r *discovery.DiscoveryRequest) cache.Response {
	return &cache.PassthroughResponse{Request: r, ReturnedResources: i.versions(),
		DiscoveryResponse: &discovery.DiscoveryResponse{TypeUrl: TableType, VersionInfo: strconv.Itoa(i.version), Resources: []*anypb.Any{i.table}}}
}

// CreateDeltaWatch implements cache.Cache.
func (i *Server) CreateDeltaWatch(r *cache.DeltaRequest, known cache.Subscription, to chan cache.DeltaResponse) (func(), error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.table != nil && known.ReturnedResources()[""] != strconv.Itoa(i.version) {
		to <- i.delta(r)
		return nil, nil
	}
	i.deltas[to] = r
	return func() { i.forget(func() { delete(i.deltas, to) }) }, nil
}

// CreateWatch implements cache.Cache.
func (i *Server) CreateWatch(r *cache.Request, known cache.Subscription, to chan cache.Response) (func(), error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.table != nil && known.ReturnedResources()[""] != strconv.Itoa(i.version) {
		to <- i.whole(r)
		return nil, nil
	}
	i.wholes[to] = r
	return func() { i.forget(func() { delete(i.wholes, to) }) }, nil
}

func (i *Server) forget(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

// Fetch implements cache.Cache: nobody asks without a stream.
func (i *Server) Fetch(context.Context, *cache.Request) (cache.Response, error) {
	return nil, errors.New("not here")
}
