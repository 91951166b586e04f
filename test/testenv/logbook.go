// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// LogBook keeps what was logged.
type LogBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *LogBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *LogBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Saw waits until all words were logged.
func (l *LogBook) Saw(tb testing.TB, patience time.Duration, words ...string) {
	tb.Helper()
	Eventually(tb, patience, func() error {
		text := l.String()
		for _, w := range words {
			if !strings.Contains(text, w) {
				return fmt.Errorf("%q was not logged:\n%s", w, text)
			}
		}
		return nil
	})
}
