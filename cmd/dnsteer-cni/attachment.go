// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
)

// annotationPrefix begins the annotations that the agent is told.
const annotationPrefix = "dnsteer.dev/"

// attachment says what the runtime told. What it told in a form of its own is left out:
// the agent finds it in another way.
func (c *config) attachment(args *skel.CmdArgs) cnirpc.Attachment {
	return cnirpc.Attachment{
		ID:          cnirpc.ID{ContainerID: args.ContainerID, IfName: args.IfName},
		Network:     c.Name,
		Pod:         podOf(args.Args),
		DNS:         c.dns(),
		Annotations: c.annotations(),
		Path:        args.Netns,
	}
}

// podOf reads the CNI_ARGS of Kubernetes' runtimes: "IgnoreUnknown=1;K8S_POD_NAME=web".
func podOf(args string) cnirpc.Pod {
	var pod cnirpc.Pod
	for pair := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = value
		case "K8S_POD_NAME":
			pod.Name = value
		case "K8S_POD_UID":
			pod.UID = value
		}
	}
	return pod
}

// dns is the capability "dns". Names of its fields differ in case between runtimes,
// which is one to encoding/json.
func (c *config) dns() *cnirpc.DNS {
	var dns *cnirpc.DNS
	if len(c.Runtime.DNS) == 0 || json.Unmarshal(c.Runtime.DNS, &dns) != nil {
		return nil
	}
	return dns
}

// annotations is the capability of that long name, without what is others'.
func (c *config) annotations() map[string]string {
	var all map[string]string
	if len(c.Runtime.Annotations) == 0 || json.Unmarshal(c.Runtime.Annotations, &all) != nil {
		return nil
	}
	ours := make(map[string]string)
	for key, value := range all {
		if strings.HasPrefix(key, annotationPrefix) {
			ours[key] = value
		}
	}
	return ours
}
