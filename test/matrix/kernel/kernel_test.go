// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompareVersions(t *testing.T) {
	// Each is older than the next.
	ordered := []string{
		"5.10", "5.10.223-1", "5.10.262-1", "6.1", "6.1.180-1~deb11u1", "6.1.180-1",
		"6.12.9-1", "6.12.90-1", "6.12.90-1a", "6.12.90-1+b1", "7.3~rc7-1~exp1", "7.3", "7.3.4-1~bpo13+1", "7.10",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			if i != j {
				want = 1 - 2*min(1, max(0, j-i))
			}
			if got := compareVersions(a, b); got != want {
				t.Errorf("compare %s with %s: %d, want %d", a, b, got, want)
			}
		}
	}
	if got := compareVersions("6.01", "6.1"); got != 0 {
		t.Errorf("leading zeros count: %d", got)
	}
}

// served is what apt-cache shows of some of the cases that there are.
const served = `Package: linux-image-5.10.0-45-cloud-amd64
Version: 5.10.250-1
Size: 21000000

Package: linux-image-5.10.0-46-cloud-amd64
Version: 5.10.262-1
Size: 21521796
Description: one package with image and modules
 Size: not a field

Package: linux-image-6.12-cloud-amd64
Version: 6.12.117-1
Size: 1512

Package: linux-binary-6.19.14+deb13-cloud-amd64
Version: 6.19.14-1~bpo13+1
Size: 13000000

Package: linux-image-6.19.14+deb13-cloud-amd64
Version: 6.19.14-1~bpo13+1
Size: 1928

Package: linux-binary-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1~bpo13+1
Size: 13000000

Package: linux-modules-7.2.12+deb13-cloud-amd64
Version: 7.2.12-1~bpo13+1
Size: 23000000

Package: linux-binary-7.2.13+deb14-cloud-amd64
Version: 7.2.13-1
Size: 13000000

Package: linux-image-6.1.0-56-rt-amd64
Version: 6.1.192-2
Size: 30000000
`

func TestBuilds(t *testing.T) {
	a := &Archive{builds: newestFirst(buildsOf(parsePackages(served)))}
	if diff := cmp.Diff([]string{"5.10", "6.19", "7.2"}, a.Minors()); diff != "" {
		t.Errorf("minors (-want +got):\n%s", diff)
	}
	for _, tc := range []struct {
		minor, build string
		modules      bool
	}{
		{"5.10", "5.10.0-46-cloud-amd64_5.10.262-1", true},
		{"6.19", "6.19.14+deb13-cloud-amd64_6.19.14-1~bpo13+1", false},
		{"7.2", "7.2.12+deb13-cloud-amd64_7.2.12-1~bpo13+1", true}, // 7.2.13 has no modules
	} {
		b, err := a.Newest(tc.minor)
		if err != nil || b.String() != tc.build || b.HasModules() != tc.modules {
			t.Errorf("newest %s: %s, modules %t, %v; want %s, modules %t", tc.minor, b, b.HasModules(), err, tc.build, tc.modules)
		}
	}
	for _, minor := range []string{"6.12", "6.1", "5.1", ""} {
		if b, err := a.Newest(minor); !errors.Is(err, ErrNotServed) {
			t.Errorf("newest %q: %s, %v; want ErrNotServed", minor, b, err)
		}
	}
}

func TestLocalBuilds(t *testing.T) {
	if builds, err := localBuilds(""); builds != nil || err != nil {
		t.Errorf("no directory: %v, %v", builds, err)
	}
	dir := t.TempDir()
	if _, err := localBuilds(dir); err == nil {
		t.Error("a directory without packages: nil, want an error")
	}
	file := filepath.Join(dir, "linux-image-5.10.0-32-cloud-amd64_5.10.223-1_amd64.deb")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	builds, err := localBuilds(dir)
	if err != nil || len(builds) != 1 || builds[0].Minor != "5.10" || builds[0].packages[0].file != file {
		t.Errorf("builds %+v, %v", builds, err)
	}
}

func TestSources(t *testing.T) {
	got := sourcesAt([]string{
		"http://mirror.example.org/debian/", "http://mirror.example.org/debian/", "http://mirror.example.org/other",
		"http://security.example.org/debian-security/",
	})
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if want := len(suites) + len(securitySuites); len(lines) != want {
		t.Errorf("%d sources, want %d:\n%s", len(lines), want, got)
	}
	for _, want := range []string{
		"deb [signed-by=" + keyring + "] http://mirror.example.org/debian/ sid main",
		"deb [signed-by=" + keyring + "] http://security.example.org/debian-security/ bookworm-security main",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if got := sourcesAt([]string{"http://mirror.example.org/ubuntu"}); got != "" {
		t.Errorf("no mirror of Debian gives %q", got)
	}
}
