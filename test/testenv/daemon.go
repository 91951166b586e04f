// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// readyTimeout bounds the start of a real nameserver; NSD compiles its zones.
	readyTimeout = 15 * time.Second
	// askTimeout is for one question on an idle link.
	askTimeout = 250 * time.Millisecond
	// stopTimeout is how long SIGTERM may take before SIGKILL.
	stopTimeout = 5 * time.Second
)

// NSD runs NLnet Labs' authoritative server in ns, on all of addrs, until the
// test ends; it returns when each of them answers. zones maps origins to zone
// files in master format, each with its SOA; options are more lines for its server. It
// needs the Debian package nsd.
func NSD(tb testing.TB, ns *NetNS, addrs []netip.AddrPort, zones map[string]string, options ...string) {
	tb.Helper()
	dir := tb.TempDir()
	conf := new(strings.Builder)
	fmt.Fprintf(conf, "server:\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  database: \"\"\n  rrl-ratelimit: 0\n") // or some answers are dropped
	fmt.Fprintf(conf, "  server-count: 1\n  zonesdir: %q\n  zonelistfile: %q\n  xfrdfile: %q\n  xfrdir: %q\n",
		dir, filepath.Join(dir, "zone.list"), filepath.Join(dir, "xfrd.state"), dir)
	for _, addr := range addrs {
		fmt.Fprintf(conf, "  ip-address: %s@%d\n", addr.Addr(), addr.Port())
	}
	for _, option := range options {
		fmt.Fprintf(conf, "  %s\n", option)
	}
	fmt.Fprintf(conf, "remote-control:\n  control-enable: no\n")
	n := 0
	for origin, text := range zones {
		n++
		file := filepath.Join(dir, fmt.Sprintf("zone%d", n))
		writeFile(tb, file, text)
		fmt.Fprintf(conf, "zone:\n  name: %q\n  zonefile: %q\n", origin, file)
	}
	path := filepath.Join(dir, "nsd.conf")
	writeFile(tb, path, conf.String())
	cmd := exec.Command(Binary(tb, "nsd", "nsd"), "-d", "-c", path)
	daemon(tb, ns, cmd, addrs)
}

// UnboundConfig is what a test chooses about Unbound.
type UnboundConfig struct {
	Listen  []netip.AddrPort
	Forward []netip.AddrPort // whom it asks about everything; none: it knows Records alone
	Records []string         // local-data, each a record in master format
}

// Unbound runs NLnet Labs' recursive server in ns until the test ends; it
// returns when each address answers. It does not validate, since names under
// example.org are not signed. It needs the Debian package unbound.
func Unbound(tb testing.TB, ns *NetNS, config UnboundConfig) {
	tb.Helper()
	dir := tb.TempDir()
	conf := new(strings.Builder)
	fmt.Fprintf(conf, "server:\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  directory: %q\n", dir)
	fmt.Fprintf(conf, "  use-syslog: no\n  logfile: \"\"\n  verbosity: 1\n  num-threads: 1\n")
	fmt.Fprintf(conf, "  module-config: \"iterator\"\n  do-not-query-localhost: no\n")
	fmt.Fprintf(conf, "  access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n")
	for _, addr := range config.Listen {
		fmt.Fprintf(conf, "  interface: %s@%d\n", addr.Addr(), addr.Port())
	}
	for _, record := range config.Records {
		fmt.Fprintf(conf, "  local-data: '%s'\n", record)
	}
	fmt.Fprintf(conf, "remote-control:\n  control-enable: no\n")
	if len(config.Forward) > 0 {
		fmt.Fprintf(conf, "forward-zone:\n  name: \".\"\n")
	}
	for _, addr := range config.Forward {
		fmt.Fprintf(conf, "  forward-addr: %s@%d\n", addr.Addr(), addr.Port())
	}
	path := filepath.Join(dir, "unbound.conf")
	writeFile(tb, path, conf.String())
	cmd := exec.Command(Binary(tb, "unbound", "unbound"), "-d", "-p", "-c", path)
	daemon(tb, ns, cmd, config.Listen)
}

// Binary finds a program, also in the directories for administrators, which are
// not in everybody's PATH. Without it the test fails and names the Debian
// package that brings it.
func Binary(tb testing.TB, name, debianPackage string) string {
	tb.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	tb.Fatalf("this test needs %s: apt-get install %s", name, debianPackage)
	return ""
}

// daemon runs a nameserver in the foreground until the test ends, and returns
// when it answers on all addrs. What it logs is shown only if it fails.
func daemon(tb testing.TB, ns *NetNS, cmd *exec.Cmd, addrs []netip.AddrPort) {
	tb.Helper()
	log := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = waitDelay
	ns.Do(func() {
		if err := cmd.Start(); err != nil {
			tb.Fatalf("start %s: %v", cmd.Path, err)
		}
	})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	tb.Cleanup(func() { stop(tb, cmd, ended) })

	for _, addr := range addrs {
		err := poll(readyTimeout, func() error {
			select {
			case <-ended:
				tb.Fatalf("run %s: %v\n%s", cmd.Path, cmd.ProcessState, log)
			default:
			}
			return ask(ns, addr)
		})
		if err != nil {
			stop(tb, cmd, ended)
			tb.Fatalf("wait for %s: %v\n%s", cmd.Path, err, log)
		}
	}
}

// stop ends a daemon in good order, or else by force.
func stop(tb testing.TB, cmd *exec.Cmd, ended <-chan struct{}) {
	tb.Helper()
	_ = cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-ended:
		return
	case <-time.After(stopTimeout):
	}
	tb.Errorf("stop %s: still runs %v after SIGTERM", cmd.Path, stopTimeout)
	_ = cmd.Process.Kill()
	<-ended
}

// ask wants any answer at all from a nameserver; a refusal shows that it lives.
func ask(ns *NetNS, addr netip.AddrPort) (err error) {
	client := &dns.Client{Timeout: askTimeout}
	question := new(dns.Msg).SetQuestion("ready.example.org.", dns.TypeA)
	ns.Do(func() { _, _, err = client.Exchange(question, addr.String()) })
	return err
}

func writeFile(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatalf("write configuration: %v", err)
	}
}
