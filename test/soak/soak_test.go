// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	tableName  = "reviews.cluster2.example.org."
	cachedName = "cached.example.net."
	zone       = "example.net."

	shortSoak = 8 * time.Second
	shortRate = 1000
	// downTime is how long the upstream is away, and grace how much longer it may take
	// until what went wrong meanwhile has been told.
	downTime = 500 * time.Millisecond
	grace    = 5 * time.Second
	// Growth that a garbage collector and a pool of buffers may have, and what is open
	// only at times.
	memoryGrowth, fileGrowth = 12 << 20, 24
)

var (
	length   = flag.Duration("soak", shortSoak, "how long to soak; beyond a minute, at 70 % of capacity")
	upstream = netip.MustParseAddrPort("192.0.2.53:53")
)

func TestMain(m *testing.M) {
	roles := testenv.Roles{roleLoad: loadMain, roleUpstream: upstreamMain}
	maps.Copy(roles, etc.Roles())
	testenv.Main(m, roles)
}

// roleUpstream is a nameserver that can be killed.
const roleUpstream = "soak-upstream"

// upstreamMain knows every name; only cachedName may be kept.
func upstreamMain(args []string) int {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		hdr := dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}
		if hdr.Name == cachedName {
			hdr.Ttl = 86400
		}
		m.Answer = []dns.RR{&dns.A{Hdr: hdr, A: net.IPv4(198, 51, 100, 53)}}
		_ = w.WriteMsg(m)
	})
	fmt.Fprintln(os.Stderr, (&dns.Server{Addr: args[0], Net: "udp", Handler: handler}).ListenAndServe())
	return 1
}

// outage is a time without upstream, in Unix nanoseconds.
type outage struct{ from, to int64 }

func TestSoak(t *testing.T) {
	client, server := testenv.NewLink(t)
	hosts := filepath.Join(t.TempDir(), "hosts")
	writeHosts(t, hosts, 0)
	kill := startUpstream(t, server)
	place := dnsteer.Place{Binary: dnsteer.Build(t), NetNS: client, Cgroup: testenv.NewCgroup(t), ResolvConf: "nameserver 192.0.2.53\n"}
	service := dnsteer.Run(t, place, testenv.BPFFS(t), "--hosts", hosts)
	client.Do(func() {
		// Now it is in the cache.
		question := new(dns.Msg).SetQuestion(cachedName, dns.TypeA)
		testenv.Eventually(t, patience, func() error {
			_, _, err := new(dns.Client).Exchange(question, "127.0.0.1:15053")
			return err
		})
	})
	rate := shortRate
	if *length > time.Minute {
		rate = 0
	}
	var out, errs bytes.Buffer
	cmd := testenv.Command(t, roleLoad, upstream.String(), strconv.Itoa(rate), strconv.Itoa(int(length.Seconds())))
	cmd.Stdout, cmd.Stderr = &out, &errs
	place.Cgroup.Enter(cmd)
	client.Start(cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	overUDP, overTCP := startDNSPerf(t, place, "udp"), startDNSPerf(t, place, "tcp")

	var outages []outage
	var looks []look
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for second, running := 1, true; running; second++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("run load: %v\n%s", err, &errs)
			}
			running = false
			continue
		case <-tick.C:
		}
		writeHosts(t, hosts, second) // which is noticed
		looks = append(looks, lookAt(t, service.Worker()))
		if second%30 == 3 {
			from := time.Now().UnixNano()
			kill()
			<-time.After(downTime)
			kill = startUpstream(t, server)
			outages = append(outages, outage{from, time.Now().Add(grace).UnixNano()})
		}
	}
	overUDP()
	overTCP()
	service.Stop()
	var got outcome
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("read outcome: %v\n%s", err, &out)
	}
	t.Logf("%v at %d queries/s: sent %v, lost %v, %d failures in %d outages; %s", *length, got.Rate, got.Sent, got.Lost, len(got.Failures), len(outages), describe(looks))
	assertNothingLost(t, got, outages)
	assertFlat(t, looks)
	if strings.Contains(service.Stderr(), "starting it again") {
		t.Errorf("the resolver has ended:\n%s", service.Stderr())
	}
}

func writeHosts(t *testing.T, path string, version int) {
	t.Helper()
	text := fmt.Sprintf("198.51.100.20 %s\n192.0.2.%d changing.example.org\n", tableName, version%200+1)
	aside := path + ".new"
	if err := os.WriteFile(aside, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
}

// startUpstream returns when it answers.
func startUpstream(t *testing.T, ns *testenv.NetNS) (kill func()) {
	t.Helper()
	cmd := testenv.Command(t, roleUpstream, upstream.String())
	ns.Start(cmd)
	question := new(dns.Msg).SetQuestion(cachedName, dns.TypeA)
	testenv.Eventually(t, patience, func() (err error) {
		ns.Do(func() {
			_, _, err = (&dns.Client{Timeout: 100 * time.Millisecond}).Exchange(question, upstream.String())
		})
		return err
	})
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func assertNothingLost(t *testing.T, got outcome, outages []outage) {
	t.Helper()
	if got.Lost != [kinds]int{} {
		t.Errorf("lost %v (table, cache, upstream)", got.Lost)
	}
	if len(outages) == 0 || got.Sent[ofTable] == 0 || got.Sent[ofUpstream] == 0 {
		t.Errorf("sent %v with %d outages: nothing is shown", got.Sent, len(outages))
	}
	for _, f := range got.Failures {
		excused := false
		for _, o := range outages {
			excused = excused || f.Heard >= o.from && f.Sent <= o.to
		}
		if f.Kind != ofUpstream || !excused {
			t.Errorf("%+v: the upstream is no excuse", f)
		}
	}
}

// look is what the resolver's process takes.
type look struct{ memory, files int }

func lookAt(t *testing.T, pid int) look {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatalf("look at the resolver: %v", err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(statm))[1])
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatalf("look at the resolver: %v", err)
	}
	return look{pages * os.Getpagesize(), len(files)}
}

// largest are the largest values of some looks.
func largest(looks []look) look {
	var l look
	for _, other := range looks {
		l.memory, l.files = max(l.memory, other.memory), max(l.files, other.files)
	}
	return l
}

// thirds are the largest values of the first and of the last third.
func thirds(looks []look) (first, last look) {
	n := max(len(looks)/3, 1)
	return largest(looks[:n]), largest(looks[len(looks)-n:])
}

func assertFlat(t *testing.T, looks []look) {
	t.Helper()
	if len(looks) < 3 {
		t.Fatalf("looked %d times at the resolver only", len(looks))
	}
	first, last := thirds(looks)
	if last.memory > first.memory+memoryGrowth || last.files > first.files+fileGrowth {
		t.Errorf("grew from %+v to %+v", first, last)
	}
}

func describe(looks []look) string {
	first, last := thirds(looks)
	return fmt.Sprintf("memory %d to %d MiB, descriptors %d to %d", first.memory>>20, last.memory>>20, first.files, last.files)
}
