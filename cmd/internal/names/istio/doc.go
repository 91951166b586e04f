// SPDX-License-Identifier: Apache-2.0

// Package istio takes the names of a mesh from istiod, as a sidecar does for its DNS
// proxy, and keeps them in a layer of a [resolver.Names].
//
// Istiod serves one message, a table of host names with their addresses, over the
// aggregated discovery service of Envoy's xDS: type.googleapis.com/
// istio.networking.nds.v1.NameTable. It sends all of it whenever a Service or a
// ServiceEntry changes.
//
// xDS is gRPC, and gRPC is HTTP/2 with five octets before each message. Go's own client
// speaks that (stream.go), and four messages are read and written by hand (message.go,
// table.go): google.golang.org/grpc and what is generated for all of Envoy made the agent
// of every node 45 MB of program instead of 32. The tests have them, as the other side.
//
// # Invariants
//
//   - A table is served whole, or not at all: one that cannot be read is refused with
//     the reason, and the one before stays.
//   - While istiod is away the names stay as they were, for as long as Config.MaxAge
//     says; its age is in the origin of every record.
//   - A change costs the resolver what it changes, though all of it was sent.
//   - A bearer token never leaves in the clear.
//
// README.md of the parent has the behaviours with their tests.
package istio
