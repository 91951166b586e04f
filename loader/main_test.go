// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, testenv.Roles{
		"query":        runQuerier,
		"life":         runLife,
		"contend":      runContender,
		"resolve":      runResolver,
		"worker":       runWorker,
		"unprivileged": runUnprivileged,
		"hold":         runHolder,
		"listen":       runListener,
		"cookie":       runCookie,
		"here":         runHere,
		"leak":         runLeaker,
		"watch":        runWatcher,
		"connect":      runConnect,
		"sweep":        runSweep,
	})
}
