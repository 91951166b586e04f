// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// errNotSteered is CHECK's. Plugins may use codes from 100 on as they like. Not 3, which
// tells the runtime that there is nothing to clean up, for the plugins before us too.
const errNotSteered = 100

// errOwnNamespace keeps the node's own DNS from being taken for a pod's.
var errOwnNamespace = errors.New("the namespace is the node's own, not a pod's")

// plugin answers each CNI command. What it writes to stdout is the protocol.
type plugin struct {
	stdout, stderr io.Writer
}

func (p plugin) log(args *skel.CmdArgs, what string, err error) {
	fmt.Fprintf(p.stderr, "dnsteer-cni: container %q interface %q: %s: %v\n", args.ContainerID, args.IfName, what, err)
}

func (p plugin) add(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	result, err := c.result()
	if err != nil {
		return err
	}
	err = p.enrol(args, &c)
	switch {
	case errors.Is(err, errOwnNamespace):
		return types.NewError(types.ErrInvalidNetNS, err.Error(), args.Netns)
	case err != nil && c.Required:
		return types.NewError(types.ErrTryAgainLater, "dnsteer cannot steer this pod yet", err.Error())
	case err != nil:
		p.log(args, "it starts unsteered", err)
	}
	if _, err := p.stdout.Write(result); err != nil {
		return types.NewError(types.ErrIOFailure, "write result", err.Error())
	}
	return nil
}

func (p plugin) enrol(args *skel.CmdArgs, c *config) error {
	a := c.attachment(args)
	namespace, err := cnirpc.OpenNamespace(args.Netns)
	if err != nil {
		return err
	}
	defer namespace.Close()
	if isOwn(namespace) {
		return errOwnNamespace
	}
	a.Namespace = namespace
	return c.client().Add(context.Background(), a)
}

// isOwn tells whether a namespace is the plugin's, which is the node's.
func isOwn(namespace *os.File) bool {
	theirs, err := namespace.Stat()
	if err != nil {
		return false
	}
	ours, err := os.Stat("/proc/self/ns/net")
	return err == nil && os.SameFile(ours, theirs)
}

// del never fails: the namespace goes, and with it all that we have there. A pod that
// cannot be deleted is worse than one that the agent finds gone by itself.
func (p plugin) del(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		p.log(args, "go by what can be read", err)
	}
	a := c.attachment(args)
	if namespace, err := cnirpc.OpenNamespace(args.Netns); err == nil { // it may be gone
		defer namespace.Close()
		a.Namespace = namespace
	}
	if err := c.client().Del(context.Background(), a); err != nil {
		p.log(args, "the agent has not withdrawn it", err)
	}
	return nil
}

// check tells what the agent says. One that is away says nothing: then the answer is
// whether a pod may be without.
func (p plugin) check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if _, err := c.result(); err != nil {
		return err
	}
	a := c.attachment(args)
	a.Namespace, err = cnirpc.OpenNamespace(args.Netns)
	if err == nil {
		defer a.Namespace.Close()
		err = c.client().Check(context.Background(), a)
	}
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, cnirpc.ErrAway):
		return types.NewError(errNotSteered, "this pod is not steered as it should be", err.Error())
	case c.Required:
		return types.NewError(types.ErrTryAgainLater, "nobody knows whether this pod is steered", err.Error())
	}
	p.log(args, "nobody knows whether it is steered", err)
	return nil
}

// gc succeeds without an agent, which holds no more then than the kernel does.
func (p plugin) gc(args *skel.CmdArgs) error {
	c, err := readConfig(args.StdinData)
	if err != nil {
		// A list that is half read would end attachments that are valid.
		p.log(args, "nothing is collected", err)
		return nil
	}
	if c, err = parseConfig(args.StdinData); err != nil {
		p.log(args, "go by what can be read", err)
	}
	valid := c.valid()
	if valid == nil {
		return nil
	}
	err = c.client().GC(context.Background(), c.Name, valid)
	if errors.Is(err, cnirpc.ErrAway) {
		p.log(args, "nothing is collected", err)
		return nil
	}
	return err
}

// status says whether ADD would succeed. A runtime takes a node with a failing STATUS
// out of service within seconds, so an agent that is optional is not asked for.
func (p plugin) status(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if !c.Required {
		return nil
	}
	err = c.client().Status(context.Background())
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cnirpc.ErrLimited):
		return types.NewError(types.ErrLimitedConnectivity, "dnsteer cannot steer pods, and those that run may have no DNS", err.Error())
	}
	return types.NewError(types.ErrPluginNotAvailable, "dnsteer cannot steer pods", err.Error())
}
