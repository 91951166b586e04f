// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJob(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	j, err := newJob([]string{"/tmp/x.test", "-test.v", "-test.coverprofile=c.out", "--test.trace=/tmp/trace", "-test.run=^$"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "c.out"), "/tmp/trace"}
	if diff := cmp.Diff(want, j.Outputs); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}
	if j.Dir != dir || j.Binary != "/tmp/x.test" || len(j.Args) != 4 {
		t.Errorf("job %+v", j)
	}
}

func TestLimit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		args   []string
		chosen time.Duration
		want   time.Duration
	}{
		{"chosen", []string{"-test.timeout=1m"}, time.Second, time.Second},
		{"of the tests", []string{"-test.v", "-test.timeout=90s"}, 0, 90*time.Second + bootAllowance},
		{"none", nil, 0, 10*time.Minute + bootAllowance},
		{"not bounded by the tests", []string{"-test.timeout=0s"}, 0, 10*time.Minute + bootAllowance},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := (&job{Args: tc.args}).limit(tc.chosen); got != tc.want {
				t.Errorf("limit %s, want %s", got, tc.want)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	env := environment([]string{"PATH=/usr/bin", "LANG=C", "GOMAXPROCS=1", "DNSTEER_X=1"})
	for v, want := range map[string]bool{"PATH=/usr/bin": false, "LANG=C": false, "GOMAXPROCS=1": true, "DNSTEER_X=1": true} {
		if slices.Contains(env, v) != want {
			t.Errorf("%s is in the guest's environment: %t, want %t", v, !want, want)
		}
	}
}

func TestTestdata(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "testdata")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "program"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/program", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	a := newArchive(&b)
	if err := addTestdata(a, dir); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, e := range readArchive(t, b.Bytes()) {
		got["/"+e.Name] = e.Content
	}
	for _, name := range []string{"link", "sub/program"} {
		if content := got[filepath.Join(dir, name)]; content != "x" {
			t.Errorf("%s contains %q, want x", name, content)
		}
	}
	if err := addTestdata(newArchive(&b), filepath.Join(dir, "none")); err != nil {
		t.Errorf("a package without testdata: %v", err)
	}
}

func TestResults(t *testing.T) {
	dir := t.TempDir()
	profile, archive := filepath.Join(dir, "cover", "p.out"), filepath.Join(dir, "results")
	if err := os.Mkdir(filepath.Dir(profile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(profile, []byte("mode: set\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := packResults(&b, []string{filepath.Dir(profile), filepath.Join(dir, "never written")}, 3); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(profile); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(archive, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, err := unpackResults(archive); code != 3 || err != nil {
		t.Errorf("unpack: code %d, %v; want 3", code, err)
	}
	if content, err := os.ReadFile(profile); string(content) != "mode: set\n" {
		t.Errorf("profile is %q, %v", content, err)
	}
	// A guest that dies leaves any part of it, or nothing.
	for _, n := range []int{0, 100, 600} {
		if err := os.WriteFile(archive, b.Bytes()[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if code, err := unpackResults(archive); err == nil {
			t.Errorf("unpack %d bytes: code %d, want an error", n, code)
		}
	}
}

func TestParse(t *testing.T) {
	var help bytes.Buffer
	opts, command, err := parse([]string{"-kernel", "/k", "-modules", "a,b", "x.test", "-test.v"}, &help)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x.test", "-test.v"}, command); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if opts.kernel != "/k" || len(opts.modules) != 2 {
		t.Errorf("options %+v", opts)
	}
	for _, args := range [][]string{{}, {"-kernel", "/k"}, {"x.test"}, {"-unknown"}} {
		if _, _, err := parse(args, &help); err == nil {
			t.Errorf("parse %q: nil, want an error", args)
		}
	}
}
