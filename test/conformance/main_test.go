// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"testing"

	"github.com/dnsteer/dnsteer/test/probe"
	"github.com/dnsteer/dnsteer/test/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, probe.Roles()) }
