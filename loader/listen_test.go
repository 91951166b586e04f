// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func mustListen(t *testing.T, port uint16) *Listeners {
	t.Helper()
	l, err := Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// Whoever is there first keeps the port, whichever of our sockets it is in the way of,
// and nothing of ours is left.
func TestPortTaken(t *testing.T) {
	testenv.Privileged(t)
	for _, network := range []string{"udp", "tcp"} {
		for _, address := range []string{"127.0.0.1", "0.0.0.0", "[::1]", "[::]"} {
			t.Run(network+"/"+address, func(t *testing.T) {
				testenv.NewNetNS(t).Do(func() {
					var c io.Closer
					var err error
					if network == "udp" {
						c, err = net.ListenPacket("udp", fmt.Sprintf("%s:%d", address, DefaultPort))
					} else {
						c, err = net.Listen("tcp", fmt.Sprintf("%s:%d", address, DefaultPort))
					}
					if err != nil {
						t.Fatal(err)
					}
					_, err = Listen(DefaultPort)
					wantErr(t, "listen", err, unix.EADDRINUSE)
					c.Close()
					mustListen(t, DefaultPort).Close()
				})
			})
		}
	}
}

// A resolver that restarts gets its port although connections of the last one linger.
func TestListenAfterConnections(t *testing.T) {
	testenv.Privileged(t)
	testenv.NewNetNS(t).Do(func() {
		for range 3 {
			l := mustListen(t, DefaultPort)
			tcp, err := l.TCP()
			if err != nil {
				t.Fatal(err)
			}
			for _, address := range []string{"127.0.0.1", "127.53.0.9"} {
				accepted := make(chan net.Conn)
				listener := tcp[0]
				if address != "127.0.0.1" {
					listener = tcp[1]
				}
				go func() {
					c, err := listener.Accept()
					if err != nil {
						t.Error(err)
					}
					accepted <- c
				}()
				client, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", address, DefaultPort), time.Second)
				if err != nil {
					t.Fatalf("connect to %s: %v", address, err)
				}
				(<-accepted).Close() // the side that closes first keeps TIME_WAIT
				client.Close()
			}
			for _, c := range tcp {
				c.Close()
			}
			l.Close()
		}
	})
}

func TestListenersByFamily(t *testing.T) {
	testenv.Privileged(t)
	for _, ipv6 := range []bool{true, false} {
		t.Run(fmt.Sprintf("ipv6 %v", ipv6), func(t *testing.T) {
			testenv.NewNetNS(t).Do(func() {
				want := 4
				if !ipv6 {
					want = 2
					if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				l := mustListen(t, DefaultPort)
				udp, err := l.UDP()
				if err != nil {
					t.Fatal(err)
				}
				tcp, err := l.TCP()
				if err != nil {
					t.Fatal(err)
				}
				if len(udp) != want || len(tcp) != want {
					t.Errorf("%d UDP and %d TCP sockets, want %d each", len(udp), len(tcp), want)
				}
				for _, c := range udp {
					c.Close()
				}
				for _, c := range tcp {
					c.Close()
				}
				if l.has(familyIPv6, true) != ipv6 || !l.has(familyIPv4, true) {
					t.Errorf("tags: IPv4 %v, IPv6 %v", l.has(familyIPv4, true), l.has(familyIPv6, true))
				}
			})
		})
	}
}

// routes counts those of tags in the calling thread's namespace.
func routes(t *testing.T, port uint16) int {
	t.Helper()
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V6, tagRoute(port), netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestTagRoute(t *testing.T) {
	testenv.Privileged(t)
	testenv.NewNetNS(t).Do(func() {
		want := func(when string, n int) {
			t.Helper()
			if got := routes(t, DefaultPort); got != n {
				t.Errorf("%s: %d routes, want %d", when, got, n)
			}
		}
		mustListen(t, DefaultPort).Close() // and killed: the route stays
		want("after a kill", 1)
		l := mustListen(t, DefaultPort)
		if !l.has(familyIPv6, true) {
			t.Error("a route that was left cannot be used again")
		}
		other := mustListen(t, DefaultPort+1)
		want("with another datapath", 1)
		l.Close()
		other.Close()
		for range 2 { // twice is fine
			if err := RemoveTagRoute(DefaultPort); err != nil {
				t.Error(err)
			}
		}
		want("after removal", 0)
		if got := routes(t, DefaultPort+1); got != 1 {
			t.Errorf("the other has %d routes, want 1", got)
		}
	})
	testenv.NewNetNS(t).Do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := RemoveTagRoute(DefaultPort); err != nil {
			t.Errorf("remove the route without IPv6: %v", err)
		}
	})
}
