// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Files returns what OpenEnrolment needs in another process: two maps, then the
// listeners. They stay the Enrolment's; pass them to a child, do not close them.
func (e *Enrolment) Files() ([]*os.File, error) {
	var files []*os.File
	for _, m := range []*ebpf.Map{e.scopes, e.tags} {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("pass on map: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), "map"))
	}
	for _, s := range e.Listeners.sockets {
		files = append(files, s.file)
	}
	return files, nil
}

// OpenEnrolment makes an Enrolment of the Files of another process, and takes them
// over; it closes them if it fails. It needs no capability since Linux 5.19, CAP_BPF
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
	if len(files) < 3 {
		return nil, fmt.Errorf("%d files, want two maps and listeners", len(files))
	}
	listeners, err := inheritListeners(files[2:])
	if err != nil {
		return nil, err
	}
	scopes, err := inheritMap(files[0], ebpf.SkStorage)
	if err != nil {
		return nil, fmt.Errorf("open scopes: %w", err)
	}
	tags, err := inheritMap(files[1], ebpf.Hash)
	if err != nil {
		_ = scopes.Close()
		return nil, fmt.Errorf("open tags: %w", err)
	}
	e := &Enrolment{Listeners: listeners, scopes: scopes, tags: tags}
	if settings, err := e.read(); err == nil { // else it is not enrolled yet
		e.settings.Store(&settings)
	}
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
