//go:debug x509usefallbackroots=1
package conformance_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// testCA stands in for the machine's roots, so that the library's own transport
// trusts the tests' servers without being told.
var testCA = newCA("test root")

func init() {
	roots := x509.NewCertPool()
	roots.AddCert(testCA.certificate)
	x509.SetFallbackRoots(roots)
}

type certificateAuthority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newCA(name string) *certificateAuthority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &certificateAuthority{must(x509.ParseCertificate(der)), key}
}

// issue makes a certificate for 127.0.0.1 and as.example.test; change may spoil
// it.
func (ca *certificateAuthority) issue(change func(*x509.Certificate)) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"as.example.test"},
	}
	if change != nil {
		change(template)
	}
	der := must(x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func selfSigned() tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}} //nolint:gosec // some tests want less
}

// trusting is a transport of the caller's that trusts the CA.
func trusting(ca *certificateAuthority) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

// The client asks a server with a good certificate, over the TLS version
// that the server has, and on one connection.
//
// Catalogue: N266.
func TestTrustedTLSServerIsAsked(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*tls.Config)
	}{
		{"as is", func(*tls.Config) {}},
		{"TLS 1.2 only", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		{"TLS 1.3 only", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
		{"asks for a certificate", func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := mint("ES256", claims(nil))
			config := serverTLS(testCA.issue(nil))
			tc.change(config)
			s := listenAt(t, "127.0.0.1:0", config, func(p *peer) {
				p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
			})
			m := as.networked(s.url())
			for i := range 3 {
				if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
					t.Errorf("%s, log:\n%s", got, as.logs.String())
				}
			}
			if n := s.opened.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// A server with faulty TLS gets no token: not by another version, not in
// plain text, and not on a second try.
//
// Catalogue: N266.
func TestUntrustedTLSServerGetsNoToken(t *testing.T) {
	otherCA := newCA("another root")
	for _, tc := range []struct {
		name        string
		config      *tls.Config
		change      func(*tls.Config)
		connections int64
		fault       string
	}{
		{"expired", serverTLS(testCA.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), nil, 1, ": certificate expired or not yet valid"},
		{"not yet valid", serverTLS(testCA.issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })), nil, 1, ": certificate expired or not yet valid"},
		{"wrong host", serverTLS(testCA.issue(func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"other.example.test\nlevel=INFO msg=forged"}
		})), nil, 1, ": certificate for another host"},
		{"another address", serverTLS(testCA.issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} })), nil, 1, ": certificate for another host"},
		{"the host in the common name only", serverTLS(testCA.issue(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, nil })), nil, 1, ": certificate for another host"},
		{"self-signed", serverTLS(selfSigned()), nil, 1, ": certificate of an unknown authority"},
		{"unknown authority", serverTLS(otherCA.issue(nil)), nil, 1, ": certificate of an unknown authority"},
		{"for clients only", serverTLS(testCA.issue(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})), nil, 1, ": certificate not valid"},
		{"TLS 1.1 only", serverTLS(testCA.issue(nil)), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, 2, ""},
		{"TLS 1.0 only", serverTLS(testCA.issue(nil)), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, 2, ""},
		{"demands a certificate", serverTLS(testCA.issue(nil)), func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, 2, ""},
		{"demands a certificate, TLS 1.2", serverTLS(testCA.issue(nil)), func(c *tls.Config) {
			c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}, 2, ""},
	} {
		for _, client := range []struct {
			name    string
			options []phantom.Option
		}{
			{"own transport", nil},
			{"given transport", []phantom.Option{phantom.WithHTTPClient(trusting(testCA))}},
			{"insecure http too", []phantom.Option{phantom.WithInsecureHTTP()}},
		} {
			t.Run(tc.name+", "+client.name, func(t *testing.T) {
				leaveNothing(t)
				as := newAS(t)
				good := mint("ES256", claims(nil))
				config := tc.config.Clone()
				if tc.change != nil {
					tc.change(config)
				}
				s := listenAt(t, "127.0.0.1:0", config, func(p *peer) {
					p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
				})
				m := as.networked(s.url(), client.options...)
				if got := as.try(m, "opaque-token"); got != code503A {
					t.Error(got)
				}
				if n := s.lookups.Load(); n != 0 {
					t.Errorf("%d requests reached the server", n)
				}
				if n := s.opened.Load(); n > tc.connections {
					t.Errorf("%d connections", n)
				}
				if as.logged("ERROR", "reason=as_unavailable issuer=https://as.test detail="+quoted("TLS"+tc.fault)+" ") != 1 {
					t.Errorf("log:\n%s", as.logs.String())
				}
			})
		}
	}
}

// quoted is how slog writes a text.
func quoted(text string) string {
	if strings.Contains(text, " ") {
		return strconv.Quote(text)
	}
	return text
}

// Only a transport that was told of a private authority trusts it.
//
// Catalogue: N266.
func TestPrivateAuthorityIsTrustedByItsTransportAlone(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	private := newCA("a private root")
	good := mint("ES256", claims(nil))
	s := listenAt(t, "127.0.0.1:0", serverTLS(private.issue(nil)), func(p *peer) {
		p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
	})
	if got := as.try(as.networked(s.url()), "opaque-token"); got != code503A {
		t.Error(got)
	}
	if got := as.try(as.networked(s.url(), phantom.WithHTTPClient(trusting(private))), "opaque-token"); got != codeOK {
		t.Error(got)
	}
}

