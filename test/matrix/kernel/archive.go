// SPDX-License-Identifier: Apache-2.0

// Package kernel gets kernels to test on: Debian's packages, newest build of each
// minor version, unpacked into a cache and never installed. It asks the mirror
// that the machine's own apt uses, for more releases of Debian than the machine
// is, through an apt configuration with state, lists and sources of its own; the
// machine's stay as they are.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// indexAge is how old the list of packages may be. Builds appear weekly.
const indexAge = 24 * time.Hour

// Errors that callers may test for.
var (
	// ErrNoArchive means that there is no apt, or no Debian mirror in its sources.
	ErrNoArchive = errors.New("no archive of Debian packages")
	// ErrNotServed means that the archive has no kernel of that minor version.
	ErrNotServed = errors.New("kernel is not served any more")
)

// Archive is where kernels come from.
type Archive struct {
	dir     string // the cache
	config  string // of our own apt
	debs    string // directory of packages for what the archive does not serve; may be empty
	builds  []Build
	warning error
}

// Open reads what the archive serves now, or did a day ago. The directory cache is
// made if needed; debs names a directory with packages that the archive has dropped,
// or is empty. If the mirror cannot be reached but could before, the old list serves
// and Warning tells.
//
// Returns ErrNoArchive if nothing is to be had at all.
func Open(ctx context.Context, cache, debs string) (*Archive, error) {
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	a := &Archive{dir: cache, config: filepath.Join(cache, "apt", "apt.conf"), debs: debs}
	local, err := localBuilds(debs)
	if err != nil {
		return nil, err
	}
	if err := a.refresh(ctx); err != nil {
		a.warning = err
	}
	served, err := a.index(ctx)
	if err != nil {
		a.warning = errors.Join(a.warning, err)
	}
	if len(served) == 0 && len(local) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrNoArchive, a.warning)
	}
	a.builds = newestFirst(append(served, local...))
	return a, nil
}

// Warning is why the list of packages may be incomplete or old, or nil.
func (a *Archive) Warning() error { return a.warning }

// Minors returns the minor versions to be had, oldest first.
func (a *Archive) Minors() []string {
	var minors []string
	for _, b := range slices.Backward(a.builds) {
		if !slices.Contains(minors, b.Minor) {
			minors = append(minors, b.Minor)
		}
	}
	return minors
}

// Newest returns the newest build of a minor version. One with modules is newer than
// any without.
//
// Returns ErrNotServed if there is none.
func (a *Archive) Newest(minor string) (Build, error) {
	for _, modules := range []bool{true, false} {
		for _, b := range a.builds {
			if b.Minor == minor && b.HasModules() == modules {
				return b, nil
			}
		}
	}
	return Build{}, fmt.Errorf("find Linux %s: %w", minor, ErrNotServed)
}

// Unpack returns the directory with the build's image and modules, from the cache
// or from the archive.
func (a *Archive) Unpack(ctx context.Context, b Build) (string, error) {
	return a.unpack(ctx, filepath.Join(a.dir, "kernels", b.String()), b.packages...)
}

// Package returns the directory with the newest version of any other package, from the
// cache or from the archive: for what the machine's own release has too old.
func (a *Archive) Package(ctx context.Context, name string) (string, error) {
	return a.unpack(ctx, filepath.Join(a.dir, "packages", name), pkg{name: name})
}

// unpack makes a directory of packages, unless it is there.
func (a *Archive) unpack(ctx context.Context, dir string, packages ...pkg) (string, error) {
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	aside, err := aside(filepath.Dir(dir))
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(aside)
	for _, p := range packages {
		if err := a.unpackPackage(ctx, p, aside); err != nil {
			return "", fmt.Errorf("unpack %s: %w", p.name, err)
		}
	}
	// Whoever sees the directory sees all of it.
	if err := os.Rename(aside, dir); err != nil {
		return "", err
	}
	return dir, nil
}

func aside(parent string) (string, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(parent, "unpacking-")
}

// unpackPackage downloads to a directory of its own, because apt-get chooses the
// name of the file.
func (a *Archive) unpackPackage(ctx context.Context, p pkg, into string) error {
	deb := p.file
	if deb == "" {
		download, err := os.MkdirTemp(a.dir, "download-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(download)
		which := p.name // the newest
		if p.version != "" {
			which += "=" + p.version
		}
		cmd := a.apt(ctx, "apt-get", "download", "-q", which)
		cmd.Dir = download
		if err := runQuietly(cmd); err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(download, "*.deb"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("find what apt-get downloaded: %w", errors.Join(err, fs.ErrNotExist))
		}
		deb = found[0]
	}
	return runQuietly(exec.CommandContext(ctx, "dpkg", "-x", deb, into))
}

// runQuietly runs a command whose output matters only if it fails.
func runQuietly(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(out)))
	}
	return nil
}
