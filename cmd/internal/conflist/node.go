// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Where runtimes look by default.
const (
	DefaultConfDir = "/etc/cni/net.d"
	DefaultBinDir  = "/opt/cni/bin"
)

// tries bounds the edits of a file that somebody else is writing.
const tries = 5

// Node says where a node's runtime looks for CNI, and what it is to find. Its methods
// are for one process at a time.
type Node struct {
	ConfDir string // of the runtime's configurations
	BinDir  string // of its plugins
	Plugin  string // the binary to install, from anywhere
	Entry   Entry
}

// Install makes it so that the runtime calls dnsteer-cni: the binary first, then the
// entry in the first configuration, by the order of names, as runtimes choose it. It
// returns the paths that it had to change; none if all was in place.
//
// Returns ErrNone, ErrInvalid, ErrVersion and ErrBusy; then the configuration is as it
// was, without an entry of ours in the case of ErrVersion, and Install is to be called
// again when it has changed.
func (n Node) Install() (changed []string, err error) {
	sweep(n.ConfDir, staleAge)
	sweep(n.BinDir, staleAge)
	path, copied, err := n.installBinary()
	if err != nil {
		return nil, err
	}
	if copied {
		changed = append(changed, path)
	}
	for range tries {
		path, err = n.installEntry()
		if !errors.Is(err, errChanged) {
			break
		}
	}
	if errors.Is(err, errChanged) {
		return changed, fmt.Errorf("edit CNI configuration in %s: %w", n.ConfDir, ErrBusy)
	}
	if path != "" {
		changed = append(changed, path)
	}
	return changed, err
}

// installEntry edits the first configuration, and returns its path if that was needed.
func (n Node) installEntry() (string, error) {
	names, err := n.names()
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("look into %s: %w", n.ConfDir, ErrNone)
	}
	f, err := readFile(filepath.Join(n.ConfDir, names[0]))
	if errors.Is(err, os.ErrNotExist) {
		return "", errChanged
	}
	if err != nil {
		return "", err
	}
	if filepath.Ext(f.path) != listExt {
		return n.installConf(f)
	}
	text, err := insert(f.text, n.Entry)
	if err != nil {
		err = fmt.Errorf("read %s: %w", f.path, err)
	}
	if errors.Is(err, ErrVersion) {
		return takeBack(f, err)
	}
	if err != nil {
		return "", err
	}
	if string(text) == string(f.text) {
		return "", nil
	}
	return f.path, f.replace(text)
}

// takeBack takes our entry out of a list whose version has become one with which no pod
// would start, and says why.
func takeBack(f *file, why error) (string, error) {
	did, err := removeEntry(f.path)
	if errors.Is(err, errChanged) {
		return "", err
	}
	if did {
		return f.path, errors.Join(why, err)
	}
	return "", errors.Join(why, err)
}

// names are the configurations, as runtimes read them: those with one of three
// extensions, in the order of bytes.
func (n Node) names() ([]string, error) {
	entries, err := os.ReadDir(n.ConfDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for CNI configurations: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{listExt, ".conf", ".json"}, filepath.Ext(e.Name())) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Uninstall takes our entry out of every configuration, and puts back what was set
// aside. The binary stays, see RemoveBinary. It goes on after an error.
func (n Node) Uninstall() (changed []string, err error) {
	restored, restoreErr := n.restoreConfs()
	changed = append(changed, restored...)
	names, err := n.names()
	errs := []error{restoreErr, err}
	for _, name := range names {
		if filepath.Ext(name) != listExt {
			continue
		}
		path := filepath.Join(n.ConfDir, name)
		did := false
		for range tries {
			if did, err = removeEntry(path); !errors.Is(err, errChanged) {
				break
			}
		}
		if errors.Is(err, errChanged) {
			err = fmt.Errorf("edit %s: %w", path, ErrBusy)
		}
		if did && err == nil {
			changed = append(changed, path)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// removeEntry edits one list. What is no list, or half of one, has no entry of ours
// that a runtime would see.
func removeEntry(path string) (bool, error) {
	f, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	text, err := remove(f.text)
	if err != nil || string(text) == string(f.text) {
		return false, nil //nolint:nilerr // see above
	}
	return true, f.replace(text)
}
