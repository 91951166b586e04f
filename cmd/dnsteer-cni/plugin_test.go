// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/dnsteer/dnsteer/cmd/internal/cnirpc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// prevResult is of every version, with what a careless plugin would change: order,
// spaces, an unknown key, a number that float64 cannot hold.
const prevResult = `{"cniVersion":%q, "x-vendor":{"b":1,"a":12345678901234567890}, "interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],` +
	`"ips":[{"version":"4","interface":0,"address":"192.0.2.7/24","gateway":"192.0.2.1"}],"dns":{}}`

// stdin is what a runtime writes. more are further keys, with a comma in front.
func stdin(version, socket, more string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"pods","type":"dnsteer-cni","socket":%q%s}`, version, socket, more)
}

func chained(version string) string {
	return fmt.Sprintf(`,"prevResult":`+prevResult, version)
}

// Each version of the specification, each command that it has.
func TestVersions(t *testing.T) {
	testenv.Privileged(t)
	binary, ns := build(t), testenv.NewNetNS(t)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			a := newAgent(t, nil)
			in := stdin(version, a.socket, chained(version))
			got := execute(t, binary, in, environ("ADD", ns.Path())...)
			want := outcome{Stdout: fmt.Sprintf(prevResult, version)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ADD (-want +got):\n%s", diff)
			}
			commands := []string{"DEL", "DEL"}
			if version >= "0.4.0" {
				commands = append(commands, "CHECK")
			}
			if version >= "1.1.0" {
				commands = append(commands, "GC", "STATUS")
			}
			for _, command := range commands {
				got := execute(t, binary, in, environ(command, ns.Path())...)
				if diff := cmp.Diff(outcome{}, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", command, diff)
				}
			}
		})
	}
}

// What a plugin before us made in another version is converted, not mislabelled.
func TestResultOfAnotherVersion(t *testing.T) {
	testenv.Privileged(t)
	a := newAgent(t, nil)
	got := execute(t, build(t), stdin("1.0.0", a.socket, chained("0.4.0")), environ("ADD", testenv.NewNetNS(t).Path())...)
	for _, want := range []string{`"cniVersion": "1.0.0"`, `"address": "192.0.2.7/24"`} {
		if got.Failed || !strings.Contains(got.Stdout, want) {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	if strings.Contains(got.Stdout, `"version": "4"`) {
		t.Errorf("a key of 0.4.0 is left: %s", got.Stdout)
	}
}

// What the runtime told is what the agent is told, in one request.
func TestRequests(t *testing.T) {
	testenv.Privileged(t)
	binary, ns, a := build(t), testenv.NewNetNS(t), newAgent(t, nil)
	const runtimeConfig = `,"capabilities":{"dns":true},"runtimeConfig":{
		"dns":{"Servers":["192.0.2.53"],"Searches":["example.org"],"Options":["ndots:5"]},
		"io.kubernetes.cri.pod-annotations":{"dnsteer.dev/steer":"true","example.org/secret":"x"}}`
	whole := cnirpc.Attachment{
		ID:          cnirpc.ID{ContainerID: "c1", IfName: "eth0"},
		Network:     "pods",
		Pod:         cnirpc.Pod{Namespace: "default", Name: "web-1", UID: "8d5c"},
		DNS:         &cnirpc.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"ndots:5"}},
		Annotations: map[string]string{"dnsteer.dev/steer": "true"},
		Path:        ns.Path(),
	}
	plain := whole
	plain.DNS, plain.Annotations = nil, nil
	gone := plain
	gone.Path = ""
	for _, tc := range []struct {
		name, command, netns, more string
		want                       []call
	}{
		{"add", "ADD", ns.Path(), chained("1.1.0") + runtimeConfig, []call{{Do: "add", Attachment: whole, Inode: inode(ns.File())}}},
		{"add of a plain runtime", "ADD", ns.Path(), chained("1.1.0"), []call{{Do: "add", Attachment: plain, Inode: inode(ns.File())}}},
		{"add of an odd runtime", "ADD", ns.Path(), chained("1.1.0") + `,"runtimeConfig":{"dns":"192.0.2.53","io.kubernetes.cri.pod-annotations":[]}`,
			[]call{{Do: "add", Attachment: plain, Inode: inode(ns.File())}}},
		{"check", "CHECK", ns.Path(), chained("1.1.0"), []call{{Do: "check", Attachment: plain, Inode: inode(ns.File())}}},
		{"del", "DEL", ns.Path(), "", []call{{Do: "del", Attachment: plain, Inode: inode(ns.File())}}},
		{"del without namespace", "DEL", "", "", []call{{Do: "del", Attachment: gone}}},
		{"gc", "GC", "", `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`,
			[]call{{Do: "gc", Network: "pods", Valid: []cnirpc.ID{{ContainerID: "c1", IfName: "eth0"}}}}},
		{"gc by its old name", "GC", "", `,"cni.dev/attachments":[{"containerID":"c1","ifname":"eth0"}]`,
			[]call{{Do: "gc", Network: "pods", Valid: []cnirpc.ID{{ContainerID: "c1", IfName: "eth0"}}}}},
		{"gc of all", "GC", "", `,"cni.dev/valid-attachments":[]`, []call{{Do: "gc", Network: "pods", Valid: []cnirpc.ID{}}}},
		{"gc that does not say", "GC", "", "", nil},
		{"gc of null", "GC", "", `,"cni.dev/valid-attachments":null`, nil},
		{"gc half read", "GC", "", `,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"},"c2"]`, nil},
		{"status that needs no agent", "STATUS", "", "", nil},
		{"status", "STATUS", "", `,"required":true`, []call{{Do: "status"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := execute(t, binary, stdin("1.1.0", a.socket, tc.more), environ(tc.command, tc.netns)...)
			if got.Failed {
				t.Fatalf("failed: %+v", got)
			}
			if diff := cmp.Diff(tc.want, a.take()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// Every answer of an agent, or none, to every command.
func TestAnswers(t *testing.T) {
	testenv.Privileged(t)
	binary, ns := build(t), testenv.NewNetNS(t)
	hung, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(t), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	agents := []struct {
		name   string
		socket string
	}{
		{"away", socketPath(t)},
		{"hung", hung.Addr().String()},
		{"broken", newAgent(t, errors.New("port 15053 is taken")).socket},
		{"unknown", newAgent(t, cnirpc.ErrUnknown).socket},
		{"unavailable", newAgent(t, cnirpc.ErrUnavailable).socket},
		{"limited", newAgent(t, cnirpc.ErrLimited).socket},
	}
	const again, gone, cut, fails = types.ErrTryAgainLater, types.ErrPluginNotAvailable, types.ErrLimitedConnectivity, errNotSteered
	for _, tc := range []struct {
		command  string
		required bool
		want     [6]uint // for each agent; 0 is success
	}{
		{"ADD", false, [6]uint{0, 0, 0, 0, 0, 0}},
		{"ADD", true, [6]uint{again, again, again, again, again, again}},
		{"DEL", false, [6]uint{0, 0, 0, 0, 0, 0}},
		{"DEL", true, [6]uint{0, 0, 0, 0, 0, 0}},
		{"CHECK", false, [6]uint{0, 0, fails, fails, fails, fails}},
		{"CHECK", true, [6]uint{again, again, fails, fails, fails, fails}},
		{"GC", false, [6]uint{0, 0, types.ErrInternal, types.ErrInternal, types.ErrInternal, types.ErrInternal}},
		{"STATUS", false, [6]uint{0, 0, 0, 0, 0, 0}},
		{"STATUS", true, [6]uint{gone, gone, gone, gone, gone, cut}},
	} {
		for i, agent := range agents {
			t.Run(fmt.Sprintf("%s/required=%v/%s", tc.command, tc.required, agent.name), func(t *testing.T) {
				more := fmt.Sprintf(`,"timeout":"50ms","required":%v,"cni.dev/valid-attachments":[]`, tc.required) + chained("1.1.0")
				got := execute(t, binary, stdin("1.1.0", agent.socket, more), environ(tc.command, ns.Path())...)
				if code := got.err(t).Code; code != tc.want[i] {
					t.Errorf("code %d, want %d: %+v", code, tc.want[i], got)
				}
				if tc.command == "ADD" && !got.Failed && (got.Stdout != fmt.Sprintf(prevResult, "1.1.0") || !strings.Contains(got.Stderr, "it starts unsteered")) {
					t.Errorf("got %+v, want the result, and a word on stderr", got)
				}
				if tc.command != "ADD" && !got.Failed && got.Stdout != "" {
					t.Errorf("stdout %q of %s", got.Stdout, tc.command)
				}
			})
		}
	}
}

// What nobody should have configured.
func TestRefuse(t *testing.T) {
	testenv.Privileged(t)
	binary, ns, a := build(t), testenv.NewNetNS(t), newAgent(t, nil)
	for _, tc := range []struct {
		name, command, netns, stdin string
		code                        uint
		want                        string
	}{
		{"alone", "ADD", ns.Path(), stdin("1.1.0", a.socket, ""), types.ErrInvalidNetworkConfig, "last of \"plugins\" in a .conflist"},
		{"alone with null", "ADD", ns.Path(), stdin("1.1.0", a.socket, `,"prevResult":null`), types.ErrInvalidNetworkConfig, "runs after other plugins"},
		{"check alone", "CHECK", ns.Path(), stdin("1.1.0", a.socket, ""), types.ErrInvalidNetworkConfig, "runs after other plugins"},
		{"result that is none", "ADD", ns.Path(), stdin("1.1.0", a.socket, `,"prevResult":["a"]`), types.ErrDecodingFailure, "read prevResult"},
		{"result of the future", "ADD", ns.Path(), stdin("1.1.0", a.socket, `,"prevResult":{"cniVersion":"9.0.0"}`), types.ErrDecodingFailure, "9.0.0"},
		{"unknown keys", "ADD", ns.Path(), stdin("1.1.0", a.socket, chained("1.1.0")+`,"requierd":true,"colour":[1, 2]`),
			types.ErrUnsupportedField, `"colour": [1, 2], "requierd": true`},
		{"key in capitals", "ADD", ns.Path(), stdin("1.1.0", a.socket, chained("1.1.0")+`,"Required":true`), types.ErrUnsupportedField, `"Required": true`},
		{"unknown key for status", "STATUS", "", stdin("1.1.0", a.socket, `,"x":1`), types.ErrUnsupportedField, `"x": 1`},
		{"wrong type", "ADD", ns.Path(), stdin("1.1.0", a.socket, chained("1.1.0")+`,"required":"yes"`), types.ErrDecodingFailure, "required"},
		{"relative socket", "ADD", ns.Path(), stdin("1.1.0", "agent.sock", chained("1.1.0")), types.ErrInvalidNetworkConfig, "absolute path"},
		{"long socket", "ADD", ns.Path(), stdin("1.1.0", "/"+strings.Repeat("a", 200), chained("1.1.0")), types.ErrInvalidNetworkConfig, "at most 107 bytes"},
		{"timeout without unit", "ADD", ns.Path(), stdin("1.1.0", a.socket, chained("1.1.0")+`,"timeout":"2"`), types.ErrInvalidNetworkConfig, `timeout "2"`},
		{"timeout of an hour", "ADD", ns.Path(), stdin("1.1.0", a.socket, chained("1.1.0")+`,"timeout":"1h"`), types.ErrInvalidNetworkConfig, `timeout "1h"`},
		{"the node's own namespace", "ADD", "/proc/self/ns/net", stdin("1.1.0", a.socket, chained("1.1.0")), types.ErrInvalidNetNS, "node's own"},
		{"no JSON", "ADD", ns.Path(), `{"cniVersion":`, types.ErrDecodingFailure, ""},
		{"nothing", "ADD", ns.Path(), "", types.ErrDecodingFailure, ""},
		{"no name", "ADD", ns.Path(), `{"cniVersion":"1.1.0"}`, types.ErrInvalidNetworkConfig, "name"},
		{"version before chains", "ADD", ns.Path(), stdin("0.2.0", a.socket, ""), types.ErrIncompatibleCNIVersion, ""},
		{"version of the future", "ADD", ns.Path(), stdin("9.0.0", a.socket, ""), types.ErrIncompatibleCNIVersion, ""},
		{"no such command", "REBOOT", ns.Path(), stdin("1.1.0", a.socket, ""), types.ErrInvalidEnvironmentVariables, "REBOOT"},
		{"gc before there was", "GC", "", stdin("1.0.0", a.socket, ""), types.ErrIncompatibleCNIVersion, "GC"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := execute(t, binary, tc.stdin, environ(tc.command, tc.netns)...)
			e := got.err(t)
			if e.Code != tc.code || !strings.Contains(e.Msg+e.Details, tc.want) {
				t.Errorf("got %+v, want code %d, %q", got, tc.code, tc.want)
			}
			if calls := a.take(); len(calls) > 0 {
				t.Errorf("the agent was asked: %+v", calls)
			}
		})
	}
}

// A pod can be deleted, whatever the configuration has become.
func TestDelOfOldConfig(t *testing.T) {
	testenv.Privileged(t)
	binary, ns, a := build(t), testenv.NewNetNS(t), newAgent(t, nil)
	for _, more := range []string{`,"later":true`, `,"timeout":"soon"`, `,"required":"yes"`, `,"prevResult":7`, `,"runtimeConfig":[]`} {
		t.Run(more, func(t *testing.T) {
			got := execute(t, binary, stdin("1.1.0", a.socket, more), environ("DEL", ns.Path())...)
			if got.Failed || got.Stdout != "" {
				t.Errorf("failed: %+v", got)
			}
			if calls := a.take(); len(calls) != 1 {
				t.Errorf("the agent was asked %+v, want one request", calls)
			}
		})
	}
}

// A namespace that cannot be opened is no reason to keep a pod from starting.
func TestNoNamespace(t *testing.T) {
	binary, a := build(t), newAgent(t, nil)
	for _, netns := range []string{"/run/netns/none", "/dev/null", "/proc/self/ns/uts"} {
		for required, code := range map[bool]uint{false: 0, true: types.ErrTryAgainLater} {
			in := stdin("1.1.0", a.socket, fmt.Sprintf(`,"required":%v`, required)+chained("1.1.0"))
			got := execute(t, binary, in, environ("ADD", netns)...)
			if e := got.err(t); e.Code != code {
				t.Errorf("ADD in %s, required %v: %+v", netns, required, got)
			}
		}
		got := execute(t, binary, stdin("1.1.0", a.socket, chained("1.1.0")), environ("CHECK", netns)...)
		if e := got.err(t); e.Code != errNotSteered {
			t.Errorf("CHECK in %s: %+v", netns, got)
		}
	}
	if calls := a.take(); len(calls) > 0 {
		t.Errorf("the agent was asked: %+v", calls)
	}
}
