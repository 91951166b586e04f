// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/internal/agentstatus"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// usage is what a process has taken.
type usage struct {
	cpu     time.Duration
	rss     int // bytes
	files   int
	threads int
	agentstatus.Status
}

func (w *world) usage(tb testing.TB, p *process) usage {
	tb.Helper()
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	number := func(i int) int {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			tb.Fatal(err)
		}
		return n
	}
	var u usage
	const tick = 10 * time.Millisecond // USER_HZ
	u.cpu = time.Duration(number(11)+number(12)) * tick
	u.threads, u.rss = number(17), number(21)*os.Getpagesize()
	files, err := filepath.Glob(dir + "fd/*")
	if err != nil {
		tb.Fatal(err)
	}
	u.files = len(files)
	if u.Status, err = agentstatus.Get(tb.Context(), agentstatus.Socket(w.socket())); err != nil {
		tb.Fatal(err)
	}
	return u
}

// BenchmarkScopes is a node with 250 pods in which nobody asks anything: what it takes to
// enrol each, what they cost from then on, and how soon a restart after kill -9 has all.
func BenchmarkScopes(b *testing.B) {
	const pods = 250
	const idle = 20 * time.Second
	for b.Loop() {
		w := newWorld(b)
		agent := w.start(b, testenv.NewNetNS(b))
		var all []cnirpc.Attachment
		for i := range pods {
			all = append(all, podAttachment(b, testenv.NewNetNS(b), fmt.Sprintf("pod-%d", i), "192.0.2.53", "example.org"))
		}
		before := w.usage(b, agent)
		var took []time.Duration
		for _, at := range all {
			begun := time.Now()
			if err := w.client().Add(b.Context(), at); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[pods/2].Microseconds())/1000, "enrol-ms-median")
		b.ReportMetric(float64(took[pods*99/100].Microseconds())/1000, "enrol-ms-p99")
		<-time.After(5 * time.Second) // buffers go to rest
		begun := w.usage(b, agent)
		<-time.After(idle)
		after := w.usage(b, agent)
		b.ReportMetric(float64(after.rss-before.rss)/1024/pods, "kB/scope")
		b.ReportMetric(100*float64(after.cpu-begun.cpu)/float64(idle), "idle-%-of-a-core")
		b.ReportMetric(float64(after.files-before.files)/pods, "files/scope")
		b.ReportMetric(float64(after.Goroutines-before.Goroutines)/pods, "goroutines/scope")
		agent.end(b, unix.SIGKILL)
		restarted := time.Now()
		agent = w.launch(b, testenv.NewNetNS(b))
		testenv.Eventually(b, patience, func() error {
			again, err := agentstatus.Get(b.Context(), agentstatus.Socket(w.socket()))
			if err == nil && len(again.Pods) < pods {
				err = fmt.Errorf("%d pods", len(again.Pods))
			}
			return err
		})
		b.ReportMetric(float64(time.Since(restarted).Milliseconds()), "restart-ms")
		agent.end(b, unix.SIGTERM)
		w.unload(b)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkChurn enrols and withdraws 100 pods a second for a minute. It fails if anything
// of them stays.
func BenchmarkChurn(b *testing.B) {
	const rate, length, pods = 100, time.Minute, 20
	for b.Loop() {
		w := newWorld(b)
		agent := w.start(b, testenv.NewNetNS(b))
		var all []cnirpc.Attachment
		for i := range pods {
			all = append(all, podAttachment(b, testenv.NewNetNS(b), fmt.Sprintf("pod-%d", i), "192.0.2.53"))
		}
		before := w.usage(b, agent)
		var done int
		var mu sync.Mutex
		var clients sync.WaitGroup
		begun := time.Now()
		for _, at := range all {
			clients.Go(func() {
				tick := time.NewTicker(time.Second * pods / rate)
				defer tick.Stop()
				for time.Since(begun) < length {
					<-tick.C
					if err := w.client().Add(b.Context(), at); err != nil {
						b.Error(err)
					}
					if err := w.client().Del(b.Context(), at); err != nil {
						b.Error(err)
					}
					mu.Lock()
					done++
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		took := time.Since(begun)
		used := w.usage(b, agent).cpu - before.cpu
		testenv.Eventually(b, patience, func() error {
			after := w.usage(b, agent)
			if after.files > before.files || after.Goroutines > before.Goroutines || len(after.Pods) > 0 {
				return fmt.Errorf("%d files, %d goroutines, %d pods; before %d, %d, 0", after.files, after.Goroutines, len(after.Pods), before.files, before.Goroutines)
			}
			return nil
		})
		after := w.usage(b, agent)
		b.ReportMetric(float64(done)/took.Seconds(), "enrolments/s")
		b.ReportMetric(float64(used.Microseconds())/1000/float64(done), "cpu-ms/enrolment")
		b.ReportMetric(float64(after.rss-before.rss)/1024, "kB-left")
		b.ReportMetric(float64(after.threads-before.threads), "threads-left")
		agent.end(b, unix.SIGTERM)
		w.unload(b)
	}
	b.ReportMetric(0, "ns/op")
}
