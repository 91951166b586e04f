// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"fmt"

	"github.com/miekg/dns"
)

const (
	// farthest is what a pointer can point at (RFC 1035 section 4.1.4).
	farthest = 1<<14 - 1
	// unwritten is an owner that stands nowhere yet.
	unwritten = farthest + 1
)

// writer writes an answer of our own: its header, the question as the client has it, and
// records in the order of their sections.
type writer struct {
	out     []byte // the message is what stands behind base
	base    int
	section int
	counts  [3]uint16
	rcode   uint8
	// name is the owner of the next record, in lower case, and owner where that stands, or
	// unwritten.
	name  []byte
	owner int
	data  int // of the record that is being written
	// labels is where names begin that others may end with. There may be more than have a place.
	labels [48]uint16
	known  int
}

// begin writes the question of a query, which ends there, behind out. It owns the first
// record.
func (w *writer) begin(out, query, name []byte) {
	w.base, w.out, w.name = len(out), append(out, query...), name
	w.section, w.counts, w.rcode, w.owner, w.known = inAnswer, [3]uint16{}, dns.RcodeSuccess, headerLen, 0
}

// finish writes the header. AA speaks of the first owner, which is ours (RFC 1035 section
// 4.1.1).
func (w *writer) finish() {
	m := w.message()
	flags := binary.BigEndian.Uint16(m[2:])
	setFlags(m, flags&(bitRD|bitCD)|bitQR|bitAA|bitRA|uint16(w.rcode))
	setCount(m, countQD, 1)
	for section, at := range [...]int{countAN, countNS, countAR} {
		binary.BigEndian.PutUint16(m[at:], w.counts[section])
	}
}

// parsed is the message that is written, an answer for a name.
func (w *writer) parsed(asked wireName) (*message, error) {
	m, err := parseMessage(w.message())
	if err != nil {
		return nil, fmt.Errorf("write the answer for %s: %w", asked, err)
	}
	return m, nil
}

func (w *writer) message() []byte { return w.out[w.base:] }
func (w *writer) len() int        { return len(w.out) - w.base }

// record begins a record of the owner; end ends it.
func (w *writer) record(qtype uint16, ttl uint32) {
	if w.owner > farthest {
		w.owner = w.putName(w.name)
	} else {
		w.putPointer(w.owner)
	}
	w.out = binary.BigEndian.AppendUint16(w.out, qtype)
	w.out = binary.BigEndian.AppendUint16(w.out, dns.ClassINET)
	w.out = binary.BigEndian.AppendUint32(w.out, ttl)
	w.out = append(w.out, 0, 0)
	w.data = len(w.out)
}

func (w *writer) end() {
	binary.BigEndian.PutUint16(w.out[w.data-2:], uint16(len(w.out)-w.data))
	w.counts[w.section]++
}

// put writes a whole record.
func (w *writer) put(qtype uint16, ttl uint32, rdata string) {
	w.record(qtype, ttl)
	w.out = append(w.out, rdata...)
	w.end()
}

// putSOA writes how long it may be believed that there is nothing: in the authority section,
// or where it is what was asked for.
func (w *writer) putSOA(ttl uint32) {
	w.record(dns.TypeSOA, ttl)
	// RFC 6761: invalid is sure to be nobody's.
	w.out = append(w.out, "\x07dnsteer\x07invalid\x00\x0ahostmaster"...)
	w.putPointer(w.data - w.base) // for the rest of who is responsible
	// Serial, refresh, retry, expire, minimum.
	for _, v := range [...]uint32{1, 3600, 600, 86400, ttl} {
		w.out = binary.BigEndian.AppendUint32(w.out, v)
	}
	w.end()
}

func (w *writer) putPointer(at int) {
	w.out = binary.BigEndian.AppendUint16(w.out, 0xc000|uint16(at))
}

// putName writes a name, with a pointer to the longest end of it that stands already (RFC
// 1035 section 4.1.4), and returns where the name stands.
func (w *writer) putName(name []byte) (at int) {
	if w.known == 0 {
		w.learn(headerLen)
	}
	at = w.len()
	rest := name
	for rest[0] != 0 {
		if there, ok := w.find(rest); ok {
			w.putPointer(there)
			if len(rest) == len(name) {
				return there
			}
			w.learn(at)
			return at
		}
		n := 1 + int(rest[0])
		w.out = append(w.out, rest[:n]...)
		rest = rest[n:]
	}
	w.out = append(w.out, 0)
	w.learn(at)
	return at
}

// putText is putName for a name that is no slice.
func (w *writer) putText(name string) {
	var buf [maxName]byte
	w.putName(buf[:copy(buf[:], name)])
}

// learn notes the labels of a name that has just been written.
func (w *writer) learn(at int) {
	m := w.message()
	for w.known < len(w.labels) && at <= farthest && m[at] != 0 && m[at] <= maxLabel {
		w.labels[w.known] = uint16(at)
		w.known++
		at += 1 + int(m[at])
	}
}

// find returns where a name stands, letter for letter.
func (w *writer) find(name []byte) (int, bool) {
	for _, at := range w.labels[:w.known] {
		if w.stands(name, int(at)) {
			return int(at), true
		}
	}
	return 0, false
}

// stands reports whether a name stands at a place.
func (w *writer) stands(name []byte, at int) bool {
	m := w.message()
	for {
		n := int(m[at])
		if n > maxLabel {
			at = (n&0x3f)<<8 | int(m[at+1])
			continue
		}
		if n != int(name[0]) {
			return false
		}
		if n == 0 {
			return true
		}
		if string(m[at+1:at+1+n]) != string(name[1:1+n]) {
			return false
		}
		at, name = at+1+n, name[1+n:]
	}
}
