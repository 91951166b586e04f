// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strings"

	"github.com/dnsteer/dnsteer/loader"
)

// addOptions declares the flags that say where a datapath lives.
func addOptions(fs *flag.FlagSet, o *loader.Options) {
	fs.StringVar(&o.Cgroup, "cgroup", "", "cgroup v2 `directory` whose sockets are steered, with all below it (default the root: this whole host)")
	fs.StringVar(&o.BPFFS, "bpffs", loader.DefaultBPFFS, "BPF filesystem that holds the pins: its mount `point`")
}

func defaultCgroup(o *loader.Options) error {
	if o.Cgroup != "" {
		return nil
	}
	var err error
	o.Cgroup, err = loader.CgroupRoot()
	return err
}

// options parses the flags of a command that needs nothing else.
func options(e env, name string, args []string, more func(*flag.FlagSet)) (loader.Options, error) {
	var o loader.Options
	fs := newFlags(name)
	addOptions(fs, &o)
	if more != nil {
		more(fs)
	}
	if err := parse(e, fs, args, false); err != nil {
		return o, err
	}
	if err := needRoot(); err != nil {
		return o, err
	}
	return o, defaultCgroup(&o)
}

// nameservers spells the options that say which nameservers are steered.
func nameservers(o loader.Options) string {
	var words []string
	for _, p := range o.Only {
		words = append(words, "--only "+spell(p))
	}
	for _, p := range o.Except {
		words = append(words, "--except "+spell(p))
	}
	if words == nil {
		return "no --only or --except"
	}
	return strings.Join(words, " ")
}

// spell writes a prefix as it is given: one address without length.
func spell(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// loadCommand loads what run or an agent later adopts. Until then there is no listener,
// and every query goes to its nameserver.
func loadCommand(_ context.Context, e env, args []string) error {
	var s settings
	port := uint(loader.DefaultPort)
	o, err := options(e, "load", args, func(fs *flag.FlagSet) {
		fs.UintVar(&port, "port", loader.DefaultPort, "`port` of the resolver on 127.0.0.1 and ::1")
		fs.Func("only", "steer only queries to this nameserver `address` or prefix (repeatable)", prefixes(&s.only))
		fs.Func("except", "leave queries to this nameserver `address` or prefix alone (repeatable)", prefixes(&s.except))
	})
	if err != nil {
		return err
	}
	if port == 0 || port > 65535 {
		return usageError{fmt.Sprintf("load: --port=%d: want 1 to 65535", port), "load"}
	}
	if o.BPFFS == "" { // nothing would stay loaded
		return fmt.Errorf("open BPF filesystem %q: %w", o.BPFFS, loader.ErrNotBPFFS)
	}
	o.Port, o.Only, o.Except = uint16(port), s.only, s.except
	d, err := loader.Load(o)
	if errors.Is(err, loader.ErrLoaded) {
		with := ""
		if d, err := loader.Open(o); err == nil { // it may be another version's
			with = fmt.Sprintf(", with --port %d and %s", d.Port(), nameservers(d.Options()))
			d.Close()
		}
		fmt.Fprintf(e.stderr, "dnsteer: already loaded for %s%s\n", o.Cgroup, with)
		return nil
	}
	if err != nil {
		return err
	}
	d.Close()
	if f := loader.CheckOrder(o); f.Severity != loader.OK {
		fmt.Fprintf(e.stderr, "dnsteer: warning: %s\n", f)
	}
	fmt.Fprintf(e.stdout, "loaded for %s; nothing is steered until a resolver is enrolled ('dnsteer run')\n", o.Cgroup)
	return nil
}

func upgradeCommand(_ context.Context, e env, args []string) error {
	o, err := options(e, "upgrade", args, nil)
	if err != nil {
		return err
	}
	changed, err := loader.Upgrade(o)
	if err != nil {
		return err
	}
	if !changed {
		fmt.Fprintf(e.stdout, "%s runs these programs already\n", o.Cgroup)
		return nil
	}
	fmt.Fprintf(e.stdout, "upgraded %s\n", o.Cgroup)
	return nil
}

func unloadCommand(_ context.Context, e env, args []string) error {
	var force bool
	o, err := options(e, "unload", args, func(fs *flag.FlagSet) {
		fs.BoolVar(&force, "force", false, "unload although a 'dnsteer run' uses it; queries then go to their nameserver")
	})
	if err != nil {
		return err
	}
	used, err := loader.InUse(o)
	if err != nil {
		return err
	}
	if used && !force {
		return withHint(fmt.Errorf("unload from %s: a 'dnsteer run' uses the datapath", o.Cgroup),
			"end that first (SIGTERM): it unloads by itself; or use --force")
	}
	err = loader.Unload(o, 2*settleTime)
	if errors.Is(err, loader.ErrNotLoaded) {
		swept, err := loader.Sweep(o.BPFFS) // a loader that died may have left something all the same
		if len(swept) > 0 {
			fmt.Fprintln(e.stderr, "dnsteer: removed what was left half loaded or half unloaded")
		} else if err == nil {
			fmt.Fprintf(e.stderr, "dnsteer: nothing is loaded for %s\n", o.Cgroup)
		}
		return err
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "unloaded from %s\n", o.Cgroup)
	return nil
}
