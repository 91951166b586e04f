// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"strings"
	"testing"
)

// kubeconfigOf is a kubeconfig with something in its user and its cluster.
func kubeconfigOf(user, cluster string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: east, cluster: {server: "https://192.0.2.1:6443", %s}}]
users: [{name: reader, user: {%s}}]
contexts: [{name: east, context: {cluster: east, user: reader}}]
current-context: east
`, cluster, user)
}

// A Secret is written by whoever may write Secrets: it never makes us run a program or
// read a file.
func TestRemoteConfig(t *testing.T) {
	for _, tc := range []struct{ name, user, cluster, want string }{
		{"token", "token: secret", "", ""},
		{"certificates", "client-certificate-data: eA==, client-key-data: eA==", "certificate-authority-data: eA==", ""},
		{"a program", "exec: {command: /bin/sh, apiVersion: client.authentication.k8s.io/v1}", "", `refuse kubeconfig: user "reader" needs a program to log in: give a token or certificates`},
		{"an old program", "auth-provider: {name: gcp}", "", `refuse kubeconfig: user "reader" needs a program to log in: give a token or certificates`},
		{"a file with a token", "tokenFile: /etc/shadow", "", `refuse kubeconfig: user "reader" refers to a file: put its content in`},
		{"a file with a key", "client-key: /etc/shadow", "", `refuse kubeconfig: user "reader" refers to a file: put its content in`},
		{"a file with a certificate", "token: x", "certificate-authority: /etc/shadow", `refuse kubeconfig: cluster "east" refers to a file: put its content in`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config, err := remoteConfig([]byte(kubeconfigOf(tc.user, tc.cluster)))
			if tc.want == "" {
				if err != nil || config.Host != "https://192.0.2.1:6443" {
					t.Errorf("config %v, error %v", config, err)
				}
				return
			}
			if err == nil || err.Error() != tc.want {
				t.Errorf("error: %v", err)
			}
		})
	}
	for name, text := range map[string]string{"garbage": "\x00", "nothing": "", "no kubeconfig": "kind: Pod"} {
		if _, err := remoteConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), "kubeconfig: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
