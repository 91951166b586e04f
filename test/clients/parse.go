// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// read takes one line of a program in testdata.
func (a *Answer) read(fields []string) {
	switch {
	case len(fields) == 2 && fields[0] == "address":
		a.Addrs = append(a.Addrs, fields[1])
	case len(fields) == 2 && fields[0] == "text":
		n, err := strconv.Atoi(fields[1])
		if err != nil {
			return
		}
		a.Text += n
	case slices.Equal(fields, []string{"not", "found"}):
		a.NotFound = true
	}
}

// sorted orders the addresses and drops repetitions: getaddrinfo lists one
// address for each socket type.
func (a Answer) sorted() Answer {
	slices.Sort(a.Addrs)
	a.Addrs = slices.Compact(a.Addrs)
	return a
}

// parseGetent reads "ADDRESS TYPE [NAME]"; exit code 2 is "not found".
func parseGetent(outputs []output) Answer {
	var a Answer
	for _, out := range outputs {
		a.NotFound = a.NotFound || out.code == 2
		for line := range strings.Lines(out.stdout) {
			if fields := strings.Fields(line); len(fields) > 0 {
				a.Addrs = append(a.Addrs, fields[0])
			}
		}
	}
	return a.sorted()
}

// parseNslookup reads the addresses that follow a name; the first "Address:" is
// the server's, with its port.
func parseNslookup(outputs []output) Answer {
	var a Answer
	for _, out := range outputs {
		a.NotFound = a.NotFound || strings.Contains(out.stdout+out.stderr, "NXDOMAIN")
		for line := range strings.Lines(out.stdout) {
			text, ok := strings.CutPrefix(line, "Address:")
			if !ok {
				continue
			}
			if addr, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil {
				a.Addrs = append(a.Addrs, addr.String())
			}
		}
	}
	return a.sorted()
}

// parseDig reads records in master format and the status in the comments.
func parseDig(outputs []output) Answer {
	var a Answer
	for _, out := range outputs {
		a.NotFound = a.NotFound || strings.Contains(out.stdout, "status: NXDOMAIN")
		for line := range strings.Lines(out.stdout) {
			fields := strings.Fields(line)
			if len(fields) < 5 || strings.HasPrefix(line, ";") {
				continue
			}
			switch fields[3] {
			case "A", "AAAA":
				a.Addrs = append(a.Addrs, fields[4])
			case "TXT":
				a.Text += len(strings.NewReplacer(`"`, "", " ", "").Replace(strings.Join(fields[4:], "")))
			}
		}
	}
	return a.sorted()
}

// parseCurl reads the addresses it reached. It has one code, 6, for a name that
// does not exist and for one without an address of the family.
func parseCurl(outputs []output) Answer {
	a := Answer{NotFound: true}
	for _, out := range outputs {
		a.NotFound = a.NotFound && out.code == 6
		if addr, err := netip.ParseAddr(strings.TrimSpace(out.stdout)); err == nil {
			a.Addrs = append(a.Addrs, addr.String())
		}
	}
	return a.sorted()
}
