// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnsteer/dnsteer/test/testenv"
)

// certificate is for dns.example.org and 192.0.2.53, and signs itself.
func certificate(t *testing.T) (cert tls.Certificate, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"dns.example.org"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 53), net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// secureUnbound is Unbound with DNS over TLS and over HTTPS at 192.0.2.53.
func secureUnbound(t *testing.T, server *testenv.NetNS, cert tls.Certificate) {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(`server:
  username: ""
  chroot: ""
  pidfile: ""
  directory: %q
  use-syslog: no
  module-config: "iterator"
  access-control: 0.0.0.0/0 allow
  interface: 192.0.2.53@853
  interface: 192.0.2.53@443
  tls-service-key: "key.pem"
  tls-service-pem: "cert.pem"
  local-zone: "example.org." static
  local-data: "a.example.org. 5 IN A 192.0.2.1"
  local-data: "big.example.org. 5 IN TXT %s"
remote-control:
  control-enable: no
`, dir, strings.Repeat("'"+strings.Repeat("x", 250)+"' ", 12))
	path := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Start(exec.Command(testenv.Binary(t, "unbound", "unbound"), "-d", "-p", "-c", path))
}

// Against Unbound: DNS over TLS (RFC 7858) and over HTTPS (RFC 8484), with names and
// addresses that the certificate has, and such that it has not.
func TestSecureUpstreams(t *testing.T) {
	cert, roots := certificate(t)
	client, server := testenv.NewLink(t)
	secureUnbound(t, server, cert)
	testenv.Eventually(t, patience, func() (err error) {
		client.Do(func() {
			var conn net.Conn
			if conn, err = net.Dial("tcp", "192.0.2.53:853"); err == nil {
				_ = conn.Close()
			}
		})
		return err
	})
	for up, failure := range map[string]string{
		"tls://192.0.2.53#dns.example.org":             "",
		"tls://192.0.2.53":                             "",
		"tls://192.0.2.53#other.example.org":           "certificate is valid for dns.example.org, not other.example.org",
		"https://192.0.2.53/dns-query#dns.example.org": "",
		"https://192.0.2.53#dns.example.org":           "",
		"https://192.0.2.53":                           "",
		"https://192.0.2.53#other.example.org":         "certificate is valid for dns.example.org, not other.example.org",
		"https://192.0.2.53/elsewhere#dns.example.org": "answered HTTP 404",
		"tls://192.0.2.53:443#dns.example.org":         "closed the connection",
		"tls://192.0.2.54#dns.example.org":             "upstream tls://192.0.2.54:853#dns.example.org",
	} {
		t.Run(up, func(t *testing.T) {
			cfg := Config{CacheBytes: -1, RootCAs: roots, Routes: []Route{mustRoute(t, ".="+up)}, Timeout: patience, Resend: patience}
			if strings.Contains(up, "192.0.2.54") { // where nobody is
				cfg.Timeout, cfg.Resend = 2*time.Second, time.Second
			}
			s, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var dialled atomic.Int32
			sc := newScope(t, s, ScopeConfig{Dial: func(ctx context.Context, network string, to netip.AddrPort) (conn net.Conn, err error) {
				dialled.Add(1)
				client.Do(func() { conn, err = dialHere(ctx, network, to) })
				return conn, err
			}})
			l, addr := listen(t, "127.0.0.1")
			serveScope(t, sc, l)
			if failure != "" {
				got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
				if got.Rcode != dns.RcodeServerFailure || !strings.Contains(fmtEDE(got), failure) {
					t.Errorf("got %q, want %q", fmtEDE(got), failure)
				}
				return
			}
			for _, network := range []string{"udp", "tcp", "udp"} {
				wantGood(t, exchange(t, network, addr, query("a.example.org", dns.TypeA)))
			}
			if got := exchange(t, "tcp", addr, query("big.example.org", dns.TypeTXT)); len(got.Answer) != 1 || len(got.Answer[0].(*dns.TXT).Txt) != 12 {
				t.Errorf("large answer: %v", got)
			}
			if got := exchange(t, "udp", addr, query("none.example.org", dns.TypeA)); got.Rcode != dns.RcodeNameError {
				t.Errorf("got %v", got)
			}
			if n := dialled.Load(); n != 1 {
				t.Errorf("%d connections for five queries", n)
			}
		})
	}
}

