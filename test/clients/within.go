// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/dnsteer/dnsteer/test/etc"
	"github.com/dnsteer/dnsteer/test/testenv"
)

// roleGo asks with Go's own resolver.
const roleGo = "clients-go"

// resolvConf is what the clients find. One attempt of ten seconds: a lost packet
// shall fail the test, not be repaired.
const resolvConf = "nameserver 192.0.2.53\noptions timeout:10 attempts:1\n"

// Roles are the processes of this package; a binary that calls Check has them
// among its own.
func Roles() testenv.Roles {
	roles := testenv.Roles{roleGo: goMain}
	maps.Copy(roles, etc.Roles())
	return roles
}

// within is argv, run where /etc is ours.
func within(tb testing.TB, argv ...string) *exec.Cmd {
	tb.Helper()
	return etc.Command(tb, resolvConf, argv...)
}

// withinGo is Go's resolver, run there.
func withinGo(tb testing.TB, q Question) *exec.Cmd {
	tb.Helper()
	return etc.Private(testenv.Command(tb, roleGo, etc.Write(tb, resolvConf), string(q.Kind), q.Name))
}

// goMain is the role: a directory for /etc, a kind, a name. It prints what the
// programs in testdata print.
func goMain(args []string) int {
	if err := etc.Mount(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	resolver := &net.Resolver{PreferGo: true}
	var lines []string
	var err error
	if Kind(args[1]) == Text {
		var texts []string
		texts, err = resolver.LookupTXT(context.Background(), args[2])
		for _, text := range texts {
			lines = append(lines, fmt.Sprint("text ", len(text)))
		}
	} else {
		var addrs []string
		addrs, err = resolver.LookupHost(context.Background(), args[2])
		for _, addr := range addrs {
			lines = append(lines, "address "+addr)
		}
	}
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		lines, err = []string{"not found"}, nil
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, line := range lines {
		fmt.Println(line)
	}
	return 0
}
