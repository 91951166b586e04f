// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// tally is what became of the queries of a load.
type tally struct {
	Sent, Right, Lost int
	Wrong             map[string]int // by what came in place of the right answer
	Seconds           float64
}

// lostAfter is when an answer that has not come is lost: nobody repeats a query here.
const lostAfter = 4 * time.Second

// loadClients ask side by side.
const loadClients = 16

// load asks a nameserver so many times a second until its input ends: names of the table
// and names to be forwarded, by sockets that are connected for good and by fresh ones, some
// over TCP.
func load(args []string) int {
	rate, err := strconv.Atoi(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	var mu sync.Mutex
	sum := tally{Wrong: make(map[string]int)}
	begun := time.Now()
	var all sync.WaitGroup
	for i := range loadClients {
		all.Go(func() {
			c := loadClient{server: args[0] + ":53", number: i}
			tick := time.NewTicker(time.Second * loadClients / time.Duration(rate))
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				got, want := c.ask()
				mu.Lock()
				sum.Sent++
				switch got {
				case want:
					sum.Right++
				case "":
					sum.Lost++
				default:
					sum.Wrong[got]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	sum.Seconds = time.Since(begun).Seconds()
	_ = json.NewEncoder(os.Stdout).Encode(sum)
	return 0
}

type loadClient struct {
	server        string
	number, asked int
	kept          net.Conn // connected at the first query, and never again
}

// ask asks once, and returns the answer beside the right one. No answer is "".
func (c *loadClient) ask() (got, want string) {
	c.asked++
	name, want := svc, fromTab
	if c.asked%4 == 0 { // nobody has asked for it before
		name, want = fmt.Sprintf("x%x.example.org.", rand.Uint64()), "198.51.100.53"
	}
	network, keep := "udp", c.asked%2 == 0
	if c.asked%32 == 0 {
		network, keep = "tcp", false
	}
	conn := c.kept
	if !keep || conn == nil {
		var err error
		if conn, err = net.DialTimeout(network, c.server, lostAfter); err != nil {
			return err.Error(), want
		}
		if keep {
			c.kept = conn
		} else {
			defer conn.Close()
		}
	}
	client := dns.Client{Net: network, Timeout: lostAfter}
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: conn})
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return "", want
		}
		return err.Error(), want
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String(), want
		}
	}
	return dns.RcodeToString[m.Rcode], want
}

// runningLoad is one that asks.
type runningLoad struct {
	cmd *exec.Cmd
	in  io.Closer
	out io.Reader
}

// startLoad puts a load into a pod.
func (w *world) startLoad(t *testing.T, ns *testenv.NetNS, rate int) *runningLoad {
	t.Helper()
	l := &runningLoad{cmd: testenv.Command(t, "load", "192.0.2.53", strconv.Itoa(rate))}
	l.cmd.Stderr = os.Stderr
	w.cgroup.Enter(l.cmd)
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if l.out, err = l.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	ns.For(t).Start(l.cmd)
	return l
}

// stop ends the load, and returns what became of its queries.
func (l *runningLoad) stop(t *testing.T) tally {
	t.Helper()
	l.in.Close()
	var sum tally
	if err := json.NewDecoder(l.out).Decode(&sum); err != nil {
		t.Fatalf("load: %v", err)
	}
	_ = l.cmd.Wait()
	t.Logf("%d queries in %.1f s: %.0f a second", sum.Sent, sum.Seconds, float64(sum.Sent)/sum.Seconds)
	return sum
}

// wantAllRight says what went wrong.
func (s tally) wantAllRight(t *testing.T) {
	t.Helper()
	if s.Sent == 0 || s.Right != s.Sent {
		t.Errorf("of %d queries %d were right, %d lost, wrong: %v", s.Sent, s.Right, s.Lost, s.Wrong)
	}
}
