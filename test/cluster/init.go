// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The roles of a test binary that make up a node.
const (
	roleNode  = "node"       // joins the cgroups and starts the node
	roleInit  = "node-init"  // is the node's process 1
	roleEnter = "node-enter" // runs a program on the node
	roleExec  = "node-exec"  // becomes that program
)

// roleEnv is how testenv.Command tells a binary its role.
const roleEnv = "DNSTEER_TEST_ROLE"

// nodeNamespaces are a node's own.
const nodeNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
	unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP

// runInit is process 1 of a node: it makes the mounts, says so, and takes in
// orphans until it is killed, and with it all of the node.
func runInit(args []string) int {
	var config nodeConfig
	if err := json.Unmarshal([]byte(args[0]), &config); err != nil {
		fmt.Fprintf(os.Stderr, "read configuration: %v\n", err)
		return 2
	}
	if err := config.setUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ready := os.NewFile(3, "ready")
	fmt.Fprintln(ready, "ready")
	ready.Close()
	return reap(0)
}

func (c nodeConfig) setUp() error {
	if err := unix.Sethostname([]byte(c.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := errors.Join(
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		mount("proc", "/proc", "proc", 0, ""),
		// Not covered but gone: the machine's cgroups would still be in mountinfo.
		unix.Unmount("/sys", unix.MNT_DETACH),
		mount("sysfs", "/sys", "sysfs", 0, ""),
		mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"),
		c.mountCgroups(),
		mount("run", "/run", "tmpfs", 0, "mode=755"),
		c.mountState(),
		// As on any machine: what is mounted later, a container that asks sees.
		mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""),
	); err != nil {
		return err
	}
	return forward()
}

func (c nodeConfig) mountCgroups() error {
	if c.Shape == Unified {
		return mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
	}
	const root = "/sys/fs/cgroup"
	errs := []error{mount("cgroup", root, "tmpfs", 0, "mode=755")}
	for _, h := range c.Hierarchies {
		kind, options, dir := "cgroup", h.Options, filepath.Join(root, filepath.Base(h.Dir))
		if h.V2 {
			kind, options, dir = "cgroup2", "", filepath.Join(root, "unified")
		}
		errs = append(errs, os.Mkdir(dir, 0o755), mount(kind, dir, kind, 0, options))
	}
	return errors.Join(errs...)
}

// mountState lets the node write to /etc, /opt and /var without the machine's
// changing. The containers' own overlays cannot lie on one, so containerd and
// kubelet have theirs on the disk itself.
func (c nodeConfig) mountState() error {
	var errs []error
	for _, dir := range []string{"/etc", "/opt", "/var"} {
		upper, work := filepath.Join(c.State, dir, "upper"), filepath.Join(c.State, dir, "work")
		errs = append(errs, os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755),
			mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)))
	}
	for _, dir := range []string{"/var/lib/containerd", "/var/lib/kubelet"} {
		own := filepath.Join(c.State, filepath.Base(dir))
		errs = append(errs, os.MkdirAll(own, 0o755), os.MkdirAll(dir, 0o755), mount(own, dir, "", unix.MS_BIND, ""))
	}
	return errors.Join(errs...)
}

// forward makes the node a router, as pods need it.
func forward() error {
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if err := os.WriteFile(path, []byte("1"), 0); err != nil {
			return fmt.Errorf("forward packets: %w", err)
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source+kind, target, err)
	}
	return nil
}
