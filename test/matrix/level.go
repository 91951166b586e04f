// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// level is how much of the tests runs on each kernel.
type level struct {
	name      string
	run, skip string // as go test has them; empty for all, and for none
}

// levelSome is the level of tests that were chosen by hand.
const levelSome = "some"

// levels, from the quickest. Rows of the conformance table are named
// TestTable/STATE/USERS/OWNER/SHAPE/FAMILY.
func levels() []level {
	const (
		// The longest tests of loader, which take as long as all others together: of most a
		// shorter one of their kind stays, and of our guests those that came after us.
		longest = `^Test(KilledWhile(Loading|Upgrading|Unloading)|ExclusiveGuest|UpgradeWithoutGap|ResteerAndReturn|` +
			`FailedUpgradeRestores|DamagedState|Contention|HeartOfManyScopes|LoadAndUnloadUnderLoad)$` +
			`|^TestGuestsKeepWorking$/./^(before|above|below)$`
		long     = `|^Test(AcquireMeanwhile|Adopt|GuestsKeepWorking|Hung|KilledWhileUpgradingThenUnloaded|LeaksTooMany|ManyWatches|NameserverLists)$|^TestReturnOfSteered$/^connected$/^(mapped|bound)$`
		notTable = `^Test([^T]|T[^a])`
		plain    = `^(connected|unconnected|TCP)$`
	)
	return []level{
		// For CI: of the table every state and every owner by the shapes of nearly all
		// applications, and every shape in the usual state.
		{"quick", notTable + `|^TestTable$/^up$/^host$/^none$|^TestTable$/./^host$/^none$/` + plain + `|^TestTable$/^up$/././` + plain, longest + long},
		{"usual", "", longest},
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
