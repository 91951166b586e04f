// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Image is what an archive holds beside files.
type Image struct {
	Name       string // with registry and tag: "example.org/dnsteer:dev"
	Arch       string // as Go calls it: "amd64"
	Entrypoint []string
	Env        []string          // "PATH=/bin"
	Labels     map[string]string // org.opencontainers.image.version and its like
}

// The forms of OCI's image-spec that are used here.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type config struct {
	platform
	Config struct {
		Entrypoint []string          `json:"Entrypoint,omitempty"`
		Env        []string          `json:"Env,omitempty"`
		Labels     map[string]string `json:"Labels,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"` // of an index
}

// Write writes the archive of an image of one layer to w.
func Write(w io.Writer, image Image, files []File) error {
	slash, colon := strings.IndexByte(image.Name, '/'), strings.LastIndexByte(image.Name, ':')
	if slash < 0 || colon < slash || colon == len(image.Name)-1 {
		return fmt.Errorf("write image %q: the name needs a registry and a tag, as in example.org/dnsteer:dev", image.Name)
	}
	content, err := layer(files)
	if err != nil {
		return err
	}
	a := archive{tar: tar.NewWriter(w)}
	a.add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))

	c := config{platform: platform{Architecture: image.Arch, OS: "linux"}}
	c.Config.Entrypoint, c.Config.Env, c.Config.Labels = image.Entrypoint, image.Env, image.Labels
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{digest(content)}
	configured := a.blob(typeConfig, a.json(c))
	layers := []descriptor{a.blob(typeLayer, a.gzip(content))}
	m := a.blob(typeManifest, a.json(manifest{SchemaVersion: 2, MediaType: typeManifest, Config: &configured, Layers: layers}))
	m.Platform = &c.platform
	m.Annotations = map[string]string{
		"io.containerd.image.name":          image.Name,
		"org.opencontainers.image.ref.name": image.Name[colon+1:],
	}
	a.add("index.json", a.json(manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{m}}))
	if a.err == nil {
		a.err = a.tar.Close()
	}
	if a.err != nil {
		return fmt.Errorf("write image %q: %w", image.Name, a.err)
	}
	return nil
}

// archive writes until something fails, and keeps the error.
type archive struct {
	tar *tar.Writer
	err error
}

func (a *archive) add(name string, content []byte) {
	if a.err != nil {
		return
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatUSTAR}
	if a.err = a.tar.WriteHeader(header); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	a.add("blobs/"+strings.Replace(d.Digest, ":", "/", 1), content)
	return d
}

func (a *archive) json(v any) []byte {
	text, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	return text
}

// gzip compresses without a name or a time in the header.
func (a *archive) gzip(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	a.err = errors.Join(a.err, err, w.Close())
	return out.Bytes()
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }
