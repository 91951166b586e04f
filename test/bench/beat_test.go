// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"github.com/dnsteer/dnsteer/loader"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// BenchmarkBeat measures what it costs a process to say that it lives, for as many scopes
// as a node has pods.
func BenchmarkBeat(b *testing.B) {
	const scopes = 250
	datapath, err := loader.Load(loader.Options{Cgroup: testenv.NewCgroup(b).Path})
	if err != nil {
		b.Fatal(err)
	}
	defer datapath.Close()
	heart, err := datapath.NewHeart()
	if err != nil {
		b.Fatal(err)
	}
	defer heart.Close()
	var all []*loader.Enrolment
	for range scopes {
		testenv.NewNetNS(b).Do(func() {
			listeners, err := loader.Listen(datapath.Port())
			if err != nil {
				b.Fatal(err)
			}
			enrolment := heart.Attend(listeners)
			b.Cleanup(enrolment.Close)
			if err := enrolment.Enrol(loader.Scope{OwnerUID: loader.DefaultOwner, OwnerGID: loader.DefaultOwner}); err != nil {
				b.Fatal(err)
			}
			all = append(all, enrolment)
		})
	}
	b.Run("scopes=250/by=heart", func(b *testing.B) {
		for b.Loop() {
			if err := heart.Beat(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("scopes=250/by=each", func(b *testing.B) {
		for b.Loop() {
			for _, e := range all {
				if err := e.Beat(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
