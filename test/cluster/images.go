// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dnsteer/dnsteer/deploy/oci"
	"github.com/dnsteer/dnsteer/test/kube"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	pauseImage = "example.org/pause:1"
	dnsImage   = "example.org/coredns:1"
	// ClientImage has /usr/bin/getent (glibc), /bin/lookup-musl, /bin/busybox, whose
	// nslookup asks by itself, and /bin/pod, the program of test/cluster/pod.
	ClientImage = "example.org/client:1"
)

// writeImage writes an image's archive into dir and returns its path.
func writeImage(tb testing.TB, dir, name string, entrypoint []string, files ...oci.File) string {
	tb.Helper()
	out, err := os.CreateTemp(dir, "*.tar")
	if err != nil {
		tb.Fatalf("write image: %v", err)
	}
	defer out.Close()
	image := oci.Image{Name: name, Arch: runtime.GOARCH, Entrypoint: entrypoint, Env: []string{"PATH=/bin:/usr/bin"}}
	if err := oci.Write(out, image, files); err != nil {
		tb.Fatal(err)
	}
	return out.Name()
}

// images are the archives of what every node has.
var images Shared[[]string]

func makeImages(tb testing.TB, dir string) []string {
	tb.Helper()
	pod := build(tb, "pod")
	clients := []oci.File{
		{Path: "/bin/pod", Source: pod},
		{Path: "/bin/busybox", Source: testenv.Binary(tb, "busybox", "busybox")},
		{Path: "/bin/sh", Link: "busybox"},
		{Path: "/bin/nslookup", Link: "busybox"},
		{Path: "/bin/cat", Link: "busybox"},
		{Path: "/bin/lookup-musl", Source: lookupMusl(tb)},
	}
	clients = append(clients, withLibraries(tb, "/usr/bin/getent", clients[1].Source)...)
	return []string{
		writeImage(tb, dir, pauseImage, []string{"/pod", "pause"}, oci.File{Path: "/pod", Source: pod}),
		writeImage(tb, dir, dnsImage, []string{"/coredns"}, oci.File{Path: "/coredns", Source: kube.Binary(tb, "coredns")}),
		writeImage(tb, dir, ClientImage, []string{"/bin/pod", "pause"}, clients...),
	}
}

// build builds one of the programs below this package, static.
func build(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-o", path, "github.com/dnsteer/dnsteer/test/cluster/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// lookupMusl builds a getaddrinfo(3) of musl, static.
func lookupMusl(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	source, binary := filepath.Join(dir, "lookup.c"), filepath.Join(dir, "lookup")
	if err := os.WriteFile(source, []byte(lookupSource), 0o644); err != nil {
		tb.Fatalf("write source: %v", err)
	}
	cmd := exec.CommandContext(tb.Context(), testenv.Binary(tb, "musl-gcc", "musl-tools"), "-static", "-O1", "-Wall", "-Werror", "-o", binary, source)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("compile for musl: %v\n%s", err, out)
	}
	return binary
}

// withLibraries is programs and the shared libraries that they name, as ldd finds
// them.
func withLibraries(tb testing.TB, programs ...string) []oci.File {
	tb.Helper()
	seen := map[string]bool{}
	var files []oci.File
	add := func(path string) {
		if path != "" && !seen[path] {
			seen[path] = true
			files = append(files, oci.File{Path: path, Source: path})
		}
	}
	for _, program := range programs {
		if filepath.Dir(program) != "/bin" {
			add(program)
		}
		out, err := exec.Command("ldd", program).CombinedOutput()
		if bytes.Contains(out, []byte("not a dynamic executable")) {
			continue
		}
		if err != nil {
			tb.Fatalf("find libraries of %s: %v\n%s", program, err, out)
		}
		for line := range strings.Lines(string(out)) {
			// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)" or "/lib64/ld-linux-x86-64.so.2 (0x...)"
			for _, field := range strings.Fields(line) {
				if filepath.IsAbs(field) {
					add(field)
				}
			}
		}
	}
	return files
}

// lookupSource prints the addresses of a name, or "not found".
const lookupSource = `#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_DGRAM }, *all, *a;
	char text[64];
	int err = argc == 2 ? getaddrinfo(argv[1], NULL, &hints, &all) : EAI_NONAME;

	if (err) {
		printf("not found: %s\n", gai_strerror(err));
		return 1;
	}
	for (a = all; a; a = a->ai_next) {
		getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST);
		puts(text);
	}
	freeaddrinfo(all);
	return 0;
}
`
