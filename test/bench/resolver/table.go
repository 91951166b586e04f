// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// table is how many names a server shall know itself, with an address each: tableName
// alone, or those of the Services of a mesh of ten clusters.
type table int

const (
	one      table = 1
	thousand table = 1000
	million  table = 1_000_000
)

func (t table) name(i int) string {
	if t == one {
		return tableName
	}
	return testenv.MeshName(i)
}

func (t table) addr(i int) netip.Addr {
	if t == one {
		return netip.MustParseAddr(tableAddr)
	}
	return testenv.MeshAddr(i)
}

// write makes a file of a head and of all names in a format, whose first argument is
// the name and whose second is the address, and returns its path.
func (t table) write(dir, file, head, format string) (path string, err error) {
	path = filepath.Join(dir, file)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20) // it keeps the first error until Flush
	_, _ = w.WriteString(head)
	for i := range int(t) {
		_, _ = fmt.Fprintf(w, format, t.name(i), t.addr(i))
	}
	return path, w.Flush()
}

// hosts makes a file as /etc/hosts.
func (t table) hosts(dir string) (string, error) {
	return t.write(dir, "hosts", "", "%[2]s %[1]s\n")
}

// zone makes a zone file.
func (t table) zone(dir string) error {
	_, err := t.write(dir, tableZone+".zone", "$ORIGIN "+tableZone+".\n@ 3600 IN SOA ns hostmaster 1 3600 600 86400 300\n@ 3600 IN NS ns\nns 3600 IN A 192.0.2.53\n", "%s. 3600 IN A %s\n")
	return err
}

// drawn is how many questions a load for many names has made before it begins: more
// than any server answers in a turn of a second, so that no name is asked for sooner
// again than chance has it.
const drawn = 1 << 19

// draw packs n questions for names drawn evenly from the table, the same for the same
// seed, each with its length in front.
func (t table) draw(n int, seed uint64) ([]byte, error) {
	from := rand.New(rand.NewPCG(seed, uint64(t)))
	var questions []byte
	for range n {
		var err error
		if questions, err = appendQuestion(questions, t.name(from.IntN(int(t)))); err != nil {
			return nil, err
		}
	}
	return questions, nil
}

// appendQuestion appends a packed query for an address of a name, with its length in
// front, as TCP has it.
func appendQuestion(to []byte, name string) ([]byte, error) {
	const length, header, longest = 2, 12, 255
	begin := len(to)
	to = append(to, make([]byte, length+header+longest+4)...)
	query := to[begin+length:]
	query[2] = 1 // RD
	query[5] = 1 // QDCOUNT
	end, err := dns.PackDomainName(name+".", query, header, nil, false)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	query[end+1], query[end+3] = byte(dns.TypeA), byte(dns.ClassINET)
	end += 4
	to[begin], to[begin+1] = byte(end>>8), byte(end)
	return to[:begin+length+end], nil
}
