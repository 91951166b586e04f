// SPDX-License-Identifier: Apache-2.0

package testenv

import "runtime"

// Heap is how many octets are in use after a collection.
func Heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
