// SPDX-License-Identifier: Apache-2.0

// Package oci writes container images as OCI archives, the form that containerd,
// Podman, Docker and skopeo load, from files alone: no daemon, no registry.
//
// What it writes depends on its input and on nothing else: no time, no owner, no
// order of a directory. The same files give the same bytes.
package oci
