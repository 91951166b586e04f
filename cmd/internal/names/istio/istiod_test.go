// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// istiod is an ADS server of go-control-plane that has one resource, in the form in which
// istiod sends it: without a name, all of it at each change.
type istiod struct {
	listener net.Listener
	// isOld has no deltas.
	isOld bool
	// token is asked for, in the metadata of each stream; empty for none.
	token string

	mu      sync.Mutex
	table   *anypb.Any // nil: there is none yet
	version int
	deltas  map[chan cache.DeltaResponse]*discovery.DeltaDiscoveryRequest
	wholes  map[chan cache.Response]*discovery.DiscoveryRequest

	nodes   []*core.Node // of streams
	headers []metadata.MD
	faults  []string // of tables that were refused
	taken   int      // version of the last table that was taken
	stop    func()
}

// startIstiod serves until the test ends, or until stop.
func startIstiod(t testing.TB, address string, i *istiod, options ...grpc.ServerOption) {
	t.Helper()
	var err error
	if i.listener, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	i.deltas = make(map[chan cache.DeltaResponse]*discovery.DeltaDiscoveryRequest)
	i.wholes = make(map[chan cache.Response]*discovery.DiscoveryRequest)
	ctx, cancel := context.WithCancel(context.Background())
	// As istiod, it ends connections that are asked for signs of life too often.
	often := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: quick.ping / 2})
	s := grpc.NewServer(append(options, grpc.StreamInterceptor(i.authenticate), often)...)
	var xds discovery.AggregatedDiscoveryServiceServer = server.NewServer(ctx, i, i.callbacks())
	if i.isOld {
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

func (i *istiod) address() string { return i.listener.Addr().String() }

// wholeOnly is a server from before there were deltas.
type wholeOnly struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server discovery.AggregatedDiscoveryServiceServer
}

func (w wholeOnly) StreamAggregatedResources(s discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return w.server.StreamAggregatedResources(s)
}

func (i *istiod) authenticate(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	header, _ := metadata.FromIncomingContext(stream.Context())
	i.mu.Lock()
	i.headers = append(i.headers, header)
	token := i.token
	i.mu.Unlock()
	if got := header.Get("authorization"); token != "" && (len(got) != 1 || got[0] != "Bearer "+token) {
		return status.Error(codes.Unauthenticated, "100% not a token of ours")
	}
	return handler(srv, stream)
}

func (i *istiod) callbacks() server.Callbacks {
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
func (i *istiod) heard(node *core.Node, typeURL, nonce, fault string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case typeURL != tableType:
		return status.Errorf(codes.InvalidArgument, "who has asked for %s?", typeURL)
	case nonce == "":
		i.nodes = append(i.nodes, node)
	case fault != "":
		i.faults = append(i.faults, fault)
	default:
		i.taken = i.version
	}
	return nil
}

// set changes the table, for everybody who watches.
func (i *istiod) set(typeURL string, table []byte) {
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

// remove tells those who watch in deltas that the table is gone.
func (i *istiod) remove() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.table = nil
	i.version++
	for to, r := range i.deltas {
		delete(i.deltas, to)
		to <- &cache.DeltaPassthroughResponse{DeltaRequest: r, NextVersionMap: i.versions(),
			DeltaDiscoveryResponse: &discovery.DeltaDiscoveryResponse{TypeUrl: tableType, RemovedResources: []string{""}}}
	}
}

func (i *istiod) versions() map[string]string { return map[string]string{"": strconv.Itoa(i.version)} }

func (i *istiod) delta(r *discovery.DeltaDiscoveryRequest) cache.DeltaResponse {
	return &cache.DeltaPassthroughResponse{DeltaRequest: r, NextVersionMap: i.versions(),
		DeltaDiscoveryResponse: &discovery.DeltaDiscoveryResponse{TypeUrl: tableType, SystemVersionInfo: strconv.Itoa(i.version),
			ControlPlane: &core.ControlPlane{Identifier: "test"}, Resources: []*discovery.Resource{{Resource: i.table}}}}
}

