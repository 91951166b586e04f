// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dnsteer/dnsteer/loader"
)

// checkCommand is Preflight for people. It needs no privilege: missing it is a finding.
func checkCommand(_ context.Context, e env, args []string) error {
	var o loader.Options
	fs := newFlags("check")
	addOptions(fs, &o)
	port := fs.Uint("port", loader.DefaultPort, "`port` of the resolver on 127.0.0.1 and ::1")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(e, fs, args, false); err != nil {
		return err
	}
	if *port == 0 || *port > 65535 {
		return usageError{fmt.Sprintf("check: --port=%d: want 1 to 65535", *port), "check"}
	}
	o.Port = uint16(*port)
	if defaultCgroup(&o) != nil {
		o.Cgroup = "/sys/fs/cgroup" // where it should be; Preflight says that it is not
	}
	findings := loader.Preflight(o)
	var err error
	if *asJSON {
		err = printJSON(e, findings)
	} else {
		err = printFindings(e.stdout, findings)
	}
	for _, f := range findings {
		if f.Severity == loader.Failure && err == nil {
			err = exitCode(exitFailed)
		}
	}
	return err
}

func printFindings(w io.Writer, findings []loader.Finding) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var failures, warnings, pins int
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Severity, f.Check, f.Have)
		if f.Severity == loader.OK {
			continue
		}
		fmt.Fprintf(t, "\t  needed\t%s\n", f.Need)
		if f.Remedy != "" {
			fmt.Fprintf(t, "\t  remedy\t%s\n", f.Remedy)
		}
		switch {
		case f.Severity == loader.Warning:
			warnings++
		case f.Check == "bpffs":
			pins++
		default:
			failures++
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verdict := "dnsteer works here"
	switch {
	case failures > 0:
		verdict = "dnsteer cannot work here"
	case pins > 0:
		verdict = "dnsteer exec works here; run and load cannot, for want of a place for pins"
	case warnings > 0:
		verdict = "dnsteer works here; see the warnings"
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}
