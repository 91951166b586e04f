// SPDX-License-Identifier: Apache-2.0

package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// Pairs is the number of collisions in each direction: enough that no luck is
	// in the figure, few enough for a second or two.
	Pairs = 500
	// Queries is what the application asks in all.
	Queries = 4 * Pairs

	// firstPort begins the source ports of the story, each used by one pair. They
	// end below the ephemeral ports, which begin at 32768.
	firstPort = 20000
	lastPort  = firstPort + Queries - 1
)

// Roles of the binary that tells the story.
const (
	roleProxy = "seed-proxy"
	roleApp   = "seed-app"
)

// Roles are the story's processes; the binary that calls Tell has them among its
// own.
func Roles() testenv.Roles {
	roles := testenv.Roles{roleProxy: proxyMain, roleApp: appMain}
	maps.Copy(roles, etc.Roles())
	return roles
}

// Counts are outcomes of questions.
type Counts struct {
	Right, Wrong, Lost, Looped int
}

// Result is what came of one mode.
type Result struct {
	Mode   string
	First  Counts // first questions of the pairs, of both directions
	App    Counts // the application got the proxy's port
	Proxy  Counts // the proxy got the application's port
	Leaked int    // questions for the table name that reached the nameserver
	// Verdicts is what the datapath says of all questions, if there is one.
	Verdicts Verdicts
}

// All adds every question up.
func (r Result) All() Counts { return r.First.plus(r.App).plus(r.Proxy) }

// Collisions adds both directions up.
func (r Result) Collisions() Counts {
	return r.App.plus(r.Proxy)
}

func (c Counts) plus(d Counts) Counts {
	return Counts{c.Right + d.Right, c.Wrong + d.Wrong, c.Lost + d.Lost, c.Looped + d.Looped}
}

// meshSuffix ends the names of the modes in which the mesh's proxy answers.
const meshSuffix = ", mesh resolver"

// Expect is what must come of a mode: netfilter fails on every collision, and
// without interception the table name is known to nobody. Every other mode is
// right always, and dnsteer steers every question of the application and none of the
// resolver, which forwards the local names.
func Expect(mode string) Result {
	switch mode {
	case Direct().Name():
		return Result{
			Mode:   mode,
			First:  Counts{Right: Pairs, Wrong: Pairs},
			App:    Counts{Wrong: Pairs},
			Proxy:  Counts{Right: Pairs},
			Leaked: 2 * Pairs,
		}
	case Netfilter().Name():
		return Result{
			Mode:   mode,
			First:  Counts{Right: 2 * Pairs},
			App:    Counts{Wrong: Pairs},
			Proxy:  Counts{Looped: Pairs},
			Leaked: Pairs,
		}
	}
	result := Result{
		Mode:  mode,
		First: Counts{Right: 2 * Pairs},
		App:   Counts{Right: Pairs},
		Proxy: Counts{Right: Pairs},
	}
	if strings.HasPrefix(mode, "dnsteer") {
		result.Verdicts = Verdicts{Steered: Queries, Owner: 1}
		if strings.HasSuffix(mode, meshSuffix) {
			result.Verdicts.Owner = Queries / 2
		}
	}
	return result
}

// Tell makes a world, installs the interceptor, lets the application ask its
// Queries, and counts.
func Tell(tb testing.TB, interceptor Interceptor) Result {
	tb.Helper()
	w := NewWorld(tb)
	w.confinePorts(tb)
	if !interceptor.OwnResolver() {
		w.StartProxy(tb)
	}
	interceptor.Install(tb, w)

	result := Result{Mode: interceptor.Name()}
	steps, counts := plot(&result)
	for i := range steps {
		// Our resolver keeps some ports for its upstreams: there the kernel refuses to collide.
		steps[i].AnyPort = interceptor.OwnResolver()
	}
	for i, outcome := range runApp(tb, w, interceptor, steps) {
		count(tb, counts[i], outcome)
	}
	result.Leaked = w.upstream.Count(TableName)
	result.Verdicts = interceptor.Verdicts(tb)
	return result
}

// plot lists the questions, and for each where its outcome counts.
func plot(result *Result) (steps []step, counts []*Counts) {
	port := uint16(firstPort)
	next := func() uint16 { port++; return port - 1 }
	for i := range Pairs {
		connected := i%2 == 1
		shared := next()
		local := fmt.Sprintf("p%d%s", shared, localSuffix)
		steps = append(steps,
			step{Port: next(), Name: local, Want: localAddr, Connected: connected},
			step{Port: shared, Name: TableName, Want: tableAddr, Connected: connected})
		counts = append(counts, &result.First, &result.App)

		shared = next()
		local = fmt.Sprintf("p%d%s", shared, localSuffix)
		steps = append(steps,
			step{Port: shared, Name: TableName, Want: tableAddr, Connected: connected},
			step{Port: next(), Name: local, Want: localAddr, Connected: connected})
		counts = append(counts, &result.First, &result.Proxy)
	}
	return steps, counts
}

// runApp lets the application ask and returns one outcome for each step.
func runApp(tb testing.TB, w *World, interceptor Interceptor, steps []step) []string {
	tb.Helper()
	script, err := json.Marshal(steps)
	if err != nil {
		tb.Fatalf("write the application's steps: %v", err)
	}
	cmd := testenv.Command(tb, roleApp, w.Nameserver.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: appOwner, Gid: appOwner},
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(script), &stdout, &stderr
	w.Cgroup.Enter(cmd)
	interceptor.Command(tb, cmd)
	w.Client.Start(cmd)
	if err := cmd.Wait(); err != nil {
		tb.Fatalf("run application: %v\n%s", err, &stderr)
	}
	var outcomes []string
	if err := json.Unmarshal(stdout.Bytes(), &outcomes); err != nil {
		tb.Fatalf("read the application's outcomes: %v", err)
	}
	if len(outcomes) != len(steps) {
		tb.Fatalf("the application reported %d of %d questions", len(outcomes), len(steps))
	}
	return outcomes
}

func count(tb testing.TB, counts *Counts, outcome string) {
	tb.Helper()
	switch outcome {
	case right:
		counts.Right++
	case wrong:
		counts.Wrong++
	case lost:
		counts.Lost++
	case looped:
		counts.Looped++
	default:
		tb.Fatalf("count %q: no such outcome", outcome)
	}
}
