// SPDX-License-Identifier: Apache-2.0

// Package resolvconf reads resolv.conf(5), as far as dnsteer acts on it: who is asked,
// with what names are completed, and how long clients wait. What other options say is
// the client's business alone.
package resolvconf

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Path is where clients look.
const Path = "/etc/resolv.conf"

// Conf is the part of resolv.conf(5) that dnsteer acts on.
type Conf struct {
	Nameservers []netip.Addr
	Search      []string
	// Timeout, Attempts and Rotate are the options of these names; zero where they
	// are not there.
	Timeout  time.Duration
	Attempts int
	Rotate   bool
}

// Read reads what the clients read. A file that is missing, or a line that makes no
// sense, is skipped, as the C library does.
func Read(path string) Conf {
	data, err := os.ReadFile(path)
	if err != nil {
		return Conf{}
	}
	return Parse(string(data))
}

// Parse reads the text of a file.
func Parse(text string) Conf {
	var conf Conf
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.ContainsAny(fields[0][:1], "#;") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			conf.Nameservers = append(conf.Nameservers, addresses(fields[1:2])...)
		case "search", "domain": // the last one wins
			conf.Search = fields[1:]
		case "options":
			conf.options(fields[1:])
		}
	}
	return conf
}

func (c *Conf) options(list []string) {
	for _, option := range list {
		c.option(option)
	}
}

// option takes what it knows. Numbers are bounded as in the C library.
func (c *Conf) option(text string) {
	name, value, _ := strings.Cut(text, ":")
	if name == "rotate" {
		c.Rotate = true
	}
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		return
	}
	switch name {
	case "timeout":
		c.Timeout = time.Duration(min(n, 30)) * time.Second
	case "attempts":
		c.Attempts = min(n, 5)
	}
}

// New makes a Conf of what a container runtime tells. What makes no sense is skipped.
func New(nameservers, search, options []string) Conf {
	conf := Conf{Nameservers: addresses(nameservers), Search: search}
	conf.options(options)
	return conf
}

func addresses(texts []string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// Primary returns the first nameserver of a family, the invalid address without one.
// One with a zone is of use only on its own link, and is never steered.
func (c Conf) Primary(is func(netip.Addr) bool) netip.Addr {
	for _, a := range c.Nameservers {
		if is(a) && a.Zone() == "" {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}
