// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/miekg/dns"
)

// Every question that is drawn is whole and for a name of the table, all names come about
// equally often, and another seed gives others.
func TestDraw(t *testing.T) {
	const drawn = 100_000
	questions, err := thousand.draw(drawn, 1)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(map[string]int)
	for rest := questions; len(rest) > 0; {
		end := 2 + int(binary.BigEndian.Uint16(rest))
		var query dns.Msg
		if err := query.Unpack(rest[2:end]); err != nil {
			t.Fatal(err)
		}
		q := query.Question[0]
		if q.Qtype != dns.TypeA || q.Qclass != dns.ClassINET || !query.RecursionDesired || query.Response {
			t.Fatalf("unlike a query for an address: %v", &query)
		}
		asked[q.Name]++
		rest = rest[end:]
	}
	total := 0
	for i := range int(thousand) {
		n := asked[thousand.name(i)+"."]
		total += n
		// Eight times 10, the standard deviation of what chance does.
		if n < 20 || n > 180 {
			t.Errorf("%s is asked for %d times of %d", thousand.name(i), n, drawn)
		}
	}
	if total != drawn {
		t.Errorf("%d questions for names of the table, want %d", total, drawn)
	}
	again, err := thousand.draw(drawn, 1)
	if err != nil || !bytes.Equal(again, questions) {
		t.Errorf("the same seed gives other questions (%v)", err)
	}
	if other, err := thousand.draw(drawn, 2); err != nil || bytes.Equal(other, questions) {
		t.Errorf("another seed gives the same questions (%v)", err)
	}
}
