// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// A heart is one word in a map that processes share with the datapath by mmap: when it last
// beat, and whose it is. Every scope names the heart by which it lives, so one word is all
// that a process writes for all its scopes. What of a word is what, as in bpf/steer.h.
const (
	heartTickBits = 20 // of CLOCK_MONOTONIC in nanoseconds: 1.05 ms
	heartTimeBits = 40
	heartTimeMask = 1<<heartTimeBits - 1
)

// heartStale is for how long a heart must have stood still before another process may have
// its word. Its scopes have been passed by for a long time then. The process may live: it
// finds the word changed, and takes another.
const heartStale = 10 * time.Second

// pulse is a claim on a word: its number, and the generation that tells it from those who
// had the word before. The zero pulse is nobody's.
type pulse struct{ slot, generation uint32 }

func pulseOf(s bpf.SteerScope) pulse { return pulse{s.Heart, s.Generation} }

// word is what the pulse looks like that has just beaten.
func (p pulse) word() uint64 {
	return uint64(p.generation)<<heartTimeBits | monotonic()>>heartTickBits&heartTimeMask
}

// hearts are the words. It is safe for concurrent use, also by several processes.
type hearts struct {
	mu     sync.RWMutex // held while words are used; close waits
	memory []byte
	words  []uint64 // nil when closed
}

func mapHearts(m *ebpf.Map) (*hearts, error) {
	const size = int(unsafe.Sizeof(uint64(0)))
	memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries())*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map hearts: %w", os.NewSyscallError("mmap", err))
	}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), m.MaxEntries())
	return &hearts{memory: memory, words: words}, nil
}

// beat tells whether the pulse still has its word, and if so renews it.
func (h *hearts) beat(p pulse) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if p.generation == 0 || int(p.slot) >= len(h.words) {
		return false
	}
	word := &h.words[p.slot]
	for {
		old := atomic.LoadUint64(word)
		if old>>heartTimeBits != uint64(p.generation) {
			return false
		}
		// Should somebody take the word at this moment, it is his.
		if atomic.CompareAndSwapUint64(word, old, p.word()) {
			return true
		}
	}
}

// claim takes a word that stands still, and lets it beat once.
func (h *hearts) claim() (pulse, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.words == nil {
		return pulse{}, fmt.Errorf("claim a heart: %w", os.ErrClosed)
	}
	first := rand.IntN(len(h.words))
	for i := range h.words {
		slot := (first + i) % len(h.words)
		old := atomic.LoadUint64(&h.words[slot])
		age := (monotonic()>>heartTickBits - old) & heartTimeMask
		if age < uint64(heartStale)>>heartTickBits && old != 0 {
			continue
		}
		p := pulse{uint32(slot), uint32(old>>heartTimeBits) + 1}
		if p.generation > 1<<(64-heartTimeBits)-1 {
			p.generation = 1
		}
		if atomic.CompareAndSwapUint64(&h.words[slot], old, p.word()) {
			return p, nil
		}
	}
	return pulse{}, fmt.Errorf("claim a heart: all %d beat", len(h.words))
}

func (h *hearts) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.words != nil {
		h.words = nil
		_ = unix.Munmap(h.memory)
	}
}

// monotonic is what bpf_ktime_get_ns returns.
func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return uint64(ts.Nano())
}
