// SPDX-License-Identifier: Apache-2.0

package main

import (
	"regexp"
	"strings"
)

// behaviour is a column of the table that tests decide: all those of one package
// whose name matches.
type behaviour struct {
	name  string
	pkg   string
	tests *regexp.Regexp
}

// Tally counts the tests of a behaviour, the innermost only.
type Tally struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed,omitempty"`
	Skipped int `json:"skipped,omitempty"`
}

// behaviours lists what a user of the table wants to know. Rows of the conformance
// table are named TestTable/STATE/USERS/OWNER/SHAPE/FAMILY.
func behaviours() []behaviour {
	const conformance, loader = "test/conformance", "loader"
	return []behaviour{
		{"UDP, IPv4", conformance, regexp.MustCompile(`^TestTable/up/host/none/(un)?connected[^/]*/(v4|mapped)$`)},
		{"UDP, IPv6", conformance, regexp.MustCompile(`^TestTable/up/host/none/(un)?connected[^/]*/(v6|v6only)$`)},
		{"TCP", conformance, regexp.MustCompile(`^TestTable/up/host/none/TCP[^/]*/`)},
		{"tags, IPv4", conformance, regexp.MustCompile(`^TestTable/up/host/none/two_servers[^/]*/(v4|mapped)$`)},
		{"tags, IPv6", conformance, regexp.MustCompile(`^TestTable/up/host/none/two_servers[^/]*/(v6|v6only)$`)},
		{"owners exempt", conformance, regexp.MustCompile(`^TestTable/up/[^/]+/(uid|gid|before-setuid|seteuid|passed)/`)},
		{"fail open", conformance, regexp.MustCompile(`^TestTable/(dead|hung|stranger)/host/none/`)},
		{"fail closed", conformance, regexp.MustCompile(`^TestTable/closed-[^/]+/host/none/`)},
		{"foreign resolver", conformance, regexp.MustCompile(`^TestTable/foreign/host/none/`)},
		{"load, adopt, upgrade, unload", loader, regexp.MustCompile(`^Test(PinnedLife|UnpinnedLife|Upgrade|FailedUpgrade)`)},
		{"no gap under load", loader, regexp.MustCompile(`^Test(LoadAndUnloadUnderLoad|ListenerKilledUnderLoad|UpgradeWithoutGap)`)},
		{"killed at any point", loader, regexp.MustCompile(`^TestKilled`)},
		{"re-steer and return", loader, regexp.MustCompile(`^Test(Resteer|ReturnOf)`)},
		{"guests untouched", loader, regexp.MustCompile(`^Test(GuestsKeepWorking|ExclusiveGuest|OverridableGuest)`)},
	}
}

// tally counts the end of a test for the behaviours that it belongs to. A test with
// subtests counts as one of them if it matches too, so that it can only make the
// result worse.
func (r *Result) tally(e event) {
	for _, b := range behaviours() {
		if e.Test == "" || module+"/"+b.pkg != e.Package || !b.tests.MatchString(strings.ReplaceAll(e.Test, " ", "_")) {
			continue
		}
		t := r.Behaviours[b.name]
		if t == nil {
			t = &Tally{}
			r.Behaviours[b.name] = t
		}
		switch e.Action {
		case "pass":
			t.Passed++
		case "fail":
			t.Failed++
		case "skip":
			t.Skipped++
		}
	}
}
