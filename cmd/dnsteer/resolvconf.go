// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"strings"
)

const resolvConfPath = "/etc/resolv.conf"

// resolvConf is the part of resolv.conf(5) that dnsteer acts on.
type resolvConf struct {
	nameservers []netip.Addr
	search      []string
}

// readResolvConf reads what the clients read. A file that is missing, or a line that
// makes no sense, is skipped, as the C library does.
func readResolvConf(path string) resolvConf {
	data, err := os.ReadFile(path)
	if err != nil {
		return resolvConf{}
	}
	return parseResolvConf(string(data))
}

func parseResolvConf(text string) resolvConf {
	var conf resolvConf
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.ContainsAny(fields[0][:1], "#;") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				conf.nameservers = append(conf.nameservers, a)
			}
		case "search", "domain": // the last one wins
			conf.search = fields[1:]
		}
	}
	return conf
}

// primary returns the first nameserver of a family, the invalid address without one.
// One with a zone is of use only on its own link, and is never steered.
func (c resolvConf) primary(is func(netip.Addr) bool) netip.Addr {
	for _, a := range c.nameservers {
		if is(a) && a.Zone() == "" {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}
