// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Where the guest finds things.
const (
	binaryPath  = "/test/bin"
	jobPath     = "/vmexec/job.json"
	modulesPath = "/vmexec/modules"
)

// bootAllowance is what a guest may take beyond its tests: to boot, and to end.
// It boots in about ten seconds where only TCG is to be had, several times that
// when the machine is busy.
const bootAllowance = 2 * time.Minute

// job is what the guest is to do; it travels as JSON.
type job struct {
	Binary  string   // on the host
	Args    []string // without the binary
	Dir     string   // working directory, the same on both sides
	Env     []string
	Outputs []string // files and directories to bring back, the same on both sides
	Modules []string // in load order
	As      string   // what to hide of the kernel: of a version,
	Without string   // or features
}

func newJob(command []string) (*job, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	j := &job{Binary: command[0], Args: command[1:], Dir: dir, Env: environment(os.Environ())}
	for _, arg := range j.Args {
		path, ok := outputOf(arg)
		if !ok {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		j.Outputs = append(j.Outputs, path)
	}
	return j, nil
}

// environment is what the guest inherits: the knobs of Go and of our own tests.
// The rest of the host's says nothing about the guest.
func environment(host []string) []string {
	env := []string{"PATH=/bin:/sbin", "HOME=/tmp", "TMPDIR=/tmp", "USER=root"}
	for _, v := range host {
		if strings.HasPrefix(v, "GO") || strings.HasPrefix(v, "DNSTEER_") {
			env = append(env, v)
		}
	}
	return env
}

// outputOf returns the path in an argument by which go test tells its binary to
// write a file, or a directory of them.
func outputOf(arg string) (string, bool) {
	name, path, ok := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	switch name {
	case "test.coverprofile", "test.gocoverdir", "test.cpuprofile", "test.memprofile",
		"test.blockprofile", "test.mutexprofile", "test.trace", "test.artifacts", "test.outputdir":
		return path, ok && path != ""
	}
	return "", false
}

// limit is how long the guest may live: chosen, or what go test allows the
// binary, which then says by itself which test hangs.
func (j *job) limit(chosen time.Duration) time.Duration {
	if chosen > 0 {
		return chosen
	}
	const goTestDefault = 10 * time.Minute
	for _, arg := range j.Args {
		value, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "test.timeout=")
		if d, err := time.ParseDuration(value); ok && err == nil && d > 0 {
			return d + bootAllowance
		}
	}
	return goTestDefault + bootAllowance
}

// writeInitramfs writes everything that the guest has.
func writeInitramfs(path string, j *job, k *kernel, modules []string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a := newArchive(f)
	// Without these the first process has no standard streams.
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	a.file("etc/passwd", modeFile, []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	a.file("etc/group", modeFile, []byte("root:x:0:\nnogroup:x:65534:\n"))
	a.file("etc/hosts", modeFile, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	loaded, missing, err := k.order(modules)
	if err != nil {
		return err
	}
	for _, m := range loaded {
		j.Modules = append(j.Modules, m.name)
		a.file(modulesPath+"/"+m.name+".ko", modeFile, m.content)
	}
	if len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "vmexec: the kernel has no module %s\n", strings.Join(missing, ", "))
	}
	if err := j.addTo(a); err != nil {
		return err
	}
	if err := a.close(); err != nil {
		return err
	}
	return f.Close()
}

// addTo adds the programs, the files of the package and the job itself.
func (j *job) addTo(a *archive) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for name, from := range map[string]string{"init": self, binaryPath: j.Binary} {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		a.file(name, modeExec, content)
	}
	a.dir(j.Dir)
	for _, path := range j.Outputs {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			a.dir(path)
		} else {
			a.dir(filepath.Dir(path))
		}
	}
	if err := addTestdata(a, filepath.Join(j.Dir, "testdata")); err != nil {
		return err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	a.file(jobPath, modeFile, text)
	return nil
}

// addTestdata adds the files of a directory, which need not exist.
func addTestdata(a *archive, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // most packages have none
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			a.dir(path)
			return nil
		}
		info, err := os.Stat(path) // a symbolic link arrives as what it leads to
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.file(path, modeFile|int(info.Mode().Perm()), content)
		return nil
	})
}
