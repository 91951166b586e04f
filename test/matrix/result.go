// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dnsteer/dnsteer/test/matrix/kernel"
)

// Outcome is how a kernel did.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	// ImageOnly: it passed what can run without modules, which the archive lacks.
	ImageOnly Outcome = "image only"
	// Refused: dnsteer does not load where hooks are missing, as it should.
	Refused Outcome = "refused"
	// Missing: the archive has no such kernel any more.
	Missing Outcome = "missing"
)

// Result is what one kernel did with the tests. It has no times, so that a file of
// results changes only if something did.
type Result struct {
	Kernel  string `json:"kernel"`
	Remark  string `json:"remark,omitempty"` // what it really is, if a mask
	Release string `json:"release,omitempty"`
	Version string `json:"version,omitempty"` // of the package
	Modules bool   `json:"modules"`
	// Level is how much ran, see levels.
	Level    string             `json:"level,omitempty"`
	Outcome  Outcome            `json:"outcome"`
	Packages map[string]*Counts `json:"packages,omitempty"`
	packages []string           // that were to run
	// Behaviours are the tests of each behaviour in the table.
	Behaviours map[string]*Tally `json:"behaviours,omitempty"`
	// Features are the attributes that tests reported of the kernel (testing.T.Attr).
	Features map[string]string `json:"features,omitempty"`
}

// Counts are the results of one package's tests, subtests included.
type Counts struct {
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed,omitempty"`
	Skipped []string `json:"skipped,omitempty"`
	// Broken is set if the package failed as a whole: it did not build, leaked, timed
	// out, or its guest died.
	Broken bool `json:"broken,omitempty"`
}

func newResult(s subject) *Result {
	return &Result{
		Kernel:     s.name,
		Remark:     s.remark(),
		Release:    s.build.Release,
		Version:    s.build.Version,
		Modules:    s.tests,
		Packages:   make(map[string]*Counts),
		Behaviours: make(map[string]*Tally),
		Features:   make(map[string]string),
	}
}

// counts of a package, by its name in this module.
func (r *Result) counts(importPath string) *Counts {
	name := strings.TrimPrefix(importPath, module+"/")
	if r.Packages[name] == nil {
		r.Packages[name] = &Counts{}
	}
	return r.Packages[name]
}

// settle decides the outcome: each package must have passed something and failed
// nothing, and dnsteer check must say what the kernel does.
func (r *Result) settle(packages []string) {
	r.packages = packages
	r.Outcome = Pass
	switch {
	case isMask(r.Kernel):
		r.Outcome = Refused
	case !r.Modules:
		r.Outcome = ImageOnly
	}
	for _, p := range packages {
		c := r.counts(module + "/" + strings.TrimPrefix(p, "./"))
		slices.Sort(c.Failed)
		slices.Sort(c.Skipped)
		if c.Passed == 0 || c.Broken || len(c.Failed) > 0 {
			r.Outcome = Fail
		}
	}
	if len(r.disagreements()) > 0 || len(r.untested()) > 0 || r.loadsWrongly() != "" {
		r.Outcome = Fail
	}
}

// loadsWrongly says that the datapath loads where hooks are hidden, or does not where
// they are there.
func (r Result) loadsWrongly() string {
	switch load := r.Features["load"]; {
	case load == "yes" && isMask(r.Kernel):
		return "it loads without all hooks"
	case load == "no" && !isMask(r.Kernel):
		return "it does not load"
	}
	return ""
}

// untested are the behaviours of which no test ran although their package did: the
// tests have other names now, and the table would say nothing.
func (r Result) untested() []string {
	if r.Level == levelSome {
		return nil
	}
	var names []string
	for _, b := range behaviours() {
		if slices.Contains(r.packages, "./"+b.pkg) && r.Behaviours[b.name] == nil {
			names = append(names, b.name)
		}
	}
	return names
}

// disagreements are the features of which dnsteer check says something else than our
// own probe found.
func (r Result) disagreements() []string {
	var names []string
	for feature, check := range map[string]string{
		"netns_cookie":      "check.namespace_cookie",
		"unprivileged_map":  "check.unprivileged_bpf",
		"pidfd_getfd":       "check.pidfd_getfd",
		"hook.connect4":     "check.hook_connect4",
		"hook.getpeername4": "check.hook_getpeername4",
		"link.connect4":     "check.bpf_link",
	} {
		found, said := r.Features[feature], r.Features[check]
		if found != "" && said != "" && (found == "yes") != (said == "ok") {
			names = append(names, feature)
		}
	}
	slices.Sort(names)
	return names
}

// why says in one line what failed.
func (r Result) why() string {
	var reasons []string
	for _, name := range r.packageNames() {
		c := r.Packages[name]
		switch {
		case len(c.Failed) > 0:
			reasons = append(reasons, fmt.Sprintf("%d of %d tests of %s failed", len(c.Failed), len(c.Failed)+c.Passed, name))
		case c.Broken:
			reasons = append(reasons, name+" failed as a whole")
		case c.Passed == 0:
			reasons = append(reasons, "nothing ran in "+name)
		}
	}
	if wrong := r.disagreements(); len(wrong) > 0 {
		reasons = append(reasons, "dnsteer check is wrong about "+strings.Join(wrong, ", "))
	}
	if wrong := r.loadsWrongly(); wrong != "" {
		reasons = append(reasons, wrong)
	}
	if names := r.untested(); len(names) > 0 {
		reasons = append(reasons, "no test of "+strings.Join(names, ", "))
	}
	return strings.Join(reasons, "; ")
}

func (r Result) packageNames() []string {
	var names []string
	for name := range r.Packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// String is one line for who watches.
func (r Result) String() string {
	s := fmt.Sprintf("linux %s: %s", r.name(), r.Outcome)
	if r.Outcome == Fail {
		return s + ": " + r.why()
	}
	passed, skipped := r.sum()
	if passed > 0 {
		s += fmt.Sprintf(", %d tests passed", passed)
	}
	if skipped > 0 {
		s += fmt.Sprintf(", %d skipped", skipped)
	}
	return s
}

func (r Result) sum() (passed, skipped int) {
	for _, c := range r.Packages {
		passed += c.Passed
		skipped += len(c.Skipped)
	}
	return passed, skipped
}

func (r Result) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, r.Kernel+".json"), append(text, '\n'), 0o644)
}

// readResults reads all files of results, oldest kernel first.
func readResults(dir string) ([]Result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var results []Result
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var r Result
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read results in %s: %w", file, err)
		}
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b Result) int { return kernel.Compare(a.Kernel, b.Kernel) })
	return results, nil
}
