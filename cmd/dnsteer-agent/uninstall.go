// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dnsteer/dnsteer/cmd/dnsteer-agent/internal/proc"
	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/loader"
)

// uninstall takes everything of dnsteer off a node on which no agent runs, however the last
// one ended. It goes on after an error, and may be repeated.
func (s *settings) uninstall(log *slog.Logger) error {
	if err := os.MkdirAll(s.runDir(), 0o700); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	lock, err := tryLock(s.lockPath())
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("uninstall: an agent runs on this node; end it first, by removing the DaemonSet or stopping the service")
	}
	if err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	defer lock.Close()
	return s.removeAll(log)
}

// removeAll does so; the caller has the lock.
func (s *settings) removeAll(log *slog.Logger) error {
	// Nobody is to be told of new pods, nor pods to wait for it.
	changed, err := s.conflist.Uninstall()
	log.Info("uninstalled the plugin", "changed", strings.Join(changed, " "))
	errs := []error{err}
	if err == nil {
		errs = append(errs, s.conflist.RemoveBinary())
	}
	errs = append(errs, s.removeDatapath(log), os.RemoveAll(s.state), cnirpc.Remove(s.socket), os.RemoveAll(s.runDir()))
	return errors.Join(errs...)
}

// removeDatapath gives connected sockets back, detaches and unpins, unless somebody else
// uses the datapath too; and removes what is left in pods' namespaces.
func (s *settings) removeDatapath(log *slog.Logger) error {
	used, err := loader.InUse(s.opts)
	if err != nil {
		return err
	}
	if used {
		log.Warn("the datapath stays: another process uses it, as 'dnsteer run' does")
		return nil
	}
	port := uint16(loader.DefaultPort)
	if d, err := loader.Open(s.opts); err == nil {
		port = d.Port()
		d.Close()
	}
	err = loader.Unload(s.opts, lingerTime)
	if errors.Is(err, loader.ErrNotLoaded) { // but perhaps half, by one that died
		_, err = loader.Sweep(s.opts.BPFFS)
	}
	if errors.Is(err, loader.ErrNotBPFFS) {
		err = nil
	}
	return errors.Join(err, s.removeRoutes(port))
}

// removeRoutes removes the routes of tags from all pods. An agent that was killed could
// not.
func (s *settings) removeRoutes(port uint16) error {
	h, err := openHome()
	if err != nil {
		return err
	}
	defer h.file.Close()
	own, err := proc.Identify(h.file)
	if err != nil {
		return err
	}
	mounts, err := proc.CgroupMounts(procDir + "/self/mountinfo")
	if err != nil {
		return err
	}
	seen, err := proc.NewScanner(procDir, proc.CgroupName(mounts, s.opts.Cgroup), own).Scan()
	if err != nil {
		return err
	}
	var errs []error
	remove := func(f *os.File, err error) {
		if err != nil {
			return // it has gone
		}
		errs = append(errs, h.within(f, func() error { return loader.RemoveTagRoute(port) }))
		_ = f.Close()
	}
	for _, pod := range seen {
		remove(cnirpc.OpenNamespace(pod.Path))
	}
	for _, r := range (store{s.state}).all() {
		remove(openOnNode(s.root, r.Attachment.Path))
	}
	return errors.Join(errs...)
}
