// SPDX-License-Identifier: Apache-2.0

// Command demo tells the seed story in every mode and prints the collisions. It
// exits 1 if a figure is not what the story claims.
package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/dnsteer/dnsteer/test/seed"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func main() {
	seed.Roles().Dispatch()
	os.Exit(run())
}

func run() int {
	var results []seed.Result
	for _, mode := range []seed.Interceptor{seed.Direct(), seed.Netfilter(), seed.Zones()} {
		err := testenv.Run(mode.Name(), os.Stderr, func(tb testing.TB) {
			results = append(results, seed.Tell(tb, mode))
		})
		if err != nil {
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
			return 1
		}
	}
	if err := seed.Print(os.Stdout, results); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 1
	}
	code := 0
	for _, got := range results {
		if want := seed.Expect(got.Mode); got != want {
			fmt.Fprintf(os.Stderr, "demo: %s: %+v, should be %+v\n", got.Mode, got, want)
			code = 1
		}
	}
	return code
}
