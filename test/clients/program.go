// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// programs are the smallest programs that ask with one resolver each. All take a
// kind and a name, and print lines "address A", "text N" and "not found".
//
//go:embed testdata
var programs embed.FS

// program writes one of the sources to a file and returns its path.
func program(tb testing.TB, name string) string {
	tb.Helper()
	text, err := programs.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatalf("read program: %v", err)
	}
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		tb.Fatalf("write program: %v", err)
	}
	return path
}

// compile builds a source with a compiler and returns the binary.
func compile(tb testing.TB, compiler, debianPackage, source string, libs ...string) string {
	tb.Helper()
	path := program(tb, source)
	binary := path + ".bin"
	args := append([]string{"-O1", "-Wall", "-Werror", "-o", binary, path}, libs...)
	out, err := exec.CommandContext(tb.Context(), find(tb, compiler, debianPackage), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("compile %s: %v: apt-get install %s\n%s", source, err, debianPackage, out)
	}
	return binary
}

// find prefers the distribution's own program to whatever comes first in PATH,
// a version manager for instance.
func find(tb testing.TB, name, debianPackage string) string {
	tb.Helper()
	if path, err := exec.LookPath("/usr/bin/" + name); err == nil {
		return path
	}
	return testenv.Binary(tb, name, debianPackage)
}
