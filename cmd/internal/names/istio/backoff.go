// SPDX-License-Identifier: Apache-2.0

package istio

import "time"

// timing is how long what takes.
type timing struct {
	// least and most are how soon istiod is asked again, with as much again at random: a
	// resolver is on every node, and all of them lose it at the same moment. Nothing is
	// lost meanwhile but news.
	least, most time.Duration
	// steady is for how long a stream must last for what was before to be forgotten. An
	// istiod that ends streams as soon as it has sent a table is no better than one that
	// is away.
	steady time.Duration
	// patience is how long istiod may take for a table after it was asked. It needs
	// seconds in a large mesh.
	patience time.Duration
	// A connection that says nothing for a time, ping, must give a sign of life within
	// another, pong. Sidecars do the same; istiod ends those who ask twice as often.
	ping, pong time.Duration
}

var usual = timing{
	least: time.Second, most: 30 * time.Second, steady: time.Minute,
	patience: time.Minute, ping: 30 * time.Second, pong: 10 * time.Second,
}

// backoff says when to ask again.
type backoff struct {
	timing
	last time.Duration
}

// wait is how long to wait after a stream that lasted for a time. Chance is from 0 to 1.
func (b *backoff) wait(lasted time.Duration, chance float64) time.Duration {
	if lasted >= b.steady {
		b.last = 0
	}
	b.last = min(max(2*b.last, b.least), b.most)
	return b.last + time.Duration(chance*float64(b.last))
}
