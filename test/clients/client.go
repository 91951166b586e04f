// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os/exec"
	"strings"
	"testing"
)

// client is one resolver.
type client struct {
	name string
	// prepare finds or builds the client, once, and returns how it asks: the
	// commands of one question.
	prepare func(tb testing.TB) asker
	// noText tells why it is not asked for the long text.
	noText string
	// parse reads what the commands of one question printed.
	parse func(outputs []output) Answer
}

// asker makes the commands that ask one question.
type asker func(tb testing.TB, q Question) []*exec.Cmd

// output is what one command left.
type output struct {
	stdout, stderr string
	code           int
}

// noTCP is why some clients cannot have an answer of four datagrams.
const (
	noTCP = "asks over UDP alone"
	noTXT = "resolves addresses alone"
)

// clients is the matrix's first dimension.
func clients() []client {
	return []client{
		{name: "getent", prepare: getent, noText: noTXT, parse: parseGetent},
		{name: "glibc", prepare: compiled("gcc", "gcc libc6-dev", "libc.c", "-lresolv"), parse: parseLines},
		{name: "musl", prepare: newMusl, parse: parseLines},
		{name: "old musl", prepare: compiled("musl-gcc", "musl-tools", "libc.c", "-static"), noText: noTCP, parse: parseLines},
		{name: "c-ares", prepare: compiled("gcc", "gcc libc-ares-dev", "ares.c", "-lcares"), parse: parseLines},
		{name: "go", prepare: ownBinary, parse: parseLines},
		{name: "node resolve", prepare: script("node", "nodejs", "resolve.js"), parse: parseLines},
		{name: "node lookup", prepare: script("node", "nodejs", "lookup.js"), noText: noTXT, parse: parseLines},
		{name: "python", prepare: script("python3", "python3", "lookup.py"), noText: noTXT, parse: parseLines},
		{name: "busybox nslookup", prepare: nslookup, noText: noTCP, parse: parseNslookup},
		{name: "dig", prepare: dig, parse: parseDig},
		{name: "curl", prepare: curl, noText: noTXT, parse: parseCurl},
	}
}

// one is an asker with a single command.
func one(argv ...string) asker {
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		return []*exec.Cmd{within(tb, append(argv, string(q.Kind), q.Name)...)}
	}
}

func compiled(compiler, debianPackage, source string, libs ...string) func(testing.TB) asker {
	return func(tb testing.TB) asker {
		tb.Helper()
		return one(compile(tb, compiler, debianPackage, source, libs...))
	}
}

func script(interpreter, debianPackage, source string) func(testing.TB) asker {
	return func(tb testing.TB) asker {
		tb.Helper()
		return one(find(tb, interpreter, debianPackage), program(tb, source))
	}
}

func ownBinary(testing.TB) asker {
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		return []*exec.Cmd{withinGo(tb, q)}
	}
}

func getent(tb testing.TB) asker {
	tb.Helper()
	path := find(tb, "getent", "libc-bin")
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		return []*exec.Cmd{within(tb, path, "ahosts", q.Name)}
	}
}

func nslookup(tb testing.TB) asker {
	tb.Helper()
	path := find(tb, "busybox", "busybox")
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		return []*exec.Cmd{
			within(tb, path, "nslookup", "-type=a", q.Name),
			within(tb, path, "nslookup", "-type=aaaa", q.Name),
		}
	}
}

func dig(tb testing.TB) asker {
	tb.Helper()
	path := find(tb, "dig", "bind9-dnsutils")
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		ask := func(qtype string) *exec.Cmd {
			return within(tb, path, "+tries=1", "+noall", "+comments", "+answer", q.Name, qtype)
		}
		if q.Kind == Text {
			return []*exec.Cmd{ask("TXT")}
		}
		return []*exec.Cmd{ask("A"), ask("AAAA")}
	}
}

// curl connects to the web server behind the answer, once for each family.
func curl(tb testing.TB) asker {
	tb.Helper()
	path := find(tb, "curl", "curl")
	return func(tb testing.TB, q Question) []*exec.Cmd {
		tb.Helper()
		ask := func(family string) *exec.Cmd {
			return within(tb, path, family, "-sS", "-o", "/dev/null", "-w", "%{remote_ip}\n", "http://"+q.Name+"/")
		}
		return []*exec.Cmd{ask("-4"), ask("-6")}
	}
}

// parseLines reads what the programs in testdata print.
func parseLines(outputs []output) Answer {
	var a Answer
	for _, out := range outputs {
		for line := range strings.Lines(out.stdout) {
			a.read(strings.Fields(line))
		}
	}
	return a.sorted()
}
