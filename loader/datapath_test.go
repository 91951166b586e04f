// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestLoadOpenUnload(t *testing.T) {
	testenv.Privileged(t)
	opts := Options{Cgroup: testenv.NewCgroup(t).Path, BPFFS: testenv.BPFFS(t)}
	d, err := Load(opts)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	d.Close()
	if d, err = Open(opts); err != nil {
		t.Fatalf("open: %v", err)
	}
	if changed, err := Upgrade(opts); changed || err != nil {
		t.Fatalf("upgrade to the same programs: %v, %v", changed, err)
	}
	d.Close()
	if err := Unload(opts, 0); err != nil {
		t.Fatalf("unload: %v", err)
	}
}
