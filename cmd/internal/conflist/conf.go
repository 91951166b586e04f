// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	// listExt is the extension of lists. "10-net.conf" becomes "10-net.conf.conflist":
	// in the same place of the order, and the name of nobody else's file.
	listExt = ".conflist"
	// savedExt is that of a single plugin's configuration while our list stands for it.
	savedExt = ".dnsteer-saved"
)

// installConf makes a list of a single plugin's configuration. Up to the rename the
// runtime sees the one, from then on the other; a crash before it changes nothing.
func (n Node) installConf(f *file) (string, error) {
	text, err := convert(f.text, n.Entry)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.path, err)
	}
	path := f.path + listExt
	if old, err := readFile(path); err == nil && !bytes.Contains(old.text, []byte(PluginName)) {
		return "", fmt.Errorf("make a list of %s: %s exists and is not ours", f.path, path)
	}
	aside, err := writeAside(path, text, f.info)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(aside, path); err != nil {
		_ = os.Remove(aside)
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	if !f.is(f.path) {
		return "", errChanged // it is still the first, and the next try takes it as it is
	}
	if err := os.Rename(f.path, f.path+savedExt); err != nil {
		return "", fmt.Errorf("set %s aside: %w", f.path, err)
	}
	return path, syncDir(n.ConfDir)
}

// restoreConfs puts back what installConf has set aside.
func (n Node) restoreConfs() ([]string, error) {
	saved, err := filepath.Glob(filepath.Join(globEscape(n.ConfDir), "*"+savedExt))
	if err != nil {
		return nil, fmt.Errorf("look for what was set aside: %w", err)
	}
	var changed []string
	var errs []error
	for _, path := range saved {
		conf := strings.TrimSuffix(path, savedExt)
		did, err := n.restoreConf(path, conf)
		if did {
			changed = append(changed, conf)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// restoreConf puts one back, unless somebody has brought another, or has built on our
// list since: then that stays, without our entry.
func (n Node) restoreConf(saved, conf string) (bool, error) {
	s, err := readFile(saved)
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(conf)
	isBack := err == nil
	list, err := readFile(conf + listExt)
	built := err == nil && !isConversion(list.text, s.text)
	if built {
		return false, os.Remove(saved) // the entry goes with those of other lists
	}
	if isBack {
		err = os.Remove(saved)
	} else {
		err = os.Rename(saved, conf)
	}
	if err != nil {
		return false, fmt.Errorf("restore %s: %w", conf, err)
	}
	if list != nil {
		if err := os.Remove(list.path); err != nil {
			return false, fmt.Errorf("restore %s: %w", conf, err)
		}
	}
	return !isBack, syncDir(n.ConfDir)
}

// isConversion tells whether a list is what convert makes of a configuration, whatever
// our entry says.
func isConversion(list, conf []byte) bool {
	made, err := convert(conf, Entry{})
	if err != nil {
		return false
	}
	bare, err := remove(made)
	if err != nil {
		return false
	}
	got, err := remove(list)
	return err == nil && bytes.Equal(got, bare)
}

// globEscape makes a pattern that matches this path alone.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
