// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/dnsteer/dnsteer/test/dnsteer"
	"github.com/dnsteer/dnsteer/test/testenv"
)

const (
	// perfRate is a part of what is asked alone; that which looks for the limit is ours.
	perfRate = 200
	// perfQuestions are of the table, so that no outage is an excuse.
	perfQuestions = tableName + " A\n" + tableName + " AAAA\n" + tableName + " HTTPS\nchanging.example.org. A\n"
)

// perfPatterns find in what dnsperf tells how many queries it sent, and had answered.
var perfPatterns = [...]*regexp.Regexp{
	regexp.MustCompile(`Queries sent: +(\d+)`),
	regexp.MustCompile(`Queries completed: +(\d+)`),
	regexp.MustCompile(`Response codes: +NOERROR (\d+) \(100\.00%\)`),
}

// startDNSPerf lets Debian's dnsperf ask over udp or tcp for so long: a client that is not
// ours and counts for itself. What it returns waits for the end: no query is lost, and none
// fails.
func startDNSPerf(t *testing.T, place dnsteer.Place, network string) (wait func()) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "questions")
	if err := os.WriteFile(data, []byte(perfQuestions), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Binary(t, "dnsperf", "dnsperf"), "-m", network, "-s", upstream.Addr().String(), "-d", data,
		"-c", "4", "-Q", strconv.Itoa(perfRate), "-l", strconv.Itoa(int(length.Seconds())))
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	place.Cgroup.Enter(cmd)
	place.NetNS.Start(cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return func() {
		t.Helper()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("dnsperf over %s: %v\n%s", network, err, out)
			}
		case <-time.After(time.Minute): // as it may where answers were lost
			_ = cmd.Process.Kill()
			<-ended
			t.Fatalf("dnsperf over %s does not end\n%s", network, out)
		}
		var n [len(perfPatterns)]int
		for i, pattern := range perfPatterns {
			if m := pattern.FindSubmatch(out.Bytes()); m != nil {
				n[i], _ = strconv.Atoi(string(m[1]))
			}
		}
		if n[0] == 0 || n[1] != n[0] || n[2] != n[0] {
			t.Errorf("dnsperf over %s: of %d queries %d were answered, %d without an error:\n%s", network, n[0], n[1], n[2], out)
		}
		t.Logf("dnsperf over %s: %d queries, %d answered", network, n[0], n[2])
	}
}
