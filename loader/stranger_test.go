// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// stranger is a socket of somebody who wants a part of our queries.
type stranger struct {
	name    string
	network string
	address string
	options []int // of SOL_SOCKET
	owner   int
	device  string
}

func (s stranger) try() error {
	kind := unix.SOCK_DGRAM
	if s.network == "tcp" {
		kind = unix.SOCK_STREAM
	}
	address := netip.MustParseAddr(s.address)
	family := unix.AF_INET
	if address.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, s.owner, s.owner); err != nil {
		return err
	}
	for _, option := range s.options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return err
		}
	}
	if s.device != "" {
		if err := unix.BindToDevice(fd, s.device); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(address, DefaultPort))); err != nil {
		return err
	}
	if s.network == "tcp" {
		return unix.Listen(fd, 1)
	}
	return nil
}

func strangers() []stranger {
	var all []stranger
	for _, network := range []string{"udp", "tcp"} {
		for _, address := range []string{"127.0.0.1", "0.0.0.0", "127.53.1.2", "127.54.0.0", "::1", "::"} {
			for options, list := range map[string][]int{
				"plain": nil, "reuseaddr": {unix.SO_REUSEADDR}, "reuseport": {unix.SO_REUSEPORT},
				"both": {unix.SO_REUSEADDR, unix.SO_REUSEPORT},
			} {
				for _, owner := range []int{0, DefaultOwner} {
					for _, device := range []string{"", "lo"} {
						name := fmt.Sprintf("%s/%s/%s/uid %d/%s", network, address, options, owner, device)
						all = append(all, stranger{name, network, address, list, owner, device})
					}
				}
			}
		}
	}
	return all
}

func TestNobodyBindsBesideListeners(t *testing.T) {
	testenv.Privileged(t)
	testenv.NewNetNS(t).Do(func() {
		mustListen(t, DefaultPort)
		for _, s := range strangers() {
			if err := s.try(); err != unix.EADDRINUSE {
				t.Errorf("%s: %v, want %v", s.name, err, unix.EADDRINUSE)
			}
		}
		_, err := Listen(DefaultPort)
		wantErr(t, "listen twice", err, unix.EADDRINUSE)
		mustListen(t, DefaultPort+1).Close()
	})
}

// Of many that start at once, one gets the port, and a stranger that tries all the time
// gets nothing.
func TestListenAtOnce(t *testing.T) {
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	for range 20 {
		got := make(chan *Listeners, 8)
		start := make(chan struct{})
		var group sync.WaitGroup
		for range cap(got) {
			group.Go(func() {
				ns.Do(func() {
					<-start
					if l, err := Listen(DefaultPort); err == nil {
						got <- l
					}
				})
			})
		}
		stop := make(chan struct{})
		var beside sync.WaitGroup
		beside.Go(func() {
			ns.Do(func() {
				udp := stranger{network: "udp", address: "127.0.0.1", options: []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT}}
				for len(got) == 0 {
					select {
					case <-stop:
						return
					default:
					}
				}
				for range 50 {
					if err := udp.try(); err == nil {
						t.Error("a stranger shares the port")
					}
				}
			})
		})
		close(start)
		group.Wait()
		close(stop)
		beside.Wait()
		close(got)
		if len(got) != 1 {
			t.Errorf("%d have the port, want 1", len(got))
		}
		for l := range got {
			l.Close()
		}
	}
}

// runListener listens as whoever it is, and tries to be a stranger to itself.
func runListener([]string) int {
	l, err := Listen(DefaultPort)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer l.Close()
	s := stranger{network: "udp", address: "127.0.0.1", options: []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT}, owner: os.Getuid()}
	if err := s.try(); err != unix.EADDRINUSE {
		fmt.Fprintf(os.Stderr, "bind beside it: %v, want %v\n", err, unix.EADDRINUSE)
		return 1
	}
	return 0
}

// Without the right to give its sockets to nobody, Listen does with its own UID.
func TestListenWithoutPrivilege(t *testing.T) {
	testenv.Privileged(t)
	cmd := testenv.Command(t, "listen")
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: DefaultOwner, Gid: DefaultOwner}}
	testenv.NewNetNS(t).Start(cmd)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
