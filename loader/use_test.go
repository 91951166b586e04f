// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"testing"
)

// Of several users the last one may unload, and who comes meanwhile starts anew.
func TestUse(t *testing.T) {
	w := newWorld(t)
	if used, err := InUse(w.opts); used || err != nil {
		t.Errorf("in use before it is loaded: %v, %v", used, err)
	}
	first := w.load(t)
	if used, err := InUse(w.opts); used || err != nil {
		t.Errorf("in use by nobody: %v, %v", used, err)
	}
	if err := first.Use(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(w.opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Use(); err != nil {
		t.Fatal(err)
	}
	if used, err := InUse(w.opts); !used || err != nil {
		t.Errorf("in use by two: %v, %v", used, err)
	}
	if second.LastUser() {
		t.Error("the second is the last, though the first is there")
	}
	second.Close()
	if !first.LastUser() {
		t.Fatal("the first is not the last, though the second has ended")
	}
	third, err := Open(w.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	began := make(chan error)
	go func() { began <- third.Use() }()
	if err := first.Unload(nil); err != nil {
		t.Error(err)
	}
	first.Close()
	if err := <-began; !errors.Is(err, ErrNotLoaded) {
		t.Errorf("use what was unloaded meanwhile: %v, want ErrNotLoaded", err)
	}
}
