// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// installBinary copies the plugin to where the runtime looks, in one step, unless it is
// there. A runtime that executes the old one is not disturbed.
func (n Node) installBinary() (path string, copied bool, err error) {
	path = filepath.Join(n.BinDir, PluginName)
	want, err := os.ReadFile(n.Plugin)
	if err != nil {
		return path, false, fmt.Errorf("install plugin: %w", err)
	}
	like, err := os.Stat(n.Plugin)
	if err != nil {
		return path, false, fmt.Errorf("install plugin: %w", err)
	}
	if isInstalled(path, want, like) {
		return path, false, nil
	}
	if err := os.MkdirAll(n.BinDir, 0o755); err != nil {
		return path, false, fmt.Errorf("install plugin: %w", err)
	}
	aside := asideOf(path)
	defer os.Remove(aside) // gone, if all went well
	if err := writeBinary(aside, want, like); err != nil {
		return path, false, fmt.Errorf("install plugin: %w", err)
	}
	if err := os.Rename(aside, path); err != nil {
		return path, false, fmt.Errorf("install plugin: %w", err)
	}
	return path, true, syncDir(n.BinDir)
}

func isInstalled(path string, want []byte, like os.FileInfo) bool {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() || st.Mode().Perm() != 0o755 || st.Size() != int64(len(want)) {
		return false
	}
	uid, gid := owner(like)
	if hasUID, hasGID := owner(st); hasUID != uid || hasGID != gid {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, want)
}

func writeBinary(path string, content []byte, like os.FileInfo) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o700)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	// The runtime executes it as root: it is to be the owner's of what we bring, root's,
	// whoever we are.
	uid, gid := owner(like)
	return errors.Join(err, f.Chown(uid, gid), f.Chmod(0o755), f.Sync(), f.Close())
}

// RemoveBinary removes the plugin, after Uninstall. Not while pods run that CRI-O has
// added with our entry: it deletes them by the configuration that was then, and could
// not without the binary.
func (n Node) RemoveBinary() error {
	if err := os.Remove(filepath.Join(n.BinDir, PluginName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove plugin: %w", err)
	}
	return nil
}
