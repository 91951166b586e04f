// SPDX-License-Identifier: Apache-2.0

// Package proc finds the pods of a node in /proc: which network namespaces they have,
// and what their resolv.conf says. It needs no runtime and no API server: a pod's UID
// is in the names of its cgroups, in every hierarchy and with both of the kubelet's
// cgroup drivers.
//
//	/proc/4711/cgroup   0::/kubepods.slice/.../kubepods-burstable-pod8f2d..._....slice/cri-...
//	/proc/4711/ns/net   the pod's network namespace
//	/proc/4711/root     what the pod sees as /
//
// What is below root is the pod's own, and so is every symbolic link and file there.
package proc
