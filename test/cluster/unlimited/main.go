// SPDX-License-Identifier: Apache-2.0

// Command unlimited is runc for a node whose cgroup v2 has no controllers, since the
// machine has bound them to v1: it drops the limits of a container, which runc would
// fail to set, and becomes the runc that the environment names.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// runcEnv is the path of the real one.
const runcEnv = "DNSTEER_TEST_RUNC"

func main() {
	args := os.Args
	if i := slices.Index(args, "--bundle"); i > 0 && i+1 < len(args) && slices.Contains(args, "create") {
		if err := dropLimits(filepath.Join(args[i+1], "config.json")); err != nil {
			fmt.Fprintf(os.Stderr, "drop limits: %v\n", err)
			os.Exit(1)
		}
	}
	err := unix.Exec(os.Getenv(runcEnv), args, os.Environ())
	fmt.Fprintf(os.Stderr, "run %s: %v\n", os.Getenv(runcEnv), err)
	os.Exit(1)
}

// dropLimits keeps of a container's resources its devices, which need no controller.
func dropLimits(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	linux, _ := spec["linux"].(map[string]any)
	if resources, ok := linux["resources"].(map[string]any); ok {
		linux["resources"] = map[string]any{"devices": resources["devices"]}
	}
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}
