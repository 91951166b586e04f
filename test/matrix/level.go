// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// level is how much of the tests runs on each kernel. Under emulation the whole
// conformance table takes half an hour, most of it for rows that differ in ways to
// become UID 1337, which no kernel has been seen to treat differently.
type level struct {
	name      string
	run, skip string // as go test has them; empty for all, and for none
}

// levelSome is the level of tests that were chosen by hand.
const levelSome = "some"

// levels, from the quickest. What they name are rows of the conformance table,
// TestTable/STATE/USERS/OWNER/SHAPE/FAMILY, and the longest tests of loader.
func levels() []level {
	const (
		notTable = `^Test([^T]|T[^a])`
		plain    = `^(connected|unconnected|TCP)$`
	)
	return []level{
		// Every state and every owner by the shapes of nearly all applications; every
		// shape in the usual state. Of the loader's longest tests a shorter one of the
		// same kind stays.
		{"quick", notTable + `|^TestTable$/^up$/^host$/^none$|^TestTable$/./^host$/^none$/` + plain + `|^TestTable$/^up$/././` + plain,
			`^Test(KilledWhile(Loading|Upgrading|Unloading)|GuestsKeepWorking|ExclusiveGuest|UpgradeWithoutGap|ResteerAndReturn|` +
				`FailedUpgradeRestores|DamagedState|Contention|NameserverLists|Hung|HeartOfManyScopes|Adopt|LoadAndUnloadUnderLoad)$`},
		// Every shape for root and UID 1337 in every state, and for all in the usual one.
		{"usual", "", `^TestTable$/^([^u]|u[^p])/^userns$|^TestTable$/^([^u]|u[^p])/^host$/^(gid|before-setuid|seteuid|passed)$`},
		{"whole", "", ""},
	}
}

func findLevel(name string) (level, error) {
	for _, l := range levels() {
		if l.name == name {
			return l, nil
		}
	}
	return level{}, fmt.Errorf("unknown level %q", name)
}
