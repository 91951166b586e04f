// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dnsteer/dnsteer/test/matrix/kernel"
)

// stream is what go test -json says; PKG is our import path.
const stream = `{"Action":"start","Package":"PKG/loader"}
{"Action":"run","Package":"PKG/loader","Test":"TestPinnedLife"}
{"Action":"output","Package":"PKG/loader","Test":"TestPinnedLife","Output":"shown only if it fails\n"}
{"Action":"pass","Package":"PKG/loader","Test":"TestPinnedLife","Elapsed":1}
{"Action":"output","Package":"PKG/loader","Test":"TestB/x","Output":"why\n"}
{"Action":"fail","Package":"PKG/loader","Test":"TestB/x"}
{"Action":"fail","Package":"PKG/loader","Test":"TestB"}
{"Action":"skip","Package":"PKG/loader","Test":"TestC"}
{"Action":"output","Package":"PKG/loader","Test":"TestD","Output":"panic: timed out\n"}
{"Action":"fail","Package":"PKG/loader"}
{"Action":"attr","Package":"PKG/test/matrix/features","Test":"TestHooks","Key":"btf","Value":"yes"}
{"Action":"pass","Package":"PKG/test/matrix/features","Test":"TestHooks"}
{"Action":"pass","Package":"PKG/test/matrix/features"}
{"ImportPath":"PKG/x","Action":"build-output","Output":"x.go:1: syntax error\n"}
{"ImportPath":"PKG/x","Action":"build-fail"}
`

