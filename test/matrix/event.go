// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
)

// module is our import path.
const module = "github.com/dnsteer/dnsteer"

// event is one line of go test -json (cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events, in place of Package
	Test       string
	Key, Value string // of attributes
	Output     string
}

// collector puts events into a result, keeps all of them in a log, and prints what
// belongs to failures.
type collector struct {
	result  *Result
	log     io.Writer
	out     io.Writer
	verbose bool
	line    []byte
	output  map[[2]string]*strings.Builder // by package and test
}

func (r *Result) collector(log, out io.Writer, verbose bool) *collector {
	return &collector{result: r, log: log, out: out, verbose: verbose, output: make(map[[2]string]*strings.Builder)}
}

// Write takes any piece of the stream.
func (c *collector) Write(p []byte) (int, error) {
	if _, err := c.log.Write(p); err != nil {
		return 0, err
	}
	c.line = append(c.line, p...)
	for {
		line, rest, whole := bytes.Cut(c.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		c.line = rest
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, err
		}
		if err := c.take(e); err != nil {
			return 0, err
		}
	}
}

func (c *collector) take(e event) error {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		return c.print(key, e)
	case "attr":
		c.result.Features[e.Key] = e.Value
		return nil
	case "pass", "fail", "skip":
		err := c.end(key, e)
		delete(c.output, key)
		return err
	}
	return nil
}

// print prints at once if all is to be seen, else keeps it for a failure.
func (c *collector) print(key [2]string, e event) error {
	if c.verbose || e.Action == "build-output" {
		_, err := io.WriteString(c.out, e.Output)
		return err
	}
	if c.output[key] == nil {
		c.output[key] = &strings.Builder{}
	}
	c.output[key].WriteString(e.Output)
	return nil
}

// end counts the end of a test, or of a package if there is no test.
func (c *collector) end(key [2]string, e event) error {
	counts := c.result.counts(e.Package)
	c.result.tally(e)
	switch {
	case e.Action == "fail" && e.Test == "":
		counts.Broken = true
		if err := c.unfinished(e.Package, counts); err != nil {
			return err
		}
	case e.Action == "fail":
		counts.Failed = append(counts.Failed, e.Test)
	case e.Action == "skip" && e.Test != "":
		counts.Skipped = append(counts.Skipped, e.Test)
	case e.Action == "pass" && e.Test != "":
		counts.Passed++
	}
	if e.Action == "fail" && c.output[key] != nil {
		_, err := io.WriteString(c.out, c.output[key].String())
		return err
	}
	return nil
}

// unfinished counts the tests as failed that a package did not live to end, and prints
// what they have printed: one of them is why it died.
func (c *collector) unfinished(pkg string, counts *Counts) error {
	for key, output := range c.output {
		if key[0] != pkg || key[1] == "" {
			continue
		}
		counts.Failed = append(counts.Failed, key[1])
		c.result.tally(event{Action: "fail", Package: pkg, Test: key[1]})
		if _, err := io.WriteString(c.out, output.String()); err != nil {
			return err
		}
		delete(c.output, key)
	}
	return nil
}
