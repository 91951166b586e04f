// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the datapath's programs: the C source, the objects that clang
// makes of it, and the Go declarations that bpf2go makes of those. Only package
// loader imports it. README.md tells what the programs do.
package bpf

//go:generate go tool bpf2go -tags linux -target bpfel -type scope_flag Steer steer.c -- -I. -Iheaders
//go:generate go tool bpf2go -tags linux -target bpfel Leak leak.c -- -I. -Iheaders
