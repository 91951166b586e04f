// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// handedMaps is how many maps come first among the Files: scopes, tags, hearts.
const handedMaps = 3

// Files returns what OpenEnrolment needs in another process: three maps, and the listeners.
// The maps are duplicates, to be closed; the listeners stay the Enrolment's.
func (e *Enrolment) Files() (maps, listeners []*os.File, err error) {
	for _, m := range []*ebpf.Map{e.heart.scopes, e.heart.tags, e.heart.hearts} {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			for _, f := range maps {
				_ = f.Close()
			}
			return nil, nil, fmt.Errorf("pass on map: %w", err)
		}
		maps = append(maps, os.NewFile(uintptr(fd), "map"))
	}
	return maps, e.Listeners.Files(), nil
}

// OpenEnrolment makes an Enrolment of the Files of another process, maps first, and takes
// them over; it closes them if it fails. It needs no capability since Linux 5.19, CAP_BPF
// before where kernel.unprivileged_bpf_disabled is on.
func OpenEnrolment(files []*os.File) (*Enrolment, error) {
	e, err := openEnrolment(files)
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, fmt.Errorf("open enrolment: %w", err)
	}
	return e, nil
}

func openEnrolment(files []*os.File) (*Enrolment, error) {
	if len(files) <= handedMaps {
		return nil, fmt.Errorf("%d files, want %d maps and listeners", len(files), handedMaps)
	}
	listeners, err := inheritListeners(files[handedMaps:])
	if err != nil {
		return nil, err
	}
	var maps []*ebpf.Map
	for i, want := range []struct {
		what string
		kind ebpf.MapType
	}{{"scopes", ebpf.SkStorage}, {"tags", ebpf.Hash}, {"hearts", ebpf.Array}} {
		m, err := inheritMap(files[i], want.kind)
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("open %s: %w", want.what, err)
		}
		maps = append(maps, m)
	}
	h, err := newHeart(maps)
	if err != nil {
		return nil, err
	}
	e := &Enrolment{Listeners: listeners, heart: h, own: true}
	_, _ = e.recall() // it may not be enrolled yet
	return e, nil
}

// inheritMap takes over the file.
func inheritMap(f *os.File, want ebpf.MapType) (*ebpf.Map, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, err
	}
	if m.Type() != want {
		_ = m.Close()
		return nil, fmt.Errorf("inherit map: type %s, want %s", m.Type(), want)
	}
	_ = f.Close()
	return m, nil
}