func TestCollect(t *testing.T) {
	var log, out bytes.Buffer
	r := newResult(subject{name: "6.1"})
	c := r.collector(&log, &out, false)
	text := strings.ReplaceAll(stream, "PKG", module)
	for _, piece := range []string{text[:100], text[100:1000], text[1000:]} {
		if _, err := c.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]*Counts{
		"loader":               {Passed: 1, Failed: []string{"TestB/x", "TestB", "TestD"}, Skipped: []string{"TestC"}, Broken: true},
		"test/matrix/features": {Passed: 1},
	}
	if diff := cmp.Diff(want, r.Packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"btf": "yes"}, r.Features); diff != "" {
		t.Errorf("features (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("why\npanic: timed out\nx.go:1: syntax error\n", out.String()); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
	if log.String() != text {
		t.Error("the log is not the whole stream")
	}
}

// passing is a result in which every package passed and every behaviour was tested.
func passing() *Result {
	r := newResult(subject{name: "6.1", build: kernel.Build{Version: "6.1.192-2"}, tests: true})
	r.Level, r.Features["load"] = "whole", "yes"
	for _, b := range behaviours() {
		r.counts(module+"/"+b.pkg).Passed++
		r.Behaviours[b.name] = &Tally{Passed: 1}
	}
	return r
}

func TestSettle(t *testing.T) {
	packages := []string{"./loader", "./test/conformance"}
	for _, tc := range []struct {
		name  string
		spoil func(*Result)
		want  Outcome
		why   string
	}{
		{"all passed", func(*Result) {}, Pass, ""},
		{"one failed", func(r *Result) { r.Packages["loader"].Failed = []string{"TestX"} }, Fail, "1 of 2 tests of loader failed"},
		{"leaked", func(r *Result) { r.Packages["loader"].Broken = true }, Fail, "loader failed as a whole"},
		{"nothing ran", func(r *Result) { r.Packages["loader"].Passed = 0 }, Fail, "nothing ran in loader"},
		{"never began", func(r *Result) { delete(r.Packages, "loader") }, Fail, "nothing ran in loader"},
		{"only skipped", func(r *Result) { *r.Packages["loader"] = Counts{Skipped: []string{"TestX"}} }, Fail, "nothing ran in loader"},
		{"renamed", func(r *Result) { delete(r.Behaviours, "TCP") }, Fail, "no test of TCP"},
		{"no modules", func(r *Result) { r.Modules = false }, ImageOnly, ""},
		{"does not load", func(r *Result) { r.Features["load"] = "no" }, Fail, "it does not load"},
		{"a mask that refuses", func(r *Result) { r.Kernel, r.Features["load"] = "5.4", "no" }, Refused, ""},
		{"a mask that does not", func(r *Result) { r.Kernel = "5.4" }, Fail, "it loads without all hooks"},
		{"check is wrong", func(r *Result) {
			r.Features["netns_cookie"], r.Features["check.namespace_cookie"] = "no", "ok"
		}, Fail, "dnsteer check is wrong about netns_cookie"},
		{"check is right", func(r *Result) {
			r.Features["netns_cookie"], r.Features["check.namespace_cookie"] = "no", "warning"
		}, Pass, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := passing()
			if tc.name == "one failed" {
				r.Packages["loader"].Passed = 1
			}
			tc.spoil(r)
			r.settle(packages)
			if r.Outcome != tc.want || r.why() != tc.why {
				t.Errorf("outcome %q, %q; want %q, %q", r.Outcome, r.why(), tc.want, tc.why)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	of := func(outcomes ...Outcome) []Result {
		var results []Result
		for _, o := range outcomes {
			results = append(results, Result{Kernel: "6.1", Outcome: o})
		}
		return results
	}
	for _, tc := range []struct {
		name    string
		results []Result
		all, ok bool
	}{
		{"nothing", nil, false, false},
		{"nothing of all", nil, true, false},
		{"one", of(Pass), false, true},
		{"one that is gone", of(Missing), false, false},
		{"four of all", of(Pass, Pass, Pass, Pass, Missing, Missing), true, false},
		{"five of all", of(Pass, Pass, Pass, Pass, ImageOnly, Missing), true, true},
		{"one failed", of(Pass, Pass, Pass, Pass, Pass, Fail), true, false},
		{"four of all, and masks", append(of(Pass, Pass, Pass, Pass), Result{Kernel: "5.4", Outcome: Refused}, Result{Kernel: noLinks, Outcome: Pass}), true, false},
		{"five of all, and masks", append(of(Pass, Pass, Pass, Pass, Pass), Result{Kernel: "5.4", Outcome: Refused}), true, true},
		{"a mask that failed", append(of(Pass, Pass, Pass, Pass, Pass), Result{Kernel: "5.4", Outcome: Fail}), true, false},
	} {
		if err := judge(tc.results, tc.all); (err == nil) != tc.ok {
			t.Errorf("%s: %v, want passed %t", tc.name, err, tc.ok)
		}
	}
}

func TestResultFiles(t *testing.T) {
	dir := t.TempDir()
	var want []Result
	for _, minor := range []string{"5.10", "6.1", "6.12"} {
		r := passing()
		r.Kernel, r.Outcome = minor, Pass
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		want = append(want, *r)
	}
	got, err := readResults(dir)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Result{}), cmpopts.EquateEmpty()); diff != "" || err != nil {
		t.Errorf("results (-want +got):\n%s%v", diff, err)
	}
}

func TestTable(t *testing.T) {
	r := passing()
	r.Outcome = Pass
	r.Behaviours["TCP"] = &Tally{Passed: 3, Failed: 1}
	r.Behaviours["fail open"] = &Tally{Skipped: 2}
	r.Features["hook.connect4"], r.Features["hook.connect6"] = "yes", "no"
	r.Features["so_netns_cookie"], r.Features["netns_cookie"] = "no", "yes"
	r.Features["says.bpf_link"], r.Features["says.conntrack"] = "use a newer one", "always"
	results := []Result{
		*r, {Kernel: "6.2", Outcome: Missing}, {Kernel: "7.0", Version: "7.0.13-1", Outcome: ImageOnly},
		{Kernel: "5.4", Version: "7.3.4-1", Remark: "7.3.4, what Linux 5.4 lacked hidden", Outcome: Refused},
	}
	text := table(results)
	lines := strings.Split(text, "\n")
	cells := func(line int) map[string]string {
		byTitle := make(map[string]string)
		titles := strings.Split(lines[0], " | ")
		for i, cell := range strings.Split(lines[line], " | ") {
			byTitle[strings.Trim(titles[i], "| ")] = strings.Trim(cell, "| ")
		}
		return byTitle
	}
	first := cells(2)
	for title, want := range map[string]string{
		"Linux": "6.1.192", "privileged tests": fmt.Sprint(len(behaviours()), " pass"), "UDP, IPv4": "yes", "TCP": "**3 of 4**", "fail open": "**no**",
		"hooks": "**1 of 2**", "by link": "?", "netns cookie": "by a program", "IPv6": "?",
	} {
		if first[title] != want {
			t.Errorf("%s: %q, want %q", title, first[title], want)
		}
	}
	if got := cells(3)["privileged tests"]; got != "not served any more" {
		t.Errorf("missing kernel: %q", got)
	}
	if got := cells(4)["privileged tests"]; got != "not run, no modules served" {
		t.Errorf("kernel without modules: %q", got)
	}
	if got := cells(5); got["privileged tests"] != "refuses to load" || got["Linux"] != "5.4 (7.3.4, what Linux 5.4 lacked hidden)" {
		t.Errorf("mask: %v", got)
	}
	if !strings.Contains(text, "- Linux 6.1: use a newer one\n") || strings.Contains(text, "always") {
		t.Errorf("remarks:\n%s", text)
	}
}

func TestInsert(t *testing.T) {
	document := "before\n" + tableBegin + "\nold\n" + tableEnd + "\nafter\n"
	want := "before\n" + tableBegin + "\nnew\n" + tableEnd + "\nafter\n"
	for _, old := range []string{document, want} {
		if got := insert(old, tableBegin, "new\n"); got != want {
			t.Errorf("insert into %q: %q", old, got)
		}
	}
	for _, without := range []string{"no markers\n", tableBegin + "\nno end\n"} {
		if got := insert(without, tableBegin, "new\n"); got != without {
			t.Errorf("insert into %q: %q", without, got)
		}
	}
}
