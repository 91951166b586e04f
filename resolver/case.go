// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"crypto/rand"
	"slices"
	"sync/atomic"
	"time"
)

// Whoever forges an answer has to guess, beside ID and port, which letters of the name
// are large (draft-vixie-dnsext-dns0x20): a bit for each letter, from any server that
// copies the question as it came. Most do.

// speller spells questions to one upstream.
type speller struct {
	on bool // set once
	// until is when a server that changes the case is tried again, in nanoseconds.
	until atomic.Int64
}

// How long a server is spared that answers in another case: until TCP has found out, and
// then.
const (
	firstPlainCase = time.Minute
	plainCase      = time.Hour
)

// spell is a request to the upstream, in a case that nobody knows but it and us. A signed
// one is not ours to change.
func (s *speller) spell(req *Request, now time.Time) *Request {
	if !s.on || req.msg.signed || req.verbatim || now.UnixNano() < s.until.Load() {
		return req
	}
	msg := *req.msg
	msg.wire = slices.Clone(msg.wire)
	mixCase(msg.wire[headerLen : headerLen+len(msg.name)])
	spelt := *req
	spelt.msg, spelt.spelt = &msg, true
	return &spelt
}

// mixCase gives each letter of a name on the wire a random case. A length is no letter: it
// is at most 63.
func mixCase(name []byte) {
	var bits [maxName]byte
	_, _ = rand.Read(bits[:len(name)]) // crypto/rand does not fail
	for i, c := range name {
		if c |= 0x20; c >= 'a' && c <= 'z' {
			name[i] = c &^ (bits[i] & 0x20)
		}
	}
}

// isRespelt reports an answer with the question in another case than it was asked in.
func (t *try) isRespelt(reply *message) bool {
	return t.req.spelt && reply.count(countQD) > 0 && !bytes.Equal(reply.questions(), t.req.msg.questions())
}

// learn notes whether the server keeps the case, and reports whether an answer may be
// forged, for TCP to find out. Meanwhile the others are better off as they are. It may be
// called twice.
func (s *speller) learn(t *try, reply *message) (suspect bool) {
	if !t.req.spelt {
		return false
	}
	respelt, now := t.isRespelt(reply), time.Now()
	switch {
	case respelt && t.network == "udp":
		s.until.Store(now.Add(firstPlainCase).UnixNano())
		return true
	case respelt:
		s.until.Store(now.Add(plainCase).UnixNano())
	case t.network != "udp":
		s.until.Store(0)
	}
	return false
}