// Whoever has no certificate of a known authority is not asked.
func TestUnknownAuthority(t *testing.T) {
	cert, _ := certificate(t)
	up := tlsServer(t, &tls.Config{Certificates: []tls.Certificate{cert}}, func(conn net.Conn) { _, _ = readFrame(conn) })
	_, addr := start(t, Config{CacheBytes: -1, RootCAs: x509.NewCertPool(), Routes: []Route{mustRoute(t, ".=tls://"+up.String())}})
	got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
	if !strings.Contains(fmtEDE(got), "certificate signed by unknown authority") {
		t.Errorf("got %q", fmtEDE(got))
	}
}

// tlsServer gives each connection to serve.
func tlsServer(t *testing.T, conf *tls.Config, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// A connection that ended is resumed (RFC 7858 section 3.4), not begun anew.
func TestTLSResumption(t *testing.T) {
	cert, roots := certificate(t)
	var resumed, conns atomic.Int32
	up := tlsServer(t, &tls.Config{Certificates: []tls.Certificate{cert}}, func(conn net.Conn) {
		answerFrames(t, conn, 1)
		conns.Add(1)
		if conn.(*tls.Conn).ConnectionState().DidResume {
			resumed.Add(1)
		}
	})
	_, addr := start(t, Config{CacheBytes: -1, RootCAs: roots, Routes: []Route{mustRoute(t, ".=tls://"+up.String()+"#dns.example.org")}})
	for range 4 {
		wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
	}
	if r, n := resumed.Load(), conns.Load(); r != n-1 || n < 3 {
		t.Errorf("%d of %d connections resumed", r, n)
	}
}

// webServer speaks HTTP/2 and TLS.
func webServer(t *testing.T, cert tls.Certificate, do http.HandlerFunc) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: do, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = web.Close()
		<-done
	})
	return l.Addr().String()
}

// Encrypted queries have the length of others: a multiple of 128 octets, with zeros (RFC
// 7830 section 3, RFC 8467 section 4.1). Answers' padding is of their hop.
func TestPadding(t *testing.T) {
	cert, roots := certificate(t)
	queries := make(chan []byte, 16)
	padded := func(wire []byte) []byte {
		queries <- wire
		return respond(t, wire, func(m *dns.Msg) {
			if opt := m.IsEdns0(); opt != nil {
				opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, 300)})
			}
		}, good)
	}
	overTLS := tlsServer(t, &tls.Config{Certificates: []tls.Certificate{cert}}, func(conn net.Conn) {
		for {
			wire, err := readFrame(conn)
			if err != nil {
				return
			}
			_ = writeFrame(conn, padded(wire))
		}
	})
	overHTTPS := webServer(t, cert, func(w http.ResponseWriter, r *http.Request) {
		wire, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", dnsMessage)
		_, _ = w.Write(padded(wire))
	})
	plain := upstream(t, func(reply func([]byte), q asked) { reply(padded(q.wire)) }, nil)
	local := func(n int) dns.EDNS0 { return &dns.EDNS0_LOCAL{Code: 65099, Data: make([]byte, n)} }
	for up, isPadded := range map[string]bool{
		"tls://" + overTLS.String() + "#dns.example.org": true, "https://" + overHTTPS + "#dns.example.org": true, plain.addr.String(): false,
	} {
		t.Run(up, func(t *testing.T) {
			_, addr := start(t, Config{CacheBytes: -1, RootCAs: roots, Routes: []Route{mustRoute(t, ".="+up)}, Timeout: patience, Resend: patience})
			for _, n := range []int{0, 1, 50, 71, 72, 73, 74, 75, 76, 77, 200} { // with every rest
				got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232, local(n)))
				wantGood(t, got)
				if slices.Contains(optionCodes(got.IsEdns0()), dns.EDNS0PADDING) {
					t.Errorf("the padding came through: %v", got)
				}
				wire := <-queries
				opt := unpack(t, wire).IsEdns0()
				if has := slices.Contains(optionCodes(opt), dns.EDNS0PADDING); has != isPadded || isPadded && len(wire)%128 != 0 {
					t.Errorf("%d octets of option: the query has %d octets, padded: %t", n, len(wire), has)
				}
				if p, ok := opt.Option[len(opt.Option)-1].(*dns.EDNS0_PADDING); ok && len(bytes.Trim(p.Padding, "\x00")) > 0 {
					t.Errorf("padded with %x", p.Padding)
				}
			}
			wantGood(t, exchange(t, "udp", addr, query("a.example.org", dns.TypeA)))
			if wire := <-queries; unpack(t, wire).IsEdns0() != nil {
				t.Error("EDNS in a query that had none")
			}
		})
	}
}

