// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"sync"
)

// libraries are the commands that look a name up, by C library.
var libraries = map[string][]string{
	"glibc":   {"/usr/bin/getent", "ahostsv4"},
	"musl":    {"/bin/lookup-musl"},
	"busybox": {"/bin/busybox", "nslookup", "-type=a"},
}

// result is what one C library found.
type result struct {
	Library string
	Found   bool // as the exit code says
	Output  string
}

// lookup has every C library look a name up, all at once, and prints the results as JSON.
func lookup(ctx context.Context, w io.Writer, name string) error {
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		results []result
	)
	for library, command := range libraries {
		wg.Go(func() {
			out, err := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], name)...).CombinedOutput()
			mu.Lock()
			defer mu.Unlock()
			results = append(results, result{Library: library, Found: err == nil, Output: string(out)})
		})
	}
	wg.Wait()
	return json.NewEncoder(w).Encode(results)
}
