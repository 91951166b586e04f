// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// questions makes the queries of one Spec and knows their answers. Names hold a nonce:
// an answer to another socket's question is recognised as foreign.
type questions struct {
	nonce string
	asked int
}

func newQuestions() *questions {
	return &questions{nonce: strings.ToLower(rand.Text())}
}

// next returns the next query, with the length prefix of TCP if it is for a stream.
func (q *questions) next(stream bool) ([]byte, error) {
	m := new(dns.Msg).SetQuestion(fmt.Sprintf("q%d.%s.example.org.", q.asked, q.nonce), dns.TypeTXT)
	q.asked++
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if !stream {
		return wire, nil
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...), nil
}

// answer reads a message. What is not an answer to a question of ours belongs to
// question -1, and its text says what it is.
func (q *questions) answer(wire []byte) Answer {
	var m dns.Msg
	if err := m.Unpack(wire); err != nil {
		return Answer{Question: -1, Text: fmt.Sprintf("not a message: %v", err)}
	}
	if !m.Response || len(m.Question) != 1 {
		return Answer{Question: -1, Text: fmt.Sprintf("not an answer: %s", m.MsgHdr.String())}
	}
	label, rest, _ := strings.Cut(m.Question[0].Name, ".")
	number, err := strconv.Atoi(strings.TrimPrefix(label, "q"))
	if err != nil || rest != q.nonce+".example.org." || number >= q.asked {
		return Answer{Question: -1, Text: "answer to another question: " + m.Question[0].Name}
	}
	var texts []string
	for _, rr := range m.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			texts = append(texts, strings.Join(txt.Txt, ""))
		}
	}
	if len(texts) == 0 {
		texts = []string{dns.RcodeToString[m.Rcode]}
	}
	return Answer{Question: number, Text: strings.Join(texts, " ")}
}
