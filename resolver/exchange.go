// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"net/netip"
)

// Request is one well-formed message of a client.
//
// A Request is shared by every stage of the chain and by the attempts that run
// side by side: nobody modifies it or the bytes below it. A stage that asks
// something else derives a Request of its own.
type Request struct {
	Client netip.AddrPort // who asks
	Local  netip.Addr     // the address that was asked, unmapped
	TCP    bool           // asked over TCP

	scope *Scope // nil for questions of our own
	msg   *message
	edns  *edns // nil without an OPT record
	// verbatim requests leave as they are, but for the ID.
	verbatim bool
	// spelt requests have a question whose case is a secret of this hop.
	spelt bool

	// upstreams are whom to ask, and key is for what may be shared; the route
	// stage sets both.
	upstreams []Upstream
	key       key
	keyed     bool
}

// client is who asks, where each must have a fair share.
func (r *Request) client() client { return client{r.scope.number, r.Client.Addr()} }

// own is the key of what is the scope's own, and of the transport, since what came by TCP
// goes on by TCP: how upstreams failed, what is in flight.
func (r *Request) own() key {
	k := r.key
	k.set.scope = r.scope.number
	if r.TCP {
		k.bits |= keyTCP
	}
	return k
}

// Response is what a stage of the chain answers. Its ID, the case of its
// question and its OPT record are those of the hop behind it; reply.go fits them
// to the client. A Response may be shared: nobody modifies it.
type Response struct {
	msg *message
	// origin says in words where the answer came from.
	origin string
	// upstream gave it, over TCP or not; invalid for answers of our own.
	upstream netip.AddrPort
	tcp      bool
	// from is where it came from, and saved says that without us the client's next
	// question would have cost an upstream query.
	from  source
	saved bool
	// rest is set when more messages follow (a zone transfer).
	rest *transfer
}

// Exchanger answers one request: the whole resolver, and each stage of it.
//
// Exchange is safe for concurrent use, returns before the context's deadline or
// soon after, and returns either a response or an error. An error becomes an
// rcode only in server.go; a *failure says which. Whoever gets a Response with
// rest set must close it.
type Exchanger interface {
	Exchange(ctx context.Context, req *Request) (*Response, error)
}

// Middleware puts a stage in front of an Exchanger.
type Middleware func(Exchanger) Exchanger

// chain puts the stages in front of last, the first one outermost.
func chain(last Exchanger, stages ...Middleware) Exchanger {
	for i := len(stages) - 1; i >= 0; i-- {
		last = stages[i](last)
	}
	return last
}
