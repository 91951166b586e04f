// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Build is one build of a kernel.
type Build struct {
	// Minor is the version without the patch: "6.1".
	Minor string
	// Release is what uname -r says: "6.1.0-56-cloud-amd64".
	Release string
	// Version is the package's, by which builds are compared.
	Version string

	packages []pkg // with the image, then with the modules if those are apart
	modules  bool
}

// HasModules tells whether the build comes with its modules. For some builds the
// archive keeps only the image.
func (b Build) HasModules() bool { return b.modules }

// String names the build without spaces or slashes.
func (b Build) String() string { return b.Release + "_" + strings.ReplaceAll(b.Version, ":", "%3a") }

// pkg is a package, served or in a file.
type pkg struct {
	name, version, file string
	size                int
}

// packageName matches the packages that kernels are in: before 6.19 image and modules
// are one, since then the image is in a package "binary", and "image" is empty.
// The builds for clouds are the smallest and have what virtual machines need.
var packageName = regexp.MustCompile(`^linux-(image|binary|modules)-(([0-9]+\.[0-9]+)[^_]*-cloud-amd64)$`)

// minimumSize is less than any kernel and more than any package that only depends
// on others.
const minimumSize = 5_000_000

// index lists the builds that the archive serves.
func (a *Archive) index(ctx context.Context) ([]Build, error) {
	names, err := a.apt(ctx, "apt-cache", "--names-only", "search", packageName.String()).Output()
	if err != nil {
		return nil, fmt.Errorf("search packages: %w", err)
	}
	args := []string{"show", "--no-all-versions"}
	for line := range strings.Lines(string(names)) {
		name, _, _ := strings.Cut(line, " ")
		args = append(args, name)
	}
	if len(args) == 2 {
		return nil, errors.New("search packages: the archive has no kernels")
	}
	text, err := a.apt(ctx, "apt-cache", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("read packages: %w", err)
	}
	return buildsOf(parsePackages(string(text))), nil
}

// parsePackages reads what apt-cache show prints: stanzas with an empty line between.
func parsePackages(text string) []pkg {
	var all []pkg
	for stanza := range strings.SplitSeq(text, "\n\n") {
		var p pkg
		for line := range strings.Lines(stanza) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "Package":
				p.name = value
			case "Version":
				p.version = value
			case "Size":
				p.size, _ = strconv.Atoi(value)
			}
		}
		if p.name != "" {
			all = append(all, p)
		}
	}
	return all
}

// localBuilds lists the builds in a directory of package files.
func localBuilds(dir string) ([]Build, error) {
	if dir == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("find kernel packages in %s: there are none", dir)
	}
	var all []pkg
	for _, file := range files {
		parts := strings.SplitN(strings.TrimSuffix(filepath.Base(file), ".deb"), "_", 3)
		if len(parts) < 2 {
			continue
		}
		all = append(all, pkg{name: parts[0], version: parts[1], file: file, size: minimumSize})
	}
	return buildsOf(all), nil
}

// buildsOf puts packages together that belong together.
func buildsOf(all []pkg) []Build {
	modules := make(map[string]pkg)
	for _, p := range all {
		if m := packageName.FindStringSubmatch(p.name); m != nil && m[1] == "modules" {
			modules[m[2]] = p
		}
	}
	var builds []Build
	for _, p := range all {
		m := packageName.FindStringSubmatch(p.name)
		if m == nil || m[1] == "modules" || p.size < minimumSize {
			continue
		}
		b := Build{Minor: m[3], Release: m[2], Version: p.version, packages: []pkg{p}, modules: m[1] == "image"}
		if apart, ok := modules[b.Release]; ok && m[1] == "binary" && apart.version == p.version {
			b.packages, b.modules = append(b.packages, apart), true
		}
		builds = append(builds, b)
	}
	return builds
}

func newestFirst(builds []Build) []Build {
	slices.SortStableFunc(builds, func(a, b Build) int { return compareVersions(b.Version, a.Version) })
	return builds
}
