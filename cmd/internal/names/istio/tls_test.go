// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/dnsteer/dnsteer/test/istiod"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := new(authority)
	_, _, a.cert, a.key = a.issue(t, "root")
	return a
}

// issue makes a certificate for a name, signed by the authority, or by itself while it
// has none.
func (a *authority) issue(t testing.TB, name string) (certPEM, keyPEM []byte, cert *x509.Certificate, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true, IsCA: a.cert == nil}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), cert, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// secure is what makes a server of istiod's name speak TLS, and want certificates of
// clients, if it is given an authority for them.
func (a *authority) secure(t testing.TB, clients *authority) grpc.ServerOption {
	t.Helper()
	certPEM, keyPEM, _, _ := a.issue(t, serverName)
	own, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{own}}
	if clients != nil {
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		c.ClientCAs.AddCert(clients.cert)
	}
	return grpc.Creds(credentials.NewTLS(c))
}

const serverName = "istiod.istio-system.svc"

// files are the mounted credentials of a client.
type files struct{ root, token, cert, key string }

func newFiles(t testing.TB) files {
	dir := t.TempDir()
	return files{filepath.Join(dir, "root-cert.pem"), filepath.Join(dir, "token"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A token is shown over TLS, and read again where it has changed.
func TestToken(t *testing.T) {
	root, f := newAuthority(t), newFiles(t)
	write(t, f.root, root.pem())
	write(t, f.token, []byte("first\n"))
	i := &istiod.Server{Token: "first"}
	i.Start(t, "127.0.0.1:0", root.secure(t, nil))
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	b := newBench(t, Config{Address: i.Address(), RootCert: f.root, Token: f.token, ServerName: serverName})
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	i.Stop()

	again := &istiod.Server{Token: "second"}
	again.Start(t, i.Address(), root.secure(t, nil))
	again.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.2")})
	b.log.Saw(t, patience, "status 16: 100% not a token of ours", "want a token for the audience istio-ca")
	if got, _ := b.ask(t, "a.example.org", "A"); !slices.Equal(got, []string{"A 192.0.2.1"}) {
		t.Errorf("with the old token: %q", got)
	}
	write(t, f.token, []byte("second"))
	b.eventually(t, "a.example.org", "A", "A 192.0.2.2")
}

// Certificates of both sides are read again where they have changed: a mesh changes its
// root, and clients get new ones every few hours.
func TestRotation(t *testing.T) {
	root, f := newAuthority(t), newFiles(t)
	cert, key, _, _ := root.issue(t, "client")
	write(t, f.root, root.pem())
	write(t, f.cert, cert)
	write(t, f.key, key)
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0", root.secure(t, root))
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	b := newBench(t, Config{Address: i.Address(), RootCert: f.root, Cert: f.cert, Key: f.key, ServerName: serverName})
	b.eventually(t, "a.example.org", "A", "A 192.0.2.1")
	i.Stop()

	other := newAuthority(t)
	again := new(istiod.Server)
	again.Start(t, i.Address(), other.secure(t, other))
	again.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.2")})
	b.log.Saw(t, patience, "x509: certificate signed by unknown authority", "its certificate is not from rootCert, or not for serverName")
	write(t, f.root, other.pem())
	b.log.Saw(t, patience, "istiod does not accept our certificate: renew cert and key")
	cert, key, _, _ = other.issue(t, "client")
	write(t, f.cert, cert)
	b.log.Saw(t, patience, "read our certificate: tls: private key does not match public key")
	write(t, f.key, key)
	b.eventually(t, "a.example.org", "A", "A 192.0.2.2")
}

// Nobody but who has the name that is wanted is believed, nor sent a token.
func TestServerName(t *testing.T) {
	root, f := newAuthority(t), newFiles(t)
	write(t, f.root, root.pem())
	write(t, f.token, []byte("secret"))
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0", root.secure(t, nil))
	i.Serve(t, map[string]istiod.Info{"a.example.org": istiod.External("192.0.2.1")})
	b := newBench(t, Config{Address: i.Address(), RootCert: f.root, Token: f.token, ServerName: "other.istio-system.svc"})
	b.log.Saw(t, patience, "certificate is valid for istiod.istio-system.svc, not other.istio-system.svc")
	if got := i.Seen().Headers; len(got) > 0 {
		t.Errorf("it was sent %v", got)
	}
}

// Files that are not there are named.
func TestCredentialsRefuse(t *testing.T) {
	root, f := newAuthority(t), newFiles(t)
	i := new(istiod.Server)
	i.Start(t, "127.0.0.1:0", root.secure(t, nil))
	b := newBench(t, Config{Address: i.Address(), RootCert: f.root, Token: f.token, ServerName: serverName})
	b.log.Saw(t, patience, "read root certificates: open "+f.root)
	write(t, f.root, []byte("nothing"))
	b.log.Saw(t, patience, "read root certificates: "+f.root+" has none")
	write(t, f.root, root.pem())
	b.log.Saw(t, patience, "read token: open "+f.token)
	write(t, f.token, nil)
	b.log.Saw(t, patience, "read token: "+f.token+" is empty")
}

// Where one side speaks TLS and the other does not, both ports are named.
func TestPlaintextAgainstTLS(t *testing.T) {
	root, f := newAuthority(t), newFiles(t)
	write(t, f.root, root.pem())
	secure, clear := new(istiod.Server), new(istiod.Server)
	secure.Start(t, "127.0.0.1:0", root.secure(t, nil))
	clear.Start(t, "127.0.0.1:0")
	for name, c := range map[string]Config{
		"plaintext to TLS": {Address: net.JoinHostPort("127.0.0.1", port(secure)), Plaintext: true},
		"TLS to plaintext": {Address: net.JoinHostPort("127.0.0.1", port(clear)), RootCert: f.root, ServerName: serverName},
	} {
		t.Run(name, func(t *testing.T) {
			newBench(t, c).log.Saw(t, patience, "istiod is away", "want port 15012, or 15010 with plaintext")
		})
	}
}

func port(i *istiod.Server) string {
	_, port, _ := net.SplitHostPort(i.Address())
	return port
}
