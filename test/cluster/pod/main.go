// SPDX-License-Identifier: Apache-2.0

// Command pod is what runs in the containers of package cluster's pods, as process 1:
//
//	pod pause                          waits for SIGTERM
//	pod load [-rate N] NAME ...        asks for names all the time, see load
//	pod lookup NAME                    has every C library look a name up, see lookup
//
// Anything else is started by "kubectl exec" in the same container.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "pod: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("say what to do: pause, load or lookup")
	}
	// Process 1 has no default action for signals: unasked, SIGTERM does nothing.
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	switch args[0] {
	case "pause":
		go reap()
		<-ctx.Done()
		return nil
	case "load":
		fs := flag.NewFlagSet("load", flag.ContinueOnError)
		rate := fs.Int("rate", 100, "queries a `second`, for each name")
		connected := fs.Bool("connected", false, "ask by connect and send, as most libraries do, not by sendto")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return load(ctx, *rate, *connected, fs.Args())
	case "lookup":
		if len(args) != 2 {
			return errors.New("look a name up: say which")
		}
		return lookup(ctx, os.Stdout, args[1])
	}
	return fmt.Errorf("no such thing to do: %q", args[0])
}

// reap takes in what a pod's other containers, or an exec, left behind.
func reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
