// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// Commands that run under "dnsteer exec", as roles of the test binary.
const (
	roleAsk     = "exec-ask"
	roleSignals = "exec-signals"
)

func roles() testenv.Roles {
	return testenv.Roles{roleAsk: askMain, roleSignals: signalsMain}
}

// askTimeout is what a stub resolver of libc waits.
const askTimeout = 5 * time.Second

// askMain says "ready", waits for a line, and then asks for each name of its
// arguments; the first argument is the server. It prints the addresses.
func askMain(args []string) int {
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		fmt.Fprintln(os.Stderr, "ask: read:", err)
		return 1
	}
	client := &dns.Client{Timeout: askTimeout}
	for _, name := range args[1:] {
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), args[0])
		if err != nil {
			fmt.Fprintln(os.Stderr, "ask:", err)
			return 1
		}
		if len(m.Answer) != 1 {
			fmt.Println(dns.RcodeToString[m.Rcode])
			continue
		}
		fmt.Println(m.Answer[0].(*dns.A).A)
	}
	return 0
}

// signalsMain says "ready" and then what signals it gets; it ends with code 7 at
// SIGTERM.
func signalsMain([]string) int {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	fmt.Println("ready")
	for s := range signals {
		fmt.Println(unix.SignalName(s.(unix.Signal)))
		if s == unix.SIGTERM {
			return 7
		}
	}
	return 0
}
