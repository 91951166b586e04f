// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// validity of a test's certificates. No test lasts half as long.
const validity = 24 * time.Hour

// serviceIP is the first of ServiceCIDR, by which pods reach the API server.
var serviceIP = net.IPv4(10, 96, 0, 1)

// PKI is a certificate authority for one cluster, the API server's certificate
// and the key that signs the tokens of ServiceAccounts: files in Dir.
type PKI struct {
	Dir string
	tb  testing.TB
}

// NewPKI makes all of it in dir. The API server's certificate is good for
// loopback, the service kubernetes, and addrs.
func NewPKI(tb testing.TB, dir string, addrs ...net.IP) PKI {
	tb.Helper()
	p := PKI{Dir: dir, tb: tb}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dnsteer test CA"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(validity),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := p.key("ca")
	p.certificate("ca", ca, ca, caKey, caKey)
	p.certificate("apiserver", &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: append([]net.IP{net.IPv4(127, 0, 0, 1), serviceIP}, addrs...),
	}, ca, p.key("apiserver"), caKey)
	p.publicKey("sa", p.key("sa"))
	return p
}

// File is the path of one file: "ca.crt", "apiserver.key", "sa.pub".
func (p PKI) File(name string) string { return filepath.Join(p.Dir, name) }

// key makes name.key.
func (p PKI) key(name string) *ecdsa.PrivateKey {
	p.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.tb.Fatalf("make key of %s: %v", name, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		p.tb.Fatalf("encode key of %s: %v", name, err)
	}
	p.write(name+".key", "EC PRIVATE KEY", der)
	return key
}

// certificate makes name.crt for the owner of key, signed by parent's.
func (p PKI) certificate(name string, cert, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) {
	p.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	if err != nil {
		p.tb.Fatalf("make certificate of %s: %v", name, err)
	}
	p.write(name+".crt", "CERTIFICATE", der)
}

// publicKey makes name.pub.
func (p PKI) publicKey(name string, key *ecdsa.PrivateKey) {
	p.tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		p.tb.Fatalf("encode public key of %s: %v", name, err)
	}
	p.write(name+".pub", "PUBLIC KEY", der)
}

func (p PKI) write(name, kind string, der []byte) {
	p.tb.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(p.File(name), text, 0o600); err != nil {
		p.tb.Fatalf("write %s: %v", name, err)
	}
}

// user is one line of the API server's token file.
type user struct {
	name   string
	groups string // separated by commas
}

// users of a cluster, by the name of their kubeconfig.
var users = map[string]user{
	"admin":                   {"admin", "system:masters"},
	"kube-controller-manager": {"system:kube-controller-manager", ""},
	"kube-scheduler":          {"system:kube-scheduler", ""},
	"kube-proxy":              {"system:kube-proxy", ""},
	"n1":                      {"system:node:n1", "system:nodes"},
	"n2":                      {"system:node:n2", "system:nodes"},
}

// tokens writes the API server's token file and returns each user's token.
func (p PKI) tokens() map[string]string {
	p.tb.Helper()
	tokens := map[string]string{}
	var lines string
	for name, u := range users {
		tokens[name] = rand.Text()
		lines += fmt.Sprintf("%s,%s,%s,%q\n", tokens[name], u.name, u.name, u.groups)
	}
	if err := os.WriteFile(p.File("tokens.csv"), []byte(lines), 0o600); err != nil {
		p.tb.Fatalf("write tokens: %v", err)
	}
	return tokens
}
