// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// servers returns what is measured: ours, the limit, and the peers, each on one thread
// and with its cache on, as its manual has it. An earlier build of ours may take part.
func servers(earlier string) []*server {
	list := []*server{{name: "dnsteer", rows: everything, role: roleDnsteer, command: ours}}
	if earlier != "" {
		list = append(list, &server{name: before, rows: everything, role: roleDnsteer, binary: earlier, command: ours})
	}
	return append(list, []*server{
		{name: "echo", rows: authoritative, role: roleEcho, command: ours},
		{name: "unbound", rows: everything, binary: "unbound", debian: "unbound", command: unbound},
		{name: "dnsdist", rows: small, binary: "dnsdist", debian: "dnsdist", command: dnsdist},
		{name: "knot", rows: authoritative, binary: "knotd", debian: "knot", command: knot},
		{name: "nsd", rows: authoritative, binary: "nsd", debian: "nsd", command: nsd},
		{name: "smartdns", rows: everything, binary: "smartdns", debian: "smartdns", command: smartdns},
		{name: "dnsmasq", rows: small, binary: "dnsmasq", debian: "dnsmasq-base", command: dnsmasq},
		{name: "pdns-recursor", rows: small, binary: "pdns_recursor", debian: "pdns-recursor", command: recursor},
		{name: "coredns", rows: everything, binary: "coredns", debian: "make bench-coredns", command: coredns},
	}...)
}

// before is the name of an earlier build of ours.
const before = "before"

// write puts a file into dir and returns its path.
func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// ours is what the roles of this program are told.
func ours(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	hosts, err := names.hosts(dir)
	return []string{at.String(), up.String(), hosts}, err
}

func unbound(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	local, err := names.write(dir, "local", "", "local-data: \"%s. 3600 IN A %s\"\n")
	if err != nil {
		return nil, err
	}
	conf, err := write(dir, "unbound.conf", fmt.Sprintf(`server:
  username: ""
  chroot: ""
  pidfile: ""
  directory: %q
  use-syslog: no
  num-threads: 1
  module-config: "iterator"
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  interface: %s@%d
  include: %q
  so-rcvbuf: 4m
  outgoing-range: 4096
  num-queries-per-thread: 2048
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: %s@%d
`, dir, at.Addr(), at.Port(), local, up.Addr(), up.Port()))
	return []string{"-d", "-p", "-c", conf}, err
}

func dnsdist(dir string, at, up netip.AddrPort, _ table) ([]string, error) {
	conf, err := write(dir, "dnsdist.conf", fmt.Sprintf(`setLocal(%q)
newServer({address=%q, checkInterval=60, mustResolve=false})
pc = newPacketCache(10000)
getPool(""):setCache(pc)
setSecurityPollSuffix("")
addAction(%q, SpoofAction(%q))
`, at, up, tableName, tableAddr))
	return []string{"--supervised", "--disable-syslog", "-C", conf}, err
}

func knot(dir string, at, _ netip.AddrPort, names table) ([]string, error) {
	if err := names.zone(dir); err != nil {
		return nil, err
	}
	conf, err := write(dir, "knot.conf", fmt.Sprintf(`server:
  rundir: %q
  listen: "%s@%d"
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: %q
template:
  - id: default
    storage: %q
zone:
  - domain: example.org
    file: example.org.zone
`, dir, at.Addr(), at.Port(), dir, dir))
	return []string{"-c", conf}, err
}

func nsd(dir string, at, _ netip.AddrPort, names table) ([]string, error) {
	if err := names.zone(dir); err != nil {
		return nil, err
	}
	conf, err := write(dir, "nsd.conf", fmt.Sprintf(`server:
  username: ""
  chroot: ""
  pidfile: ""
  database: ""
  rrl-ratelimit: 0
  server-count: 1
  zonesdir: %[1]q
  zonelistfile: "%[1]s/zone.list"
  xfrdfile: "%[1]s/xfrd.state"
  xfrdir: %[1]q
  ip-address: %[2]s@%[3]d
remote-control:
  control-enable: no
zone:
  name: "example.org"
  zonefile: "example.org.zone"
`, dir, at.Addr(), at.Port()))
	return []string{"-d", "-c", conf}, err
}

func smartdns(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	addresses, err := names.write(dir, "addresses", "", "address /%s/%s\n")
	if err != nil {
		return nil, err
	}
	conf, err := write(dir, "smartdns.conf", fmt.Sprintf(`bind %[2]s
bind-tcp %[2]s
cache-size 10000
cache-persist no
cache-file %[1]s/cache
prefetch-domain no
serve-expired no
speed-check-mode none
response-mode fastest-response
dualstack-ip-selection no
log-level fatal
log-file %[1]s/log
audit-enable no
server %[3]s
conf-file %[4]s
`, dir, at, up, addresses))
	return []string{"-f", "-x", "-c", conf, "-p", filepath.Join(dir, "pid")}, err
}

func dnsmasq(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	hosts, err := names.hosts(dir)
	if err != nil {
		return nil, err
	}
	conf, err := write(dir, "dnsmasq.conf", fmt.Sprintf(`no-resolv
no-hosts
bind-interfaces
listen-address=%s
port=%d
cache-size=10000
dns-forward-max=2048
server=%s#%d
addn-hosts=%s
user=root
pid-file=%s/pid
`, at.Addr(), at.Port(), up.Addr(), up.Port(), hosts, dir))
	return []string{"-k", "-C", conf}, err
}

func recursor(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	hosts, err := names.hosts(dir)
	if err != nil {
		return nil, err
	}
	return []string{
		"--config-dir=" + dir, "--socket-dir=" + dir, "--daemon=no", "--write-pid=no", "--disable-syslog=yes", "--quiet=yes", "--loglevel=3",
		"--threads=1", "--pdns-distributes-queries=no", "--max-mthreads=2048", "--local-address=" + at.Addr().String(), fmt.Sprintf("--local-port=%d", at.Port()),
		"--forward-zones-recurse=.=" + up.String(), "--dont-query=", "--allow-from=127.0.0.0/8", "--dnssec=off", "--security-poll-suffix=",
		"--export-etc-hosts=yes", "--etc-hosts-file=" + hosts, "--hint-file=no",
	}, nil
}

func coredns(dir string, at, up netip.AddrPort, names table) ([]string, error) {
	hosts, err := names.hosts(dir)
	if err != nil {
		return nil, err
	}
	conf, err := write(dir, "Corefile", fmt.Sprintf(`.:%d {
	bind %s
	hosts %s {
		fallthrough
	}
	cache
	forward . %s
}
`, at.Port(), at.Addr(), hosts, up))
	return []string{"-quiet", "-conf", conf}, err
}
