// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	// firstPause and maxPause bound how long a failure is believed: RFC 9520
	// section 3.2 wants a second at least, and that repetition makes it longer. An
	// upstream is next door, and back sooner than the five minutes it allows.
	firstPause, maxPause = time.Second, 5 * time.Second
	// forgetFaults is the time without a question after which counting begins anew.
	forgetFaults = 5 * time.Minute
)

// fault is a failure to get an answer. It never changes.
type fault struct {
	failure *failure
	since   time.Time
	pause   time.Duration // until the upstreams are asked again
}

// newFault makes a fault of what came instead of an answer, or nil: of a query that
// was given up on our side there is nothing to learn.
func newFault(res *Response, err error, before *fault, now time.Time) *fault {
	f := failureOf(res, err)
	if f == nil {
		return nil
	}
	pause := firstPause
	if before != nil && now.Sub(before.since) < forgetFaults {
		pause = min(2*before.pause, maxPause)
	}
	return &fault{failure: f, since: now, pause: pause}
}

// failureOf is what a client is told about an upstream's error or refusal, nil where
// there is none.
func failureOf(res *Response, err error) *failure {
	if err != nil {
		if f := (*failure)(nil); errors.As(err, &f) && f.upstream {
			return f
		}
		return nil
	}
	if !isRefusal(res.msg) || res.rest != nil {
		return nil
	}
	rcode := res.msg.rcode()
	remarks, _ := remarksOf(res.msg)
	return &failure{rcode: uint16(rcode), ede: noEDE, remarks: remarks, upstream: true,
		text: fmt.Sprintf("upstream %s answered %s", res.upstream, dns.RcodeToString[rcode])}
}

// holds reports whether the upstreams are left alone for now.
func (f *fault) holds(now time.Time) bool {
	return f != nil && now.Sub(f.since) < f.pause
}

// again is the failure for another client, with the remark that it is not new
// (RFC 8914 section 4.14).
func (f *fault) again(now time.Time) *failure {
	again := *f.failure
	text := now.Sub(f.since).Round(time.Millisecond).String() + " ago"
	if again.ede == noEDE {
		text = again.text + ", " + text
	}
	again.remarks = append(slices.Clip(again.remarks), extendedError(dns.ExtendedErrorCodeCachedError, text))
	return &again
}

func (f *fault) size() int {
	if f == nil {
		return 0
	}
	return overhead/2 + len(f.failure.text) + optionsLen(f.failure.remarks)
}
