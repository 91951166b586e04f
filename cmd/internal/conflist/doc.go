// SPDX-License-Identifier: Apache-2.0

// Package conflist puts dnsteer-cni into a node's CNI configuration, keeps it there, and
// takes it out again.
//
// The configuration belongs to others. It is edited as text: our entry goes behind the
// last of "plugins", every other byte stays what it was, and taking the entry out gives
// the file back to the byte. So no copy is kept, and there is no state but the file.
//
//	"plugins": [
//	  {"type": "bridge", ...},
//	  {"type": "portmap", ...},
//	  {"type": "dnsteer-cni", ...}    added, with the comma before it
//	]
//
// A single plugin's .conf cannot hold a chain. It becomes a list of its own beside, and
// is itself set aside under a name that no runtime reads, to be put back.
package conflist
