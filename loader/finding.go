// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Severity says what a finding means for the datapath.
type Severity int

// The severities, from good to bad.
const (
	OK      Severity = iota
	Warning          // works, without something
	Failure          // cannot work
)

// String is the severity's name in output.
func (s Severity) String() string {
	names := []string{OK: "ok", Warning: "warning", Failure: "failure"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("severity-%d", int(s))
	}
	return names[s]
}

// MarshalText makes JSON of it.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is what one check of Preflight found.
type Finding struct {
	Check    string   `json:"check"`            // what was looked at, constant
	Need     string   `json:"need"`             // what the datapath wants of it
	Have     string   `json:"have"`             // what is there
	Remedy   string   `json:"remedy,omitempty"` // what to do about it; empty if it is OK
	Severity Severity `json:"severity"`
}

// String is the finding in one line.
func (f Finding) String() string {
	line := fmt.Sprintf("%s: need %s, have %s", f.Check, f.Need, f.Have)
	if f.Remedy != "" {
		line += ": " + f.Remedy
	}
	return line
}

// PreflightError is an operation that did not succeed, with the findings that tell why.
type PreflightError struct {
	Findings []Finding // failures only, at least one
	Err      error     // what the operation met
}

// Error is one line: what happened, and the first reason.
func (e *PreflightError) Error() string {
	first := e.Findings[0]
	line := fmt.Sprintf("%v (%s: need %s, have %s", e.Err, first.Check, first.Need, first.Have)
	if more := len(e.Findings) - 1; more > 0 {
		line += fmt.Sprintf("; and %d more", more)
	}
	return line + ")"
}

// Unwrap returns what the operation met.
func (e *PreflightError) Unwrap() error { return e.Err }

// Format prints every finding with its remedy under %+v.
func (e *PreflightError) Format(s fmt.State, verb rune) {
	if verb != 'v' || !s.Flag('+') {
		_, _ = io.WriteString(s, e.Error())
		return
	}
	fmt.Fprintf(s, "%+v", e.Err)
	for _, f := range e.Findings {
		fmt.Fprintf(s, "\n\t%s", f)
	}
}

// explain adds to a refusal by the kernel what Preflight finds wrong. Other errors
// speak for themselves.
func explain(opts Options, err error) error {
	var verifier *ebpf.VerifierError
	refused := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, ErrExclusive) || errors.As(err, &verifier)
	if !refused {
		return err
	}
	var failures []Finding
	for _, f := range Preflight(opts) {
		if f.Severity == Failure {
			failures = append(failures, f)
		}
	}
	if len(failures) == 0 {
		return err
	}
	return &PreflightError{Findings: failures, Err: err}
}
