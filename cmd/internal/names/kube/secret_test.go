// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/dnsteer/dnsteer/resolver"
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

// A cluster that two Secrets name is there for as long as one of them is.
func TestClusterOfTwoSecrets(t *testing.T) {
	source := NewSource(resolver.NewNames().AddLayer("test"), Config{})
	defer source.end()
	nowhere, stop := context.WithCancel(t.Context())
	stop() // no API server is asked
	r := &remotes{source: source, ctx: nowhere, log: slog.New(slog.DiscardHandler),
		from:  Secrets{Cluster: Cluster{Zones: []string{"example.org"}}},
		byKey: make(map[key]map[string][]byte), owner: make(map[string]key)}
	secret := func(host string) *corev1.Secret {
		text := strings.Replace(kubeconfigOf("token: x", ""), "192.0.2.1", host, 1)
		return &corev1.Secret{Data: map[string][]byte{"east": []byte(text)}}
	}
	first, second, wrong := key{"default", "z"}, key{"default", "b"}, key{"default", "a"}
	reached := func(want string) {
		t.Helper()
		got := "nobody"
		if at := source.slot("east"); at != nil {
			got = at.next.Rest.Host
		}
		if got != want {
			t.Errorf("reached at %s, want %s", got, want)
		}
	}
	r.set(first, secret("192.0.2.1"))
	r.set(second, secret("192.0.2.2"))
	r.set(wrong, &corev1.Secret{Data: map[string][]byte{"east": []byte("garbage")}})
	reached("https://192.0.2.1:6443")
	r.set(first, nil)
	reached("https://192.0.2.2:6443")
	r.set(first, secret("192.0.2.3"))
	reached("https://192.0.2.2:6443")
	r.set(second, &corev1.Secret{})
	reached("https://192.0.2.3:6443")
	r.set(first, nil)
	reached("nobody")
}
