// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The protocol buffers of envoy.service.discovery.v3 that are needed, by their numbers.
// What is not known is passed by, as protocol buffers want it.

// tableType is what istiod is asked for.
const tableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"

const service = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"

// dialect is one of the two forms of xDS.
type dialect struct {
	name, method string
	request      func(request) []byte
	response     func([]byte) (response, error)
}

var (
	delta = dialect{"delta", service + "DeltaAggregatedResources", deltaRequest, deltaResponse}
	whole = dialect{"state of the world", service + "StreamAggregatedResources", wholeRequest, wholeResponse}
)

// request subscribes, without a nonce, or answers a response: it takes it, or refuses it
// with a fault.
type request struct {
	node    []byte // packed; in the first request of a stream
	nonce   string
	version string // the last one that was taken
	fault   string
}

// response is what istiod sends.
type response struct {
	nonce, version, typeURL string
	resources               []resource
	removed                 []string
}

type resource struct {
	name, typeURL string
	value         []byte
}

func deltaRequest(r request) []byte {
	var b []byte
	b = appendBytes(b, 1, r.node)
	b = appendString(b, 2, tableType)
	b = appendString(b, 6, r.nonce)
	return appendBytes(b, 7, rpcStatus(r.fault))
}

func wholeRequest(r request) []byte {
	var b []byte
	b = appendString(b, 1, r.version)
	b = appendBytes(b, 2, r.node)
	b = appendString(b, 4, tableType)
	b = appendString(b, 5, r.nonce)
	return appendBytes(b, 6, rpcStatus(r.fault))
}

// rpcStatus is a google.rpc.Status: an internal error, with words.
func rpcStatus(fault string) []byte {
	if fault == "" {
		return nil
	}
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), statusInternal)
	return appendString(b, 2, fault)
}

func deltaResponse(b []byte) (response, error) {
	var r response
	err := fields(b, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case 1:
			r.version = string(value)
		case 2:
			var one resource
			err = fields(value, func(number protowire.Number, value []byte) error {
				switch number {
				case 2:
					return one.any(value)
				case 3:
					one.name = string(value)
				}
				return nil
			})
			r.resources = append(r.resources, one)
		case 4:
			r.typeURL = string(value)
		case 5:
			r.nonce = string(value)
		case 6:
			r.removed = append(r.removed, string(value))
		}
		return err
	})
	return r, err
}

func wholeResponse(b []byte) (response, error) {
	var r response
	err := fields(b, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case 1:
			r.version = string(value)
		case 2:
			var one resource
			err = one.any(value)
			r.resources = append(r.resources, one)
		case 4:
			r.typeURL = string(value)
		case 5:
			r.nonce = string(value)
		}
		return err
	})
	return r, err
}

// any reads a google.protobuf.Any.
func (r *resource) any(b []byte) error {
	return fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			r.typeURL = string(value)
		case 2:
			r.value = value
		}
		return nil
	})
}

// appendNode packs a node: its name, and what is known of it, as a google.protobuf.Struct
// of strings.
func appendNode(b []byte, id string, about [][2]string) []byte {
	var known []byte
	for _, pair := range about {
		if pair[1] == "" {
			continue
		}
		entry := appendString(nil, 1, pair[0])
		entry = appendBytes(entry, 2, appendString(nil, 3, pair[1]))
		known = appendBytes(known, 1, entry)
	}
	b = appendString(b, 1, id)
	return appendBytes(b, 3, known)
}

func appendString(b []byte, number protowire.Number, s string) []byte {
	return appendBytes(b, number, []byte(s))
}

// appendBytes leaves out what is empty: that is what its absence means.
func appendBytes(b []byte, number protowire.Number, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

// fields calls f for every field of a message that is a string, bytes or a message, and
// passes the others by.
func fields(b []byte, f func(number protowire.Number, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("field %d: %w", number, protowire.ParseError(n))
		}
		if err := f(number, value); err != nil {
			return fmt.Errorf("field %d: %w", number, err)
		}
		b = b[n:]
	}
	return nil
}

var errText = errors.New("it is not UTF-8")

// text is a string of a message.
func text(value []byte) (string, error) {
	if !utf8.Valid(value) {
		return "", errText
	}
	return string(value), nil
}
