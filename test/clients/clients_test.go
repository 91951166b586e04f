// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, Roles()) }

// TestDirect is the baseline: the same answers from a nameserver that knows
// every name.
func TestDirect(t *testing.T) {
	w := NewWorld(t, Everything)
	Check(t, w.Start)
}

// TestWithoutTable shows that Check can fail: with a nameserver that lacks the
// table's names and nothing in between, every client says that they do not exist.
func TestWithoutTable(t *testing.T) {
	w := NewWorld(t, Local)
	questions := Questions()
	for i, q := range questions {
		if q.Table() {
			questions[i].Want = Answer{NotFound: true}
		}
	}
	check(t, questions, w.Start)
}
