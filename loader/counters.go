// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/bpf"
)

// Counters are the verdict counters of a datapath in the hands of another process.
type Counters struct{ m *ebpf.Map }

// CountersFile returns what OpenCounters needs in another process; close it.
func (d *Datapath) CountersFile() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(d.maps[bpf.SteerMapSteerVerdict].FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("pass on verdict counters: %w", err)
	}
	return os.NewFile(uintptr(fd), "map"), nil
}

// OpenCounters takes over the file of a CountersFile. It needs the capabilities of
// OpenEnrolment: none since Linux 5.19.
func OpenCounters(f *os.File) (*Counters, error) {
	m, err := inheritMap(f, ebpf.PerCPUArray)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open verdict counters: %w", err)
	}
	return &Counters{m}, nil
}

// Counts is Datapath.Counts.
func (c *Counters) Counts() ([]Count, error) { return countCalls(c.m) }

// Close gives up the counters.
func (c *Counters) Close() { _ = c.m.Close() }
