// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"slices"
)

// Merge says whose records count where several clusters have a Service of the same
// name in the same zone.
type Merge string

// The rules.
const (
	// LocalFirst takes the local cluster's records if it has any, else all others
	// together.
	LocalFirst Merge = "local-first"
	// Union takes all together.
	Union Merge = "union"
	// RemoteOnly never takes the local cluster's, whose own DNS knows them.
	RemoteOnly Merge = "remote-only"
)

// ParseMerge reads a rule; empty means LocalFirst.
func ParseMerge(s string) (Merge, error) {
	switch m := Merge(s); m {
	case "":
		return LocalFirst, nil
	case LocalFirst, Union, RemoteOnly:
		return m, nil
	}
	return "", fmt.Errorf("merge is %q, not %s, %s or %s", s, LocalFirst, Union, RemoteOnly)
}

// said is a view with who says it.
type said struct {
	view
	cluster *cluster
}

// choose picks those whose records count, in the order of the clusters. A cluster that
// has the Service but nothing behind it is not asked.
func (m Merge) choose(all []said) []said {
	all = slices.DeleteFunc(all, func(s said) bool { return !s.has() || m == RemoteOnly && s.cluster.Local })
	if m != LocalFirst {
		return all
	}
	local := slices.DeleteFunc(slices.Clone(all), func(s said) bool { return !s.cluster.Local })
	if len(local) > 0 {
		return local
	}
	return all
}
