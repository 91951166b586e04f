// SPDX-License-Identifier: Apache-2.0

// Command image writes dnsteer's container image from the three binaries: an OCI
// archive, made from nothing, the same bytes for the same binaries.
//
//	make image
//	ctr -n k8s.io images import bin/dnsteer-image.tar
package main

import (
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dnsteer/dnsteer/deploy/oci"
)

// binaries are what the image holds, in its root.
var binaries = []string{"dnsteer", "dnsteer-agent", "dnsteer-cni"}

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.SetOutput(stderr)
	out := fs.String("o", "bin/dnsteer-image.tar", "archive to write")
	name := fs.String("name", "ghcr.io/dnsteer/dnsteer:latest", "name of the image, with registry and tag")
	from := fs.String("from", "bin", "`directory` of the binaries")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	image := oci.Image{Name: *name, Entrypoint: []string{"/dnsteer-agent"}, Env: []string{"PATH=/"}}
	var files []oci.File
	for _, binary := range binaries {
		path := filepath.Join(*from, binary)
		arch, err := staticArch(path)
		if err != nil {
			return err
		}
		image.Arch = arch
		files = append(files, oci.File{Path: "/" + binary, Source: path, Mode: 0o755})
	}
	// Written aside: who loads it meanwhile gets the old image or the new one.
	aside := filepath.Join(filepath.Dir(*out), fmt.Sprintf(".%s-%d", filepath.Base(*out), os.Getpid()))
	part, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer os.Remove(aside)
	err = oci.Write(part, image, files)
	if closed := part.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(aside, *out)
}

// staticArch tells for which architecture a binary was built. One that needs a C
// library is an error: the image has none.
func staticArch(path string) (string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w: run make build", path, err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["CGO_ENABLED"] != "0" {
		return "", fmt.Errorf("read %s: it may need a C library, which the image does not have: run make build", path)
	}
	return settings["GOARCH"], nil
}
