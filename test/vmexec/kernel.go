// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernel is an unpacked kernel package.
type kernel struct {
	image   string
	modules map[string]string // name, with underscores, to file
	builtin map[string]bool
}

// module is one to be loaded: its name and its content, not compressed.
type module struct {
	name    string
	content []byte
}

// openKernel finds the image and the modules in the directory of an unpacked
// package, be they below /lib or /usr/lib. A kernel may have no modules at all.
func openKernel(dir string) (*kernel, error) {
	k := &kernel{modules: make(map[string]string), builtin: make(map[string]bool)}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := entry.Name()
		stem, suffix, _ := strings.Cut(name, ".")
		switch {
		case strings.HasPrefix(name, "vmlinuz"):
			k.image = path
		case suffix == "ko" || strings.HasPrefix(suffix, "ko."):
			k.modules[moduleName(stem)] = path
		case name == "modules.builtin":
			return k.readBuiltin(path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	if k.image == "" {
		return nil, fmt.Errorf("find vmlinuz below %s: %w", dir, fs.ErrNotExist)
	}
	return k, nil
}

func (k *kernel) readBuiltin(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		k.builtin[moduleName(strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	return nil
}

// order returns the modules with all that they depend on, in the order in which
// they are to be loaded, and the names of those that the kernel does not have.
func (k *kernel) order(names []string) (modules []module, missing []string, err error) {
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] || k.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := k.modules[name]
		if !ok {
			missing = append(missing, name)
			return nil
		}
		content, depends, err := readModule(path)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, d := range depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		modules = append(modules, module{name, content})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, nil, err
		}
	}
	return modules, missing, nil
}

// moduleName is the name by which the kernel knows a module: file names and
// dependency lists may have hyphens.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readModule returns a module without its compression, which the oldest kernels
// cannot undo, and what it depends on.
func readModule(path string) (content []byte, depends []string, err error) {
	decompress := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}[filepath.Ext(path)]
	if decompress == "" {
		content, err = os.ReadFile(path)
	} else {
		content, err = exec.Command(decompress, "-dc", path).Output()
	}
	if err != nil {
		return nil, nil, err
	}
	object, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, nil, err
	}
	section := object.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("no .modinfo in it")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok {
			depends = strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
		}
	}
	return content, depends, nil
}
