// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"crypto/rand"
	"encoding/binary"
)

// dice are unpredictable numbers. The kernel is asked once for many.
type dice struct {
	octets [64]byte
	unused int // of octets, their end
}

// roll returns the next n octets, at most as many as there are.
func (d *dice) roll(n int) []byte {
	if d.unused < n {
		_, _ = rand.Read(d.octets[:]) // crypto/rand does not fail
		d.unused = len(d.octets)
	}
	d.unused -= n
	return d.octets[d.unused : d.unused+n]
}

func (d *dice) id() uint16 { return binary.BigEndian.Uint16(d.roll(2)) }

// below is a number below n, which is at most 256.
func (d *dice) below(n int) int {
	limit := 256 - 256%n // or some would come more often
	for {
		if octet := int(d.roll(1)[0]); octet < limit {
			return octet % n
		}
	}
}
