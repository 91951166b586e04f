// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"

	"github.com/miekg/dns"
)

// failure is an error that knows how to tell a client: an rcode, and an Extended
// DNS Error (RFC 8914) with a sentence for whoever debugs it.
type failure struct {
	rcode uint16 // 12 bits; above 15 needs an OPT record
	ede   uint16 // noEDE for none
	text  string
	// remarks are more extended errors.
	remarks []option
	// upstream failures are about the question and worth to be remembered
	// (RFC 9520); others are about the client, or about us at this moment.
	upstream bool
}

// noEDE marks a failure with whose words others have said why, in remarks. IANA has
// the numbers from 49152 for private use; this one never reaches a wire.
const noEDE = 0xffff

// errDrop says that silence is the right answer.
var errDrop = errors.New("not to be answered")

func (f *failure) Error() string { return f.text }

// asFailure turns any error into what the client is told. An error that nobody
// classified is SERVFAIL with its words: the client's log is the best place for
// them.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeOther, text: err.Error()}
}

func formErr(text string) *failure {
	return &failure{rcode: dns.RcodeFormatError, ede: dns.ExtendedErrorCodeOther, text: text}
}
