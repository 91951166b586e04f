// SPDX-License-Identifier: Apache-2.0

// Package kube makes names of the Services of Kubernetes clusters, any number of them,
// as the Kubernetes DNS specification 1.1 says, and keeps them in a layer of a
// [resolver.Names].
//
// A cluster is watched for what its DNS needs and nothing else: Services, and the
// EndpointSlices of headless ones. What is kept of an object are some words
// (object.go). What is served is a pure function of them (records.go, merge.go).
//
// # Invariants
//
//   - A cluster is served from when all of it has been listed, never in part.
//   - A cluster that is away keeps its names as they were, for as long as Config.MaxAge
//     says; its age is in the origin of every record. No cluster waits for another.
//   - A change costs what it changes: the names of one Service.
//
// README.md has the behaviours with their tests.
package kube
