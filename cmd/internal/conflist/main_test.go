// SPDX-License-Identifier: Apache-2.0

package conflist

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// newNode makes a node with these configurations and a binary to install.
func newNode(tb testing.TB, files map[string]string) Node {
	tb.Helper()
	dir := tb.TempDir()
	n := Node{ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), Plugin: filepath.Join(dir, "plugin")}
	write(tb, n.Plugin, "binary")
	if err := os.Mkdir(n.ConfDir, 0o755); err != nil {
		tb.Fatal(err)
	}
	for name, text := range files {
		write(tb, filepath.Join(n.ConfDir, name), text)
	}
	return n
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// files is all that is in the directory of configurations, hidden files too.
func files(tb testing.TB, n Node) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(n.ConfDir)
	if err != nil {
		tb.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		all[e.Name()] = read(tb, filepath.Join(n.ConfDir, e.Name()))
	}
	return all
}

// install installs, and fails the test if it cannot.
func install(tb testing.TB, n Node) []string {
	tb.Helper()
	changed, err := n.Install()
	if err != nil {
		tb.Fatalf("install: %v", err)
	}
	return changed
}

const (
	bare    = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`
	entry   = `{"type":"dnsteer-cni","capabilities":{"dns":true,"io.kubernetes.cri.pod-annotations":true}}`
	chained = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"},` + entry + `]}`
	conf    = `{"cniVersion":"1.0.0","name":"pods","type":"bridge"}`
)
