// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// keyring has the keys of all releases of Debian; its package is part of every
// Debian system.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// suites are the releases of Debian that have kernels we want, and what they were
// released with: bullseye 5.10, bookworm 6.1, trixie 6.12; backports have those
// between, sid and experimental the newest. One that the mirror no longer has is
// no reason to stop.
var suites = []string{"bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid", "experimental"}

// securitySuites are on the mirror for security updates.
var securitySuites = []string{"bullseye-security", "bookworm-security", "trixie-security"}

// apt is a command of apt under our own configuration.
func (a *Archive) apt(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	return cmd
}

// refresh downloads the list of packages unless it is young.
func (a *Archive) refresh(ctx context.Context) error {
	stamp := filepath.Join(a.dir, "apt", "updated")
	if info, err := os.Stat(stamp); err == nil && time.Since(info.ModTime()) < indexAge {
		return nil
	}
	if err := a.configure(ctx); err != nil {
		return err
	}
	// Also when a suite is gone, in which case it has updated the others.
	updated := runQuietly(a.apt(ctx, "apt-get", "update", "-q"))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(updated, os.WriteFile(stamp, nil, 0o644))
}

// configure writes our configuration: the machine's own for how to reach a mirror
// (proxies, checks of dates), ours for everything else. The machine's parts are not
// read, because they may have hooks that clean the machine's caches.
func (a *Archive) configure(ctx context.Context) error {
	dir := filepath.Join(a.dir, "apt")
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "sources"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	machine, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return fmt.Errorf("read apt's configuration: %w", err)
	}
	var config strings.Builder
	for line := range strings.Lines(string(machine)) {
		if strings.HasPrefix(line, "Acquire::") {
			config.WriteString(line)
		}
	}
	fmt.Fprintf(&config, `
Dir::State %[1]q;
Dir::State::status "/dev/null";
Dir::Cache %[2]q;
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts %[3]q;
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "";
`, filepath.Join(dir, "state"), filepath.Join(dir, "cache"), filepath.Join(dir, "sources"))
	// Before anything can fail: without this file, apt would take the machine's own.
	if err := os.WriteFile(a.config, []byte(config.String()), 0o644); err != nil {
		return err
	}
	sources, err := machineSources(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sources", "kernels.list"), []byte(sources), 0o644)
}

// machineSources returns sources for our suites at the mirrors that the machine
// uses, which apt itself tells, in whichever format they are written.
func machineSources(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("read apt's sources: %w", err)
	}
	sources := sourcesAt(strings.Fields(string(out)))
	if sources == "" {
		return "", errors.New("find a mirror of Debian in the machine's apt sources: there is none")
	}
	return sources, nil
}

// sourcesAt recognises the mirrors by the last element of their path.
func sourcesAt(mirrors []string) string {
	var b strings.Builder
	seen := make(map[string]bool)
	for _, mirror := range mirrors {
		kind := path.Base(mirror)
		if seen[kind] {
			continue
		}
		seen[kind] = true
		for _, suite := range map[string][]string{"debian": suites, "debian-security": securitySuites}[kind] {
			fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", keyring, mirror, suite)
		}
	}
	return b.String()
}
