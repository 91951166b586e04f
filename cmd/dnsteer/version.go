// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is what the build says it is; a release sets it at link time.
var version = "" //nolint:gochecknoglobals // set with -ldflags -X

func versionCommand(_ context.Context, e env, args []string) error {
	fs := newFlags("version")
	if err := parse(e, fs, args, false); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "dnsteer %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
