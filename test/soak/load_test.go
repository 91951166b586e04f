// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// roleLoad asks at a steady rate and prints an outcome as JSON.
const roleLoad = "soak-load"

// kind is what a query is about.
type kind int

const (
	ofTable kind = iota
	ofCache
	ofUpstream
	kinds
)

// outcome is what came of a load.
type outcome struct {
	Rate     int
	Sent     [kinds]int
	Lost     [kinds]int
	Failures []failure
}

// failure is an answer that is none. Times are in Unix nanoseconds.
type failure struct {
	Kind        kind
	Sent, Heard int64
	Rcode       int
}

const (
	sockets = 8
	// ids come again after many more seconds than patience.
	ids      = 1 << 16
	patience = 5 * time.Second
	// most is what one tick may catch up with: a load that was kept from running must
	// not become a flood.
	most = 100
	// trial is how long capacity is measured, window how many queries then wait.
	trial  = 2 * time.Second
	window = 64
)

// load is one process of clients.
type load struct {
	conns   [sockets]*net.UDPConn
	waiting [sockets][ids]atomic.Int64 // when it was sent, and its kind in the lowest bits
	heard   atomic.Int64
	number  int

	mu  sync.Mutex // guards out
	out outcome
}

// loadMain asks: server, queries a second or 0 for 70 % of what it can, seconds.
func loadMain(args []string) int {
	rate, _ := strconv.Atoi(args[1])
	seconds, _ := strconv.Atoi(args[2])
	l := new(load)
	var readers sync.WaitGroup
	for i := range l.conns {
		conn, err := net.Dial("udp", args[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			return 1
		}
		l.conns[i] = conn.(*net.UDPConn)
		_ = l.conns[i].SetReadBuffer(1 << 20)
		readers.Go(func() { l.read(i) })
	}
	if l.out.Rate = rate; rate == 0 {
		l.out.Rate = l.capacity() * 7 / 10
	}
	l.pace(time.Duration(seconds) * time.Second)
	l.settle()
	for _, conn := range l.conns {
		conn.Close()
	}
	readers.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(l.out); err != nil {
		return 1
	}
	return 0
}

// capacity is how many queries a second are answered while a window of them waits.
func (l *load) capacity() int {
	begin := time.Now()
	for time.Since(begin) < trial {
		if l.number-int(l.heard.Load()) < window {
			l.send()
		}
	}
	n := l.heard.Load()
	return int(float64(n) / time.Since(begin).Seconds())
}

func (l *load) pace(length time.Duration) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for now := begin; now.Sub(begin) < length; now = <-tick.C {
		due := int(now.Sub(begin).Seconds() * float64(l.out.Rate))
		for range min(due-sent, most) {
			l.send()
		}
		sent = due
	}
}

// send asks the next question.
func (l *load) send() {
	n := l.number
	l.number++
	what, name := ofTable, tableName
	switch n % 10 {
	case 1, 4, 7:
		what, name = ofCache, cachedName
	case 9:
		what, name = ofUpstream, fmt.Sprintf("n%d-%d.%s", os.Getpid(), n, zone)
	}
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	socket, id := n%sockets, n/sockets%ids
	query.Id = uint16(id)
	wire, err := query.Pack()
	if err != nil {
		panic(err) // a name of ours
	}
	if l.waiting[socket][id].Swap(time.Now().UnixNano()<<2|int64(what)) != 0 {
		l.lose(what)
	}
	l.mu.Lock()
	l.out.Sent[what]++
	l.mu.Unlock()
	_, _ = l.conns[socket].Write(wire) // what does not go is not answered either
}

func (l *load) lose(what kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Lost[what]++
}

// read hears the answers on a socket until it is closed.
func (l *load) read(socket int) {
	buf := make([]byte, 2048)
	for {
		n, err := l.conns[socket].Read(buf)
		if err != nil {
			if _, ok := err.(net.Error); ok && l.conns[socket].SetDeadline(time.Time{}) == nil {
				continue // an ICMP message
			}
			return
		}
		if n < 12 {
			continue
		}
		asked := l.waiting[socket][binary.BigEndian.Uint16(buf)].Swap(0)
		if asked == 0 {
			continue
		}
		l.heard.Add(1)
		if rcode := int(buf[3] & 0xf); rcode != 0 || binary.BigEndian.Uint16(buf[6:]) == 0 {
			l.mu.Lock()
			l.out.Failures = append(l.out.Failures, failure{kind(asked & 3), asked >> 2, time.Now().UnixNano(), rcode})
			l.mu.Unlock()
		}
	}
}

// settle waits for the last answers; those that do not come are lost.
func (l *load) settle() {
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for l.missing(func(kind) {}) > 0 {
		select {
		case <-deadline:
			l.missing(l.lose)
			return
		case <-tick.C:
		}
	}
}

func (l *load) missing(each func(kind)) int {
	n := 0
	for s := range l.waiting {
		for i := range l.waiting[s] {
			if asked := l.waiting[s][i].Load(); asked != 0 {
				n++
				each(kind(asked & 3))
			}
		}
	}
	return n
}
