// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) {
	roles := probe.Roles()
	roles["raw"] = sendRaw
	testenv.Main(m, roles)
}
