// SPDX-License-Identifier: Apache-2.0

package clients

import "strings"

// Kind is what a question asks for.
type Kind string

const (
	// Address wants A and AAAA.
	Address Kind = "address"
	// Text wants TXT.
	Text Kind = "text"
)

// Question is put to every client that can ask it.
type Question struct {
	Name string // without the final dot
	Kind Kind
	Want Answer
}

// Table tells whether only the name table has the name.
func (q Question) Table() bool {
	return strings.HasSuffix(q.Name, ".cluster2.example.org")
}

// Answer is what a client made of the replies.
type Answer struct {
	Addrs    []string // sorted
	Text     int      // bytes of the text
	NotFound bool     // the name does not exist, for at least one type
}

// Questions covers both ways a query can go, and how it can end.
func Questions() []Question {
	return []Question{
		// No AAAA beside the A: for that type a resolver must say "no data".
		{Name: "reviews.cluster2.example.org", Kind: Address, Want: Answer{Addrs: []string{"198.51.100.20"}}},
		{Name: "ratings.cluster2.example.org", Kind: Address, Want: Answer{Addrs: []string{"198.51.100.21", "2001:db8:100::21"}}},
		// An alias, from the nameserver.
		{Name: "www.example.org", Kind: Address, Want: Answer{Addrs: []string{"198.51.100.80", "2001:db8:100::80"}}},
		{Name: "nx.example.org", Kind: Address, Want: Answer{NotFound: true}},
		// Truncated over UDP, whole over TCP.
		{Name: "big.example.org", Kind: Text, Want: Answer{Text: bigText}},
	}
}
