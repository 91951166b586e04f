// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/test/matrix/kernel"
)

// muslCache is that of the kernel matrix, whose lists of packages serve here too.
const muslCache = "../../.cache/matrix"

// musl runs a program with the newest C library that Debian has: with 1.2.4 musl came to
// ask by TCP where an answer is cut, and Debian 12 has 1.2.3. The library is its own
// loader, so that nothing is installed.
func musl(tb testing.TB) []string {
	tb.Helper()
	archive, err := kernel.Open(tb.Context(), muslCache, "")
	if err != nil {
		tb.Fatalf("get a newer musl: %v", err)
	}
	dir, err := archive.Package(tb.Context(), "musl")
	if err != nil {
		tb.Fatalf("get a newer musl: %v", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "usr/lib/*musl*/libc.so"))
	if err != nil || len(found) != 1 {
		tb.Fatalf("find musl in %s: %v, %v", dir, found, err)
	}
	library, err := filepath.Abs(found[0])
	if err != nil {
		tb.Fatal(err)
	}
	return []string{library, compile(tb, "musl-gcc", "musl-tools", "libc.c")}
}

func newMusl(tb testing.TB) asker {
	tb.Helper()
	return one(musl(tb)...)
}
