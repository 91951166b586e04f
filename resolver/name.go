// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// A wireName is a domain name as RFC 1035 section 3.1 puts it on the wire,
// uncompressed and in lower case, so that equal names are equal strings and the
// parent is a slice of the child. The empty wireName is none.
type wireName string

const (
	rootName = wireName("\x00")
	maxName  = 255 // octets with the root label, RFC 1035 section 2.3.4
	maxLabel = 63
	// maxHops is as many pointers as a name has labels; who compresses needs one.
	maxHops = maxName / 2
)

// parseName reads a host name as people write it. Only letters, digits, hyphen
// and underscore are taken: whatever else stands in a file of names is a typing
// error, or an IDN that the application asks for in its ASCII form.
func parseName(s string) (wireName, error) {
	wire, err := appendName(make([]byte, 0, len(s)+2), s)
	if err != nil {
		return "", err
	}
	return wireName(wire), nil
}

// appendName appends what parseName returns to an empty buffer.
func appendName[T string | []byte](wire []byte, s T) ([]byte, error) {
	// A length for the first label; that of each other takes the place of a dot.
	wire = append(append(wire, 0), s...)
	length := 0
	for i := 1; i < len(wire); i++ {
		c := nameBytes[wire[i]]
		if c == '.' {
			if !setLength(wire[length:i]) {
				return wire, nameError(string(s))
			}
			length = i
		} else if c == 0 {
			return wire, nameError(string(s))
		}
		wire[i] = c
	}
	if length == 0 || length < len(wire)-1 { // no final dot, which is the root label
		if !setLength(wire[length:]) {
			return wire, nameError(string(s))
		}
		wire, length = append(wire, 0), len(wire)
	}
	wire[length] = 0
	if len(wire) > maxName {
		return wire, nameError(string(s))
	}
	return wire, nil
}

// setLength sets the length of a label. It is false if there is no such label.
func setLength(label []byte) bool {
	n := len(label) - 1
	label[0] = byte(n)
	return 0 < n && n <= maxLabel
}

// nameError says what is wrong with a name.
func nameError(s string) error {
	trimmed := strings.TrimSuffix(s, ".")
	if trimmed == "" {
		return fmt.Errorf("name %q is empty", s)
	}
	for label := range strings.SplitSeq(trimmed, ".") {
		if err := checkLabel(label); err != nil {
			return fmt.Errorf("name %q: %w", s, err)
		}
	}
	return fmt.Errorf("name %q has %d octets, more than %d", s, len(trimmed)+2, maxName)
}

// nameBytes are the octets of names as people write them, in lower case. Others are 0.
var nameBytes = func() (all [256]byte) {
	for i := range all {
		if isNameByte(byte(i)) || i == '.' {
			all[i] = byte(i)
		}
	}
	lower(all[:])
	return all
}()

// parseWild is parseName for owners, which may begin with the label "*".
func parseWild(s string) (wireName, error) {
	rest, wild := strings.CutPrefix(s, "*.")
	if !wild {
		if strings.Contains(s, "*") {
			return "", fmt.Errorf("name %q: a wildcard is only the whole leftmost label, as in *.example.org", s)
		}
		return parseName(s)
	}
	name, err := parseName(rest)
	if err != nil {
		return "", err
	}
	if len(name)+len(wildLabel) > maxName {
		return "", fmt.Errorf("name %q has more than %d octets", s, maxName)
	}
	return wildLabel + name, nil
}

func checkLabel(label string) error {
	if label == "" {
		return errors.New("empty label")
	}
	if len(label) > maxLabel {
		return fmt.Errorf("label of %d octets, more than %d", len(label), maxLabel)
	}
	for _, c := range []byte(label) {
		if !isNameByte(c) {
			return fmt.Errorf("character %q is not a letter, digit, hyphen or underscore", rune(c))
		}
	}
	return nil
}

func isNameByte(c byte) bool {
	return c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

const wildLabel = wireName("\x01*")

// isWild reports whether the leftmost label is "*".
func (n wireName) isWild() bool { return strings.HasPrefix(string(n), string(wildLabel)) }

// parent cuts the leftmost label; the root has none.
func (n wireName) parent() wireName {
	if n == "" || n == rootName {
		return ""
	}
	return n[1+int(n[0]):]
}

// String is the form people read, absolute, escaped as in zone files.
func (n wireName) String() string {
	s, _, err := dns.UnpackDomainName([]byte(n), 0)
	if err != nil {
		return fmt.Sprintf("%q", string(n))
	}
	return s
}

// lower folds ASCII letters in place (RFC 4343). It may run over length octets:
// they are at most 63 and no letter begins before 65.
func lower(wire []byte) {
	for i, c := range wire {
		if 'A' <= c && c <= 'Z' {
			wire[i] = c + 'a' - 'A'
		}
	}
}

// sameFold compares two runs of uncompressed names without regard to case.
func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || 'z' < x|0x20 {
			return false
		}
	}
	return true
}