func (i *istiod) whole(r *discovery.DiscoveryRequest) cache.Response {
	return &cache.PassthroughResponse{Request: r, ReturnedResources: i.versions(),
		DiscoveryResponse: &discovery.DiscoveryResponse{TypeUrl: tableType, VersionInfo: strconv.Itoa(i.version), Resources: []*anypb.Any{i.table}}}
}

// CreateDeltaWatch implements cache.Cache.
func (i *istiod) CreateDeltaWatch(r *cache.DeltaRequest, known cache.Subscription, to chan cache.DeltaResponse) (func(), error) {
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
func (i *istiod) CreateWatch(r *cache.Request, known cache.Subscription, to chan cache.Response) (func(), error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.table != nil && known.ReturnedResources()[""] != strconv.Itoa(i.version) {
		to <- i.whole(r)
		return nil, nil
	}
	i.wholes[to] = r
	return func() { i.forget(func() { delete(i.wholes, to) }) }, nil
}

func (i *istiod) forget(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

// Fetch implements cache.Cache: nobody asks without a stream.
func (i *istiod) Fetch(context.Context, *cache.Request) (cache.Response, error) {
	return nil, errors.New("not here")
}

// info is what istiod says of a host.
type info struct {
	ips          []string
	registry     string
	short, space string
	also         []string
}

// kubernetes is a host of the registry Kubernetes in a namespace.
func kubernetes(name, space string, ips ...string) info {
	return info{ips: ips, registry: "Kubernetes", short: name, space: space}
}

// external is a host of a ServiceEntry.
func external(ips ...string) info { return info{ips: ips, registry: "External"} }

// tableMessage is the message in the words of Istio's public description of it.
var tableMessage = func() protoreflect.MessageDescriptor {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &number, Type: &kind, Label: &label}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	const text, message = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	const full = ".istio.networking.nds.v1.NameTable"
	isEntry := true
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("nds.proto"), Package: proto.String("istio.networking.nds.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name:  proto.String("NameTable"),
			Field: []*descriptorpb.FieldDescriptorProto{field("table", 1, message, many, full+".TableEntry")},
			NestedType: []*descriptorpb.DescriptorProto{
				{Name: proto.String("NameInfo"), Field: []*descriptorpb.FieldDescriptorProto{
					field("ips", 1, text, many, ""), field("registry", 2, text, one, ""), field("shortname", 3, text, one, ""),
					field("namespace", 4, text, one, ""), field("alt_hosts", 5, text, many, "")}},
				{Name: proto.String("TableEntry"), Options: &descriptorpb.MessageOptions{MapEntry: &isEntry}, Field: []*descriptorpb.FieldDescriptorProto{
					field("key", 1, text, one, ""), field("value", 2, message, one, full+".NameInfo")}},
			},
		}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("NameTable")
}()

// table is a name table as the protobuf library writes it.
func table(t testing.TB, hosts map[string]info) []byte {
	t.Helper()
	m := dynamicpb.NewMessage(tableMessage)
	field := tableMessage.Fields().ByName("table")
	all := m.Mutable(field).Map()
	for name, i := range hosts {
		value := all.NewValue()
		fields := field.MapValue().Message().Fields()
		set := func(name, s string) {
			if s != "" {
				value.Message().Set(fields.ByName(protoreflect.Name(name)), protoreflect.ValueOfString(s))
			}
		}
		list := func(name string, texts []string) {
			l := value.Message().Mutable(fields.ByName(protoreflect.Name(name))).List()
			for _, s := range texts {
				l.Append(protoreflect.ValueOfString(s))
			}
		}
		list("ips", i.ips)
		list("alt_hosts", i.also)
		set("registry", i.registry)
		set("shortname", i.short)
		set("namespace", i.space)
		all.Set(protoreflect.ValueOfString(name).MapKey(), value)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve sets the table to these hosts.
func (i *istiod) serve(t testing.TB, hosts map[string]info) {
	t.Helper()
	i.set(tableType, table(t, hosts))
}
