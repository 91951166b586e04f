// SPDX-License-Identifier: Apache-2.0

// Package names opens the sources of names beside files that a YAML file lists, each in
// a layer of its own, in the order in which they stand there.
package names
