// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"net/netip"
)

// MeshName is the name of Service i of a mesh of ten clusters, without a final dot: what
// large tables are tried with.
func MeshName(i int) string {
	return fmt.Sprintf("service-%d.namespace-%d.svc.cluster-%d.example.org", i, i/10%1000, i%10)
}

// MeshAddr is the Service's address.
func MeshAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}
