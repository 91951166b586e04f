// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOpenKernelAndOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openKernel(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a directory without image: %v, want fs.ErrNotExist", err)
	}
	const release = "usr/lib/modules/6.1.0-cloud-amd64/"
	write("boot/vmlinuz-6.1.0-cloud-amd64", nil)
	write(release+"modules.builtin", []byte("kernel/drivers/char/tpm/tpm-crb.ko\nkernel/net/ipv6/ipv6.ko\n"))
	write(release+"kernel/a.ko", moduleFile("license=GPL", "depends=b-two,ipv6"))
	write(release+"kernel/b-two.ko", moduleFile("depends=c", "name=b_two"))
	write(release+"kernel/c.ko", moduleFile("depends="))
	write(release+"kernel/broken.ko", []byte("no ELF"))
	k, err := openKernel(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name          string
		ask           []string
		want, missing []string
	}{
		{"dependencies first", []string{"a"}, []string{"c", "b_two", "a"}, nil},
		{"each once", []string{"c", "a", "b-two"}, []string{"c", "b_two", "a"}, nil},
		{"built in", []string{"ipv6", "tpm_crb"}, nil, nil},
		{"missing", []string{"veth", "c"}, []string{"c"}, []string{"veth"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			modules, missing, err := k.order(tc.ask)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, m := range modules {
				names = append(names, m.name)
			}
			if diff := cmp.Diff(tc.want, names); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.missing, missing); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
	if _, _, err := k.order([]string{"broken"}); err == nil {
		t.Error("order of a module that is none: nil, want an error")
	}
}

// moduleFile is the smallest object file with module information.
func moduleFile(info ...string) []byte {
	var modinfo bytes.Buffer
	for _, entry := range info {
		modinfo.WriteString(entry + "\x00")
	}
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headerSize, sectionSize = 64, 64
	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: uint64(headerSize + modinfo.Len() + len(names)), Ehsize: headerSize,
		Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headerSize, Size: uint64(modinfo.Len())},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(headerSize + modinfo.Len()), Size: uint64(len(names))},
	}
	var b bytes.Buffer
	for _, part := range []any{header, modinfo.Bytes(), names, sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}
