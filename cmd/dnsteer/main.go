// SPDX-License-Identifier: Apache-2.0

// Command dnsteer steers the DNS of one command, or of one host, to a resolver of its
// own, without netfilter.
//
//	main.go      the commands and what the outside world looks like to them
//	exec.go      one command in a cgroup of its own
//	run.go       a cgroup and this namespace, as a service
//	load.go      the pinned datapath by hand: load, upgrade, unload
//	status.go, leaks.go, check.go, query.go   what only looks
//	host.go      the privileged side of exec and run: datapath, listeners, worker
//	worker.go    the unprivileged side: the resolver
//	supervise.go, pulse.go, restarts.go   a worker that ends or hangs, and the next one
//	control.go   what the two say to each other
//	page.go      what operators look at: metrics, health, profiles
//	flags.go, names.go, user.go, cgroup.go   their inputs
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// env is the outside world.
type env struct {
	args           []string
	stdout, stderr io.Writer
	getenv         func(string) string
}

// Exit codes. A command that exec runs brings its own.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2

	// exec, when CMD does not start.
	exitCannotRun = 126
	exitNotFound  = 127
)

// command is one word of the command line. Nouns change nothing, verbs do.
type command struct {
	name, args, summary string
	hidden              bool
	run                 func(ctx context.Context, e env, args []string) error
}

func commands() []command {
	return []command{
		{name: "exec", args: "[flags] -- CMD [ARG...]", summary: "run CMD with its DNS steered", run: execCommand},
		{name: "run", args: "[flags]", summary: "steer a cgroup, or this host, until told to stop", run: runCommand},
		{name: "query", args: "[flags] NAME [TYPE]", summary: "ask the resolver and show where the answer comes from", run: queryCommand},
		{name: "status", args: "[flags]", summary: "show what is loaded and what it has done", run: statusCommand},
		{name: "leaks", args: "[flags]", summary: "watch for queries that leave unsteered, and tell whose and why", run: leaksCommand},
		{name: "check", args: "[flags]", summary: "tell whether dnsteer can work here", run: checkCommand},
		{name: "load", args: "[flags]", summary: "load and pin the datapath", run: loadCommand},
		{name: "upgrade", args: "[flags]", summary: "replace the programs of the loaded datapath", run: upgradeCommand},
		{name: "unload", args: "[flags]", summary: "return sockets, detach, remove the pins", run: unloadCommand},
		{name: "version", summary: "print the version", run: versionCommand},
		{name: workerCommandName, hidden: true, run: workerCommand},
	}
}

func main() {
	os.Exit(run(context.Background(), env{os.Args[1:], os.Stdout, os.Stderr, os.Getenv}))
}

func run(ctx context.Context, e env) int {
	if len(e.args) == 0 {
		_ = usage(e.stderr)
		return exitUsage
	}
	name, args := e.args[0], e.args[1:]
	switch name {
	case "-h", "-help", "--help", "help":
		return report(e, usage(e.stdout))
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands() {
		if c.name == name {
			return report(e, c.run(ctx, e, args))
		}
	}
	return report(e, usageError{text: fmt.Sprintf("unknown command %q", name)})
}

// report prints an error with its hint and chooses the exit code.
func report(e env, err error) int {
	var code exitCode
	var bad usageError
	var killed killedBy
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &killed):
		return int(killed.die())
	}
	fmt.Fprintf(e.stderr, "dnsteer: %v\n", err)
	for _, f := range moreFindings(err) {
		fmt.Fprintf(e.stderr, "dnsteer: %s\n", f)
	}
	if errors.As(err, &bad) {
		fmt.Fprintf(e.stderr, "dnsteer: hint: see '%s -h'\n", strings.TrimSpace("dnsteer "+bad.command))
		return exitUsage
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(e.stderr, "dnsteer: hint: %s\n", hint)
	}
	var notRun cannotRun
	if errors.As(err, &notRun) {
		return notRun.code()
	}
	return exitFailed
}

// exitCode ends the program with that code and without a word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a command line that makes no sense.
type usageError struct{ text, command string }

func (u usageError) Error() string { return u.text }

func usage(out io.Writer) error {
	w := bufio.NewWriter(out)
	fmt.Fprint(w, "Usage: dnsteer COMMAND [flags]\n\nSteers DNS to a resolver of its own at the socket, by eBPF, without netfilter.\n\nCommands:\n")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(w, "  %-9s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprint(w, `
'dnsteer COMMAND -h' shows the flags of a command.

Example:
  echo '192.0.2.10 reviews.cluster2.example.org' > names
  sudo dnsteer exec --hosts names -- getent hosts reviews.cluster2.example.org
`)
	return w.Flush()
}

// newFlags returns an empty flag set for a command; parse prints its usage.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

func commandUsage(out io.Writer, fs *flag.FlagSet) error {
	w := bufio.NewWriter(out)
	for _, c := range commands() {
		if c.name == fs.Name() {
			fmt.Fprintf(w, "Usage: dnsteer %s %s\n\n%s%s.\n", c.name, c.args, strings.ToUpper(c.summary[:1]), c.summary[1:])
		}
	}
	fmt.Fprint(w, "\nFlags:\n")
	printFlags(w, fs)
	return w.Flush()
}

// printFlags prints flags as people type them, with two dashes.
func printFlags(w io.Writer, fs *flag.FlagSet) {
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		fmt.Fprintf(w, "  --%s%s\n        %s", f.Name, value, text)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		fmt.Fprintln(w)
	})
}

// parse parses flags, prints the usage if it is asked for, and refuses what is left
// over, unless the command wants it.
func parse(e env, fs *flag.FlagSet, args []string, leftover bool) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return cmp.Or(commandUsage(e.stdout, fs), err)
		}
		return usageError{fmt.Sprintf("%s: %v", fs.Name(), err), fs.Name()}
	}
	if !leftover && fs.NArg() > 0 {
		return usageError{fmt.Sprintf("%s: unexpected argument %q", fs.Name(), fs.Arg(0)), fs.Name()}
	}
	return nil
}
