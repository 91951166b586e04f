// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChoose(t *testing.T) {
	const root, pods = "/root", "/root/kubepods"
	for name, c := range map[string]struct {
		pods   string
		first  bool
		loaded string
		want   string
	}{
		"alone":                                {pods, true, "", root},
		"somebody in front":                    {pods, false, "", pods},
		"somebody in front, pods nowhere":      {"", false, "", root},
		"he went while we were away":           {pods, true, pods, pods},
		"he got in front while we were loaded": {pods, false, root, root},
	} {
		got := choose(root, c.pods, c.first, func(cgroup string) bool { return cgroup == c.loaded })
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestPodsCgroup(t *testing.T) {
	for _, c := range []struct {
		dirs []string
		want string
	}{
		{nil, ""},
		{[]string{"system.slice", "user.slice/kubepods-burstable.slice"}, ""},
		{[]string{"kubepods/burstable/pod1"}, "kubepods"},
		{[]string{"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"}, "kubepods.slice"},
		{[]string{"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice"}, "kubelet.slice/kubelet-kubepods.slice"},
		{[]string{"kubelet/kubepods/besteffort"}, "kubelet/kubepods"},
		{[]string{"a/kubelet/kubepods", "b/kubelet/kubepods"}, ""}, // two nodes in one: neither is all
	} {
		root := t.TempDir()
		for _, dir := range c.dirs {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		want := c.want
		if want != "" {
			want = filepath.Join(root, want)
		}
		if got, err := podsCgroup(root); got != want || err != nil {
			t.Errorf("%v: %q, %v, want %q", c.dirs, got, err, want)
		}
	}
}