// Keys are worth as much as the channel that they come through. The client
// fetches none from a server with a faulty certificate.
//
// Catalogue: N266.
func TestUntrustedKeySetIsNotFetched(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenAt(t, "127.0.0.1:0", serverTLS(testCA.issue(nil)), func(p *peer) {
		p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
	})
	keys := listenAt(t, "127.0.0.1:0", serverTLS(selfSigned()), func(p *peer) {
		p.serve(func(string) string { return rawAnswer(200, "application/jwk-set+json", allKeys()) })
	})
	m, err := phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospectionEndpoint(s.url()+endpointPath), phantom.WithJWKSURL(keys.url()+jwksPath),
		phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got := as.try(m, "opaque-token"); got != code503A {
		t.Error(got)
	}
	if n := keys.lookups.Load(); n != 0 {
		t.Errorf("%d requests for the keys", n)
	}
}

// The caller's transport presents the client certificate. The request then
// carries the client's name and no other credential.
//
// Catalogue: N266.
func TestClientCertificateAuthenticates(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	clientCert := testCA.issue(func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	config := serverTLS(testCA.issue(nil))
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = x509.NewCertPool()
	config.ClientCAs.AddCert(testCA.certificate)
	var form atomic.Value
	s := listenAt(t, "127.0.0.1:0", config, func(p *peer) {
		p.serve(func(string) string {
			form.Store(p.form.Get("client_id") + "/" + p.form.Get("client_secret") + "/" + p.req.Header.Get("Authorization"))
			return rawAnswer(200, "application/jwt", good)
		})
	})
	client := trusting(testCA)
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{clientCert}
	m := as.networked(s.url(), phantom.WithHTTPClient(client), phantom.WithClientAuth(phantom.TLSClientAuth(clientID)))
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s, log:\n%s", got, as.logs.String())
	}
	if got := form.Load(); got != clientID+"//" {
		t.Errorf("credentials %q", got)
	}
}

// A fault in the handshake or in the records costs one lookup, and the next
// one is served.
func TestTLSFaultsLeaveNothingBehind(t *testing.T) {
	for _, tc := range []struct {
		name  string
		want  string
		hangs bool
		fault func(p *peer, good string)
	}{
		{"closed in the handshake", code503A, false, func(p *peer, _ string) { _, _ = p.tcp.Read(make([]byte, 1)) }},
		{"reset in the handshake", code503A, false, func(p *peer, _ string) { _, _ = p.tcp.Read(make([]byte, 1)); p.reset() }},
		{"silent in the handshake", code503A, true, func(p *peer, _ string) {
			for b := make([]byte, 4096); ; {
				if _, err := p.tcp.Read(b); err != nil {
					return
				}
			}
		}},
		{"HTTP in the handshake", code503A, false, func(p *peer, _ string) {
			_, _ = p.tcp.Read(make([]byte, 1))
			_, _ = p.tcp.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" +
				"Client sent an HTTP request to an HTTPS server.\n"))
		}},
		{"noise in the handshake", code503A, false, func(p *peer, _ string) {
			_, _ = p.tcp.Read(make([]byte, 1))
			_, _ = p.tcp.Write([]byte(strings.Repeat("\x16\x03\x03\xff\xff", 100)))
		}},
		{"an alert in the handshake", code503A, false, func(p *peer, _ string) {
			_, _ = p.tcp.Read(make([]byte, 1))
			_, _ = p.tcp.Write([]byte("\x15\x03\x03\x00\x02\x02\x28"))
		}},
		{"cut inside a TLS record", code503A, false, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good)
			_, _ = p.tcp.Write([]byte("\x17\x03\x03\x01\x00cut"))
			_ = p.tcp.Close()
		}}, // N270
		{"to the end of the connection", codeOK, false, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good)
		}},
		{"noise in the middle of the body", code503A, false, func(p *peer, good string) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 5000\r\n\r\n" + good)
			_, _ = p.tcp.Write([]byte(strings.Repeat("noise", 1000)))
			_, _ = p.tcp.Read(make([]byte, 1))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			var healthy atomic.Bool
			s := listenAt(t, "127.0.0.1:0", serverTLS(testCA.issue(nil)), func(p *peer) {
				if healthy.Load() {
					p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
					return
				}
				tc.fault(p, good)
			})
			limit := 20 * time.Second
			if tc.hangs {
				limit = 150 * time.Millisecond
			}
			m := as.networked(s.url(), phantom.WithTimeout(limit), phantom.WithMaxInFlight(1))
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Errorf("%s, log:\n%s", got, as.logs.String())
			}
			if n := s.opened.Load(); n > 2 || s.lookups.Load() > 1 {
				t.Errorf("%d connections, %d attempts", n, s.lookups.Load())
			}
			eventually(t, "all connections closed", func() bool { return s.open.Load() == 0 })
			healthy.Store(true)
			as.recovers(m, tc.hangs)
		})
	}
}

// serveTLS is serveHTTP over TLS, for clients of HTTP/1.1 and HTTP/2.
func (as *fakeAS) serveTLS() (base string, opened, open *atomic.Int64) {
	s, opened, open := as.serveHTTP(func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS = serverTLS(testCA.issue(nil))
		s.StartTLS()
	})
	return s.URL, opened, open
}
