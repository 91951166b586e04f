// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// withoutBTF is a Go module with a kernel in it, built with all that the tests use but
// without BTF. None of Debian's is. It is fixed, since what it is here for changes
// with how somebody builds it.
const withoutBTF = "github.com/gokrazy/kernel.amd64@v0.0.0-20260705070735-de680abf072b"

// WithoutBTF returns the directory of a kernel without BTF, from the cache of Go modules
// or by way of the go command.
func WithoutBTF(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", withoutBTF)
	cmd.Dir = os.TempDir()                     // no module: ours does not depend on it
	cmd.Env = append(os.Environ(), "GOFLAGS=") // -mod=vendor and the like are for ours
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if parsed := json.Unmarshal(out, &module); err == nil {
		err = parsed
	}
	if module.Error != "" {
		err = errors.New(module.Error)
	}
	if err != nil {
		return "", fmt.Errorf("get a kernel without BTF, the Go module %s: %w", withoutBTF, err)
	}
	return module.Dir, nil
}
