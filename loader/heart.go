// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/dnsteer/dnsteer/bpf"
)

// Heart is the sign of life of a process, for all the scopes that it serves: one that has
// not beaten for 2 s is hung, and its scopes are passed by. Whether a scope is served at
// all, its listeners say. It is safe for concurrent use. Close it, after its Enrolments.
type Heart struct {
	scopes *ebpf.Map // socket storage of listeners
	tags   *ebpf.Map
	hearts *ebpf.Map
	words  *hearts
	known  sync.Map // uint32 tag number to netip.Addr; numbers never change

	mu    sync.Mutex          // guards what follows
	pulse pulse               // zero until the first scope is enrolled
	by    map[*Enrolment]bool // live by it
}

// NewHeart makes one that beats for any number of scopes. It goes on after the Datapath is
// closed.
func (d *Datapath) NewHeart() (*Heart, error) {
	var maps []*ebpf.Map
	for _, name := range []string{bpf.SteerMapSteerScope, bpf.SteerMapSteerTag, bpf.SteerMapSteerHeart} {
		m, err := d.maps[name].Clone()
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("share map %s: %w", name, err)
		}
		maps = append(maps, m)
	}
	return newHeart(maps)
}

// newHeart takes over scopes, tags and hearts.
func newHeart(maps []*ebpf.Map) (*Heart, error) {
	words, err := mapHearts(maps[2])
	if err != nil {
		closeMaps(maps)
		return nil, err
	}
	return &Heart{scopes: maps[0], tags: maps[1], hearts: maps[2], words: words, by: make(map[*Enrolment]bool)}, nil
}

func closeMaps(maps []*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close()
	}
}

// Attend is Datapath.Attend for a scope that lives by this heart.
func (h *Heart) Attend(l *Listeners) *Enrolment {
	e := &Enrolment{Listeners: l, heart: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.by[e] = true
	return e
}

// Adopt takes over a scope from another process, which has passed its Listeners.Files, and
// has it live by this heart: from here on it does not matter whether the other beats, nor
// whether it closes its own. The scope goes on as it is; it may be none yet, or none any
// more. Both processes have to use the same datapath.
//
// It owns the files, and closes them if it fails.
func (h *Heart) Adopt(listeners []*os.File) (*Enrolment, error) {
	l, err := inheritListeners(listeners)
	if err == nil && len(listeners) == 0 {
		err = errors.New("no listeners")
	}
	if err != nil {
		for _, f := range listeners {
			_ = f.Close()
		}
		return nil, fmt.Errorf("adopt scope: %w", err)
	}
	e := h.Attend(l)
	if err := e.follow(); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		e.Close()
		return nil, fmt.Errorf("adopt scope: %w", err)
	}
	return e, nil
}

// Beat renews the heartbeat of every scope that lives by the heart, by writing one word.
// Call it every HeartbeatInterval as long as, and only if, the resolver answers.
//
// A process that has stood still for 10 s may have lost its word to another. Beat then takes
// a new one, and tells it to each of its scopes.
func (h *Heart) Beat() error {
	h.mu.Lock()
	p := h.pulse
	h.mu.Unlock()
	if p == (pulse{}) || h.words.beat(p) {
		return nil // nothing lives by it yet, or all is well
	}
	if _, err := h.claimed(); err != nil {
		return err
	}
	var errs []error
	for _, e := range h.all() {
		if err := e.follow(); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// claimed returns a pulse that has just beaten: the heart's, or a new one.
func (h *Heart) claimed() (pulse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.words.beat(h.pulse) {
		return h.pulse, nil
	}
	p, err := h.words.claim()
	if err == nil {
		h.pulse = p
	}
	return p, err
}

func (h *Heart) all() []*Enrolment {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*Enrolment
	for e := range h.by {
		all = append(all, e)
	}
	return all
}

func (h *Heart) leave(e *Enrolment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.by, e)
}

// Close ends it. Its word stands still from then on, and is another's some time later.
func (h *Heart) Close() {
	h.words.close()
	closeMaps([]*ebpf.Map{h.scopes, h.tags, h.hearts})
}
