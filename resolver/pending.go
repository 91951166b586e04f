// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// pending is the tries that wait on one socket for their answers, by the ID that each
// has there.
type pending struct {
	// idle is called, with mu held, when nobody waits any more, and when nobody may
	// come any more.
	idle func()

	mu      sync.Mutex      // guards what follows
	tries   map[uint32]*try // by ID: the runtime finds keys of this size twice as fast
	dice    dice
	taken   int  // tries so far
	ended   int  // those that wait no more
	retired bool // the socket takes no more
	closed  bool
}

// add gives a try an unpredictable ID that no other one has (RFC 5452 section 9.2), and
// counts; zero if the socket takes no more. There are many more IDs than queries that may
// wait.
func (p *pending) add(t *try) (id uint16, nth int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired {
		return 0, 0
	}
	if p.tries == nil {
		p.tries = make(map[uint32]*try)
	}
	id = p.dice.id()
	for p.tries[uint32(id)] != nil {
		id = p.dice.id()
	}
	p.tries[uint32(id)] = t
	p.taken++
	return id, p.taken
}

// take ends the wait for a try's answer, true for the first who does.
func (p *pending) take(t *try, id uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tries[uint32(id)] != t {
		return false
	}
	delete(p.tries, uint32(id))
	p.ended++
	if len(p.tries) == 0 {
		p.idle()
	}
	return true
}

// owes reports whether a try waits.
func (p *pending) owes(t *try, id uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tries[uint32(id)] == t
}

// isClosed reports whether nobody waits, nor may come.
func (p *pending) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// count is how many wait.
func (p *pending) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tries)
}

// retire lets the socket take no more.
func (p *pending) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	if len(p.tries) == 0 {
		p.idle()
	}
}

// abort ends the wait of all, and returns them.
func (p *pending) abort() map[uint32]*try {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.tries
	p.tries = nil
	p.idle()
	return all
}

// match finds the try that a message answers, and ends its wait; nil if it answers
// none. What does not match is noise or an attack, and the try goes on waiting. The
// answer is read into m and refers to wire; with an error only its question is there, in
// m.
func (p *pending) match(m *message, wire []byte) (t *try, reply *message, err error) {
	if len(wire) < headerLen {
		return nil, nil, nil
	}
	id := binary.BigEndian.Uint16(wire)
	p.mu.Lock()
	t = p.tries[uint32(id)]
	p.mu.Unlock()
	if t == nil || !t.left.Load() || m.begin(wire, t.req.msg.name) != nil || !isReply(m, t.req, id) {
		return nil, nil, nil
	}
	bad := m.parseRecords()
	if bad == nil && !t.accepts(m) || !p.take(t, id) {
		return nil, nil, nil
	}
	if bad != nil {
		return t, nil, fmt.Errorf("%w: %v", errMalformed, bad)
	}
	return t, m, nil
}
