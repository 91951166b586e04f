// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/dnsteer/dnsteer/bpf"
)

// kernelLayout is readLayout, once for the process: the kernel stays the same, and its BTF
// is megabytes.
var kernelLayout = sync.OnceValues(readLayout)

// readLayout finds in the kernel's BTF where it keeps what the programs read
// outside the stable context. An error means that this kernel does not tell (no BTF,
// or a structure that we do not know, or lockdown): the programs then work without.
func readLayout() (bpf.SteerKernelLayout, error) {
	var l bpf.SteerKernelLayout
	// Lockdown (confidentiality) takes the helper away that reads at these offsets.
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnProbeReadKernel)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return l, fmt.Errorf("read kernel memory: %w", err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return l, fmt.Errorf("read kernel BTF: %w", err)
	}
	var addr, oif, common, saddr, flowOif uint32
	for _, want := range []struct {
		structure, member string
		offset            *uint32
	}{
		{"sock", "sk_socket", &l.SockSocket},
		{"socket", "file", &l.SocketFile},
		{"file", "f_cred", &l.FileCred},
		{"cred", "fsuid", &l.CredFsuid},
		{"cred", "fsgid", &l.CredFsgid},
		{"inet_sock", "uc_index", &l.InetUcIndex},
		{"inet_sock", "pinet6", &l.InetPinet6},
		{"ipv6_pinfo", "ucast_oif", &l.Pinet6UcastOif},
		{"ipv6_pinfo", "sticky_pktinfo", &l.Pinet6StickyOif},
		{"bpf_sock_addr_kern", "t_ctx", &l.CtxT_ctx},
		{"ipcm_cookie", "addr", &addr},
		{"ipcm_cookie", "oif", &oif},
		{"flowi6", "__fl_common", &common},
		{"flowi6", "saddr", &saddr},
		{"flowi_common", "flowic_oif", &flowOif},
	} {
		if *want.offset, err = memberOffset(kernel, want.structure, want.member); err != nil {
			return bpf.SteerKernelLayout{}, err
		}
	}
	l.Pinet6StickyOif += sizeOfIn6Addr // struct in6_pktinfo: address, then interface
	l.Msg4Oif = int32(oif) - int32(addr)
	l.Msg6Oif = int32(common+flowOif) - int32(saddr)
	l.Known = 1
	return l, nil
}

const sizeOfIn6Addr = 16

// memberOffset returns the offset in bytes, looking into anonymous members too.
func memberOffset(kernel *btf.Spec, structure, member string) (uint32, error) {
	var s *btf.Struct
	if err := kernel.TypeByName(structure, &s); err != nil {
		return 0, fmt.Errorf("find struct %s: %w", structure, err)
	}
	offset, ok := findMember(s.Members, member)
	if !ok {
		return 0, fmt.Errorf("find %s in struct %s: %w", member, structure, btf.ErrNotFound)
	}
	return offset, nil
}

func findMember(members []btf.Member, name string) (uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if offset, ok := findMember(inner, name); ok {
			return m.Offset.Bytes() + offset, true
		}
	}
	return 0, false
}
