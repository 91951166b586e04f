// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// many is how many run at once: one for each address of the test network but a few.
const many = 250

// TestMany runs many commands at once, each with a table of its own for the same name.
// All are there before the first one asks.
func TestMany(t *testing.T) {
	p := newPlace(t)
	began := time.Now()
	started := make([]*command, many)
	for i := range started {
		cmd := ask(t, p, writeHosts(t, address(i)), tableName, "www.example.org")
		started[i] = launch(t, p, cmd)
	}
	for _, c := range started {
		c.ready(t)
	}
	ready := time.Now()
	for i, c := range started {
		want := []string{address(i), testenv.AnswerOf(nameserver.Addr()).String()}
		if diff := cmp.Diff(want, c.finish(t)); diff != "" {
			t.Errorf("command %d (-want +got):\n%s", i, diff)
		}
	}
	t.Logf("%d at once: %v to start, %v to ask and end", many, ready.Sub(began), time.Since(ready))
	dnsteer.AssertGone(t, p, "")
}

func address(i int) string { return fmt.Sprintf("198.51.100.%d", i) }
