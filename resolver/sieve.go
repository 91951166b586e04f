// SPDX-License-Identifier: Apache-2.0

package resolver

// sieve is a list of cache entries, newest first, with a hand that looks for one to
// give away.
type sieve struct {
	newest, oldest, hand *cached
	octets               int
}

func (q *sieve) add(e *cached) {
	e.older = q.newest
	if q.newest != nil {
		q.newest.newer = e
	}
	q.newest = e
	if q.oldest == nil {
		q.oldest = e
	}
	q.octets += e.octets
}

func (q *sieve) remove(e *cached) {
	if q.hand == e {
		q.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		q.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		q.oldest = e.newer
	}
	e.newer, e.older = nil, nil
	q.octets -= e.octets
}

// victim is the next entry that was not asked for since the hand passed it. The
// list is not empty.
func (q *sieve) victim() *cached {
	at := q.hand
	for {
		if at == nil {
			at = q.oldest
		}
		if !at.visited.Swap(false) {
			q.hand = at
			return at // remove moves the hand on
		}
		at = at.newer
	}
}
