// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The markers between which the table is written, or a summary of it.
const (
	tableBegin   = "<!-- kernel matrix: begin, written by make matrix -->"
	summaryBegin = "<!-- kernel matrix, summary: begin, written by make matrix -->"
	tableEnd     = "<!-- kernel matrix: end -->"
)

// column is one column of the table.
type column struct {
	title string
	cell  func(Result) string
}

// columns returns the table's columns after the kernel itself: what the tests found,
// then what the kernel has.
func columns() []column {
	all := []column{{"privileged tests", cellTests}}
	for _, b := range behaviours() {
		all = append(all, column{b.name, cellBehaviour(b.name)})
	}
	return append(all, []column{
		{"hooks", func(r Result) string { return cellHooks(r, "hook.") }},
		{"by link", func(r Result) string { return cellHooks(r, "link.") }},
		{"by legacy call", func(r Result) string { return cellHooks(r, "legacy.") }},
		{"owner and interface of the socket (BTF)", cellCheck("check.kernel_BTF")},
		{"copies sockets (pidfd_getfd)", cellAll("pidfd_getfd")},
		{"netns cookie", cellCookie},
		{"worker without CAP_BPF", cellAll("unprivileged_map")},
		{"ring buffer", cellAll("ringbuf")},
		{"IPv6", cellAll("ipv6")},
		{"attach order", cellAll("order")},
	}...)
}

// summaryColumns are those for who wants to know whether his kernel will do.
func summaryColumns() []column {
	titles := []string{
		"privileged tests", "tags, IPv4", "tags, IPv6", "re-steer and return",
		"hooks", "by link", "netns cookie", "worker without CAP_BPF", "ring buffer", "IPv6",
	}
	return slices.DeleteFunc(columns(), func(c column) bool { return !slices.Contains(titles, c.title) })
}

const (
	cellYes     = "yes"
	cellNo      = "**no**"
	cellUnknown = "?"
)

// cellTests is what the tests of all packages but our own probe said.
func cellTests(r Result) string {
	switch r.Outcome {
	case Missing:
		return "not served any more"
	case Fail:
		return "**failed**: " + r.why()
	case ImageOnly:
		return "not run, no modules served"
	case Refused:
		return "refuses to load"
	}
	passed, skipped := r.sum()
	cell := fmt.Sprintf("%d pass", passed)
	if skipped > 0 {
		cell += fmt.Sprintf(", %d do not apply", skipped)
	}
	if r.Level != "whole" {
		cell += " (" + r.Level + ")"
	}
	return cell
}

// cellHooks counts the attributes with a prefix that are yes.
func cellHooks(r Result, prefix string) string {
	var have, all int
	for key, value := range r.Features {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		all++
		if value == "yes" {
			have++
		}
	}
	switch {
	case all == 0:
		return cellUnknown
	case have == all:
		return fmt.Sprint(all)
	case have == 0:
		return cellNo
	}
	return fmt.Sprintf("**%d of %d**", have, all)
}

// cellBehaviour is yes if all tests of a behaviour passed.
func cellBehaviour(name string) func(Result) string {
	return func(r Result) string {
		t := r.Behaviours[name]
		switch {
		case t == nil || t.Passed+t.Failed+t.Skipped == 0:
			return cellUnknown
		case t.Failed > 0:
			return fmt.Sprintf("**%d of %d**", t.Passed, t.Passed+t.Failed)
		case t.Passed == 0:
			return cellNo
		}
		return cellYes
	}
}

// cellCheck is yes if a check of Preflight found nothing wrong.
func cellCheck(key string) func(Result) string {
	return func(r Result) string {
		switch r.Features[key] {
		case "":
			return cellUnknown
		case "ok":
			return cellYes
		}
		return cellNo
	}
}

// cellCookie tells who tells the cookie of a namespace: the kernel, or a program of ours.
func cellCookie(r Result) string {
	cell := cellAll("so_netns_cookie")(r)
	if cell == cellNo && r.Features["netns_cookie"] == "yes" {
		return "by a program"
	}
	return cell
}

// cellAll is yes if all attributes are.
func cellAll(keys ...string) func(Result) string {
	return func(r Result) string {
		cell := cellYes
		for _, key := range keys {
			switch r.Features[key] {
			case "yes":
			case "no":
				cell = cellNo
			default:
				return cellUnknown
			}
		}
		return cell
	}
}

// table makes the table in Markdown, with what dnsteer check says.
func table(results []Result) string { return grid(results, columns()) + remarks(results) }

// grid makes a line for each kernel.
func grid(results []Result, columns []column) string {
	var b strings.Builder
	titles := []string{"Linux"}
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	row(&b, titles)
	row(&b, slices.Repeat([]string{"---"}, len(titles)))
	for _, r := range results {
		cells := []string{r.name()}
		for _, c := range columns {
			if r.Outcome == Missing && len(cells) > 1 {
				cells = append(cells, "")
				continue
			}
			cells = append(cells, c.cell(r))
		}
		row(&b, cells)
	}
	return b.String()
}

// title is the kernel in a sentence.
func (r Result) title() string {
	if r.Kernel == noLinks || r.Kernel == noBTF {
		return r.Kernel
	}
	return "Linux " + r.Kernel
}

// usual are checks that have something to say of every kernel.
var usual = map[string]bool{"says.conntrack": true}

// remarks are what dnsteer check says on kernels that lack something.
func remarks(results []Result) string {
	var b strings.Builder
	for _, r := range results {
		for _, key := range slices.Sorted(maps.Keys(r.Features)) {
			if strings.HasPrefix(key, "says.") && !usual[key] {
				fmt.Fprintf(&b, "- %s: %s\n", r.title(), r.Features[key])
			}
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\nWhat `dnsteer check` says where something is missing:\n\n" + b.String()
}

// name is the kernel and the build that was tried.
func (r Result) name() string {
	version, _, _ := strings.Cut(r.Version, "-")
	switch {
	case r.Remark != "":
		return fmt.Sprintf("%s (%s)", r.Kernel, r.Remark)
	case r.Kernel == noBTF:
		return fmt.Sprintf("%s (%s)", r.Kernel, r.Features["release"])
	case version == "":
		return r.Kernel
	}
	return version
}

func row(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// insertTables puts the table, and its summary, where a document has the markers for them.
func insertTables(document string, results []Result) string {
	document = insert(document, tableBegin, table(results))
	return insert(document, summaryBegin, grid(results, summaryColumns()))
}

// insert puts text between the markers of a document, which is returned as it is if it
// has none.
func insert(document, begin, text string) string {
	before, rest, found := strings.Cut(document, begin+"\n")
	_, after, closed := strings.Cut(rest, tableEnd)
	if !found || !closed {
		return document
	}
	return before + begin + "\n" + text + tableEnd + after
}

// updateTables writes the table of all results into the documents.
func updateTables(opts options) error {
	results, err := readResults(filepath.Join(opts.root, opts.results))
	if err != nil {
		return err
	}
	for _, name := range opts.tables {
		path := filepath.Join(opts.root, name)
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		updated := insertTables(string(old), results)
		if updated == string(old) {
			continue
		}
		if err := os.WriteFile(path, []byte(updated), 0o644); err != nil {
			return err
		}
	}
	return nil
}