// What a web server may do wrong, in words; and its Age counts (RFC 8484 section 5.1).
func TestMisbehavingHTTPS(t *testing.T) {
	cert, roots := certificate(t)
	body := func(r *http.Request) []byte {
		wire, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.ProtoMajor != 2 || r.Header.Get("Content-Type") != dnsMessage {
			t.Errorf("request: %v, %s %s %s", err, r.Method, r.Proto, r.Header.Get("Content-Type"))
		}
		if wire[0]|wire[1] != 0 {
			t.Errorf("ID %x", wire[:2])
		}
		return respond(t, wire, nil, "a.example.org. 60 IN A 192.0.2.1")
	}
	for name, tc := range map[string]struct {
		do   func(w http.ResponseWriter, r *http.Request)
		want string
	}{
		"good": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			_, _ = w.Write(body(r))
		}, "a.example.org. 60 IN A 192.0.2.1"},
		"from a cache": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			w.Header().Set("Age", "20")
			_, _ = w.Write(body(r))
		}, "a.example.org. 40 IN A 192.0.2.1"},
		"from a cache, with a TTL that means zero": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			w.Header().Set("Age", "20")
			_, _ = w.Write(bytes.Replace(body(r), []byte{0, 0, 0, 60}, []byte{0x80, 0, 0, 1}, 1)) // RFC 2181 section 8
		}, "a.example.org. 0 IN A 192.0.2.1"},
		"error": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "answered HTTP 503 Service Unavailable"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1/", http.StatusFound)
		},
			"answered HTTP 302 Found"},
		"a page": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello") },
			`answered with "text/html; charset=utf-8", not with application/dns-message`},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			_, _ = io.WriteString(w, "garbage")
		}, "malformed answer: message shorter than its header"},
		"another question": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			wire := body(r)
			wire[headerLen+1] = 'z'
			_, _ = w.Write(wire)
		}, "answered another question"},
		"too long": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", dnsMessage)
			_, _ = w.Write(append(body(r), make([]byte, maxWire)...))
		}, "answered with more than a message"},
	} {
		t.Run(name, func(t *testing.T) {
			up := webServer(t, cert, tc.do)
			_, addr := start(t, Config{CacheBytes: -1, RootCAs: roots, Routes: []Route{mustRoute(t, ".=https://"+up+"#dns.example.org")}})
			got := exchange(t, "udp", addr, withEDNS(query("a.example.org", dns.TypeA), 1232))
			if len(got.Answer) == 1 {
				if line := lines(got.Answer)[0]; line != tc.want {
					t.Errorf("got %s, want %s", line, tc.want)
				}
			} else if !strings.HasSuffix(fmtEDE(got), tc.want) {
				t.Errorf("got %q, want %q", fmtEDE(got), tc.want)
			}
		})
	}
}

// FuzzPosted is an HTTPS server that answers anything, of any age: what is taken is the
// answer to the question, and no TTL has grown (RFC 8484 section 5.1).
func FuzzPosted(f *testing.F) {
	asked := pack(f, withEDNS(query("a.example.org", dns.TypeA), 1232))
	for age, wire := range map[string][]byte{
		"": respond(f, asked, nil, good), "3": respond(f, asked, nil, good), "99999999999": respond(f, asked, nil), "-1": bytes.Clone(asked),
	} {
		setID(wire, 0)
		f.Add(wire, age)
	}
	f.Fuzz(func(t *testing.T, wire []byte, age string) {
		req, err := newRequest(packet{wire: asked, local: loopback})
		if err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(wire)
		m, err := readPosted(wire, req, age)
		if err != nil {
			return
		}
		if !m.isResponse() || m.id() != 0 {
			t.Errorf("%x is taken for an answer", before)
		}
		for i, at := range m.ttls() {
			was, is := binary.BigEndian.Uint32(before[at:]), binary.BigEndian.Uint32(m.wire[at:])
			if is > was {
				t.Errorf("TTL %d grows from %d to %d", i, was, is)
			}
		}
	})
}
