package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// notAFlag is about an argument that is not quoted.
const notAFlag = `
	argument %d or the one behind it is no flag, or has no value: see gateway -h`

// storeSecret is what replicas share.
const storeSecret = "the-secret-of-the-store-has-more-than-32-bytes"

// Mistakes are reported together, and none of them starts a gateway. Nor do
// they quote what may be a secret in the wrong place.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secretFile, emptyFile := file("secret", clientSecret+"\n"), file("empty", "\r\n")
	secret := "PHANTOM_CLIENT_SECRET" + "=" + clientSecret
	// With these and a secret there is nothing wrong.
	good := []string{
		"-listen=127.0.0.1:0", "-health-listen=127.0.0.1:0", "-upstream=http://127.0.0.1:1",
		"-issuer=https://as.test", "-audience=" + audience, "-client-id=" + clientID,
	}
	with := func(args ...string) []string { return append(slices.Clip(good), args...) }

	for _, test := range []struct {
		name string
		args []string
		env  []string
		want string // on stderr, without "gateway: " in front of each line
	}{
		{"nothing given", nil, nil, `
			-upstream (PHANTOM_UPSTREAM): is required
			-issuer (PHANTOM_ISSUER): is required
			-audience (PHANTOM_AUDIENCE): is required
			-client-id (PHANTOM_CLIENT_ID): is required with -client-auth basic`},
		{"words", []string{
			"-upstream", "ftp://files", "-scopes", `read "write`, "-client-auth", "Basic", "-mode=opaque", "-log-level=all",
			"-log-format=xml", "-public-paths", "/a /b/../c /d%41 e /f/ /g?h", "-issuer=https://as.test", "-audience=a",
		}, nil, `
			-client-auth (PHANTOM_CLIENT_AUTH): "Basic" is not basic|post|private_key_jwt|tls|none
			-mode (PHANTOM_MODE): "opaque" is not jwt|mint|exchange|claims
			-log-level (PHANTOM_LOG_LEVEL): "all" is not debug|info|warn|error
			-log-format (PHANTOM_LOG_FORMAT): "xml" is not json|text
			-upstream (PHANTOM_UPSTREAM): "ftp://files" is not http or https with a host, a port and no more
			-public-paths (PHANTOM_PUBLIC_PATHS): "/b/../c" is not a path as clients send it
			-public-paths (PHANTOM_PUBLIC_PATHS): "/d%41" is not a path as clients send it
			-public-paths (PHANTOM_PUBLIC_PATHS): "e" is not a path as clients send it
			-public-paths (PHANTOM_PUBLIC_PATHS): "/g?h" is not a path as clients send it
			-scopes (PHANTOM_SCOPES): "\"write" is not a scope`},
		{"numbers", with("-max-ttl", "1 minute", "-cache-size=many", "-insecure-http=perhaps"), []string{secret, "PHANTOM_SHUTDOWN_TIMEOUT=soon"}, `
			-shutdown-timeout (PHANTOM_SHUTDOWN_TIMEOUT): is no value such as 30s
			-max-ttl (PHANTOM_MAX_TTL): is no value such as 1m0s
			-cache-size (PHANTOM_CACHE_SIZE): is no value such as 10000
			-insecure-http (PHANTOM_INSECURE_HTTP): is no value such as false`},
		{"what phantom refuses", append(with(
			"-introspection-endpoint", "/introspect", "-jwks-url", "https://as.test/#x", "-json-member", "active", "-max-ttl", "-5s",
			"-stale-if-error=-1s", "-timeout=0s", "-max-in-flight=0", "-cache-size=-1",
		), "-issuer", "http://as.test"), []string{secret}, `
			-issuer (PHANTOM_ISSUER): "http://as.test" is not https…
			-introspection-endpoint (PHANTOM_INTROSPECTION_ENDPOINT): "/introspect" is not an absolute URL…
			-json-member (PHANTOM_JSON_MEMBER): "active" cannot be the JWT's member…
			-jwks-url (PHANTOM_JWKS_URL): "https://as.test/" has a fragment…
			-cache-size (PHANTOM_CACHE_SIZE): -1 is negative…
			-max-ttl (PHANTOM_MAX_TTL): -5s is negative…
			-stale-if-error (PHANTOM_STALE_IF_ERROR): -1s is negative
			-timeout (PHANTOM_TIMEOUT): 0s is not positive…
			-max-in-flight (PHANTOM_MAX_IN_FLIGHT): 0 is not positive…`},
		// Flags are parsed from left to right. What is none may be a secret.
		{"no flag", with("one"), []string{secret}, fmt.Sprintf(notAFlag, 6)},
		{"unknown flag", with("-no-such-flag"), []string{secret}, fmt.Sprintf(notAFlag, 7)},
		{"no value", with("-audience"), []string{secret}, fmt.Sprintf(notAFlag, 7)},
		{"three hyphens", with("---hunter2"), []string{secret}, fmt.Sprintf(notAFlag, 6)},
		{"secret as a flag", with("-client-secret", clientSecret), nil, fmt.Sprintf(notAFlag, 7)},
		{"secret as a flag's value", with("-client-secret=" + clientSecret), nil, fmt.Sprintf(notAFlag, 7)},
		{"secret that begins like a flag", with("-hunter2"), nil, fmt.Sprintf(notAFlag, 7)},
		{"secret in place of its file", with("-client-secret-file", "hunter2"), nil, `
			-client-secret-file (PHANTOM_CLIENT_SECRET_FILE): no such file or directory
			-client-secret-file (PHANTOM_CLIENT_SECRET_FILE): no secret there, nor in PHANTOM_CLIENT_SECRET`},
		{"key in place of its file", with("-client-auth=private_key_jwt", "-key-file=-----BEGIN PRIVATE KEY-----hunter2"), nil, `
			-key-file (PHANTOM_KEY_FILE): no such file or directory`},
		{"no key in the file", with("-client-auth=private_key_jwt", "-key-file="+secretFile), nil, `
			-key-file (PHANTOM_KEY_FILE): has no private key in PEM; see openssl genpkey`},
		{"secret in place of a number", with("-max-in-flight=hunter2"), []string{secret, "PHANTOM_TIMEOUT=hunter2"}, `
			-timeout (PHANTOM_TIMEOUT): is no value such as 3s
			-max-in-flight (PHANTOM_MAX_IN_FLIGHT): is no value such as 64`},
		{"two secrets", with("-client-secret-file", secretFile), []string{secret}, `
			-client-secret-file (PHANTOM_CLIENT_SECRET_FILE): excludes PHANTOM_CLIENT_SECRET`},
		{"no secret", good, nil, `
			-client-secret-file (PHANTOM_CLIENT_SECRET_FILE): no secret there, nor in PHANTOM_CLIENT_SECRET`},
		{"empty file", with("-client-secret-file", emptyFile), nil, `
			-client-secret-file (PHANTOM_CLIENT_SECRET_FILE): no secret there, nor in PHANTOM_CLIENT_SECRET`},
		{"method without a client", with("-client-auth", "none", "-key-id=1"), nil, `
			-client-id (PHANTOM_CLIENT_ID): is of no use with -client-auth none
			-key-id (PHANTOM_KEY_ID): is of no use with -client-auth none`},
		{"methods without their files", with("-client-auth", "tls"), nil, `
			-key-file (PHANTOM_KEY_FILE): is required with -client-auth tls
			-cert-file (PHANTOM_CERT_FILE): is required with -client-auth tls`},
		{"password of the upstream", with("-upstream", "http://user:"+clientSecret+"@api"), []string{secret}, `
			-upstream (PHANTOM_UPSTREAM): has credentials`},
		{"password without scheme", with("-upstream", "user:hunter2@api:80"), []string{secret}, `
			-upstream (PHANTOM_UPSTREAM): has credentials`},
		{"password of the issuer", with("-issuer", "https://user:hunter2@as.test"), []string{secret}, `
			-issuer (PHANTOM_ISSUER): "…@as.test" has credentials in the URL`},
		{"path of the upstream", with("-upstream", "http://api/v1"), []string{secret}, `
			-upstream (PHANTOM_UPSTREAM): "http://api/v1" is not http or https with a host, a port and no more`},
		{"upstream is not a URL", with("-upstream", "http://a b"), []string{secret}, `
			-upstream (PHANTOM_UPSTREAM): "http://a b" is not http or https with a host, a port and no more`},
		{"upstream without scheme", with("-upstream", "api:80"), []string{secret}, `
			-upstream (PHANTOM_UPSTREAM): "api:80" is not http or https with a host, a port and no more`},
		{"key without certificate", with("-tls-key", secretFile), []string{secret}, `
			-tls-cert (PHANTOM_TLS_CERT): is required too`},
		{"certificate without key", with("-tls-cert", secretFile), []string{secret}, `
			-tls-key (PHANTOM_TLS_KEY): is required too`},
		{"no files of the certificate", with("-tls-cert=hunter2", "-tls-key=hunter2"), []string{secret}, `
			-tls-cert (PHANTOM_TLS_CERT): no such file or directory
			-tls-key (PHANTOM_TLS_KEY): no such file or directory`},
		{"no certificate in the file", with("-tls-cert", secretFile, "-tls-key", secretFile), []string{secret}, `
			-tls-cert (PHANTOM_TLS_CERT): with -tls-key: tls: failed to find any PEM data in certificate input`},
		{"store without its secret", with("-store=valkey:6379"), []string{secret}, `
			-store-secret-file (PHANTOM_STORE_SECRET_FILE): no secret there, nor in PHANTOM_STORE_SECRET`},
		{"short secret of the store", with("-store=valkey:6379"), []string{secret, "PHANTOM_STORE_SECRET=hunter2"}, `
			-store-secret-file (PHANTOM_STORE_SECRET_FILE): a secret of 7 bytes; it must have at least 32…`},
		{"store is not an address", with("-store=http://u:hunter2@valkey"), []string{secret, "PHANTOM_STORE_SECRET=" + storeSecret}, `
			-store (PHANTOM_STORE): is not host:port, or a URL such as rediss://host:port`},
		{"password of the store", with("-store=redis://u:hunter2@valkey:6379"), []string{secret, "PHANTOM_STORE_SECRET=" + storeSecret}, `
			-store (PHANTOM_STORE): has a password: set PHANTOM_STORE instead`},
		{"origin of proofs", with("-dpop-origin=http://api.test"), []string{secret}, `
			-dpop-origin (PHANTOM_DPOP_ORIGIN): the origin "http://api.test" is not https`},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := launch(t, test.args, test.env)
			if code := g.wait(t); code != 2 {
				t.Errorf("exit status %d", code)
			}
			g.complains(t, test.want)
			if output := g.stdout.String() + g.stderr.String(); strings.Contains(output, clientSecret) || strings.Contains(output, "hunter2") {
				t.Errorf("the secret is in\n%s", output)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-help"}, {"--help"}, {"-h"}, {"-listen", "nowhere", "-help"}} {
		g := launch(t, args, nil)
		if code := g.wait(t); code != 0 || g.stderr.String() != "" {
			t.Errorf("%q: exit status %d\n%s", args, code, &g.stderr)
		}
		for _, line := range []string{
			"  -upstream URL                   its scheme, host and port; required\n", "PHANTOM_CLIENT_SECRET", " (1m0s)\n", "\nTokens:\n",
		} {
			if !strings.Contains(g.stdout.String(), line) {
				t.Errorf("%q: no %q in\n%s", args, line, &g.stdout)
			}
		}
		if strings.Contains(g.stdout.String(), "[]") || strings.Contains(g.stdout.String(), "()") {
			t.Errorf("an empty default in\n%s", &g.stdout)
		}
		if lines := strings.Count(g.stdout.String(), "\n"); lines > 66 {
			t.Errorf("%d lines are more than a page", lines)
		}
		for line := range strings.Lines(g.stdout.String()) {
			if len(line) > 110 {
				t.Errorf("a long line: %s", line)
			}
		}
	}
}

func TestCannotListen(t *testing.T) {
	s := newSite(t)
	taken := strings.TrimPrefix(s.upstream.URL, "http://")
	for _, flag := range []string{"-listen", "-health-listen"} {
		g := launch(t, []string{
			"-listen", "127.0.0.1:0", "-health-listen", "127.0.0.1:0", "-upstream", s.upstream.URL,
			"-issuer", s.issuer, "-audience", audience, "-client-id", clientID, flag, taken,
		}, []string{"PHANTOM_CLIENT_SECRET" + "=" + clientSecret})
		if code := g.wait(t); code != 1 {
			t.Errorf("%s: exit status %d", flag, code)
		}
		if got, want := g.await(t, "cannot serve")["error"], flag+": listen tcp "+taken+": bind: address already in use"; got != want {
			t.Errorf("%s: error %v, want %s", flag, got, want)
		}
	}
}

// The settings do what they say.
func TestSettings(t *testing.T) {
	t.Run("environment", func(t *testing.T) {
		s := newSite(t)
		g := s.startWith(t, nil, []string{
			"PHANTOM_LISTEN=127.0.0.1:0", "PHANTOM_HEALTH_LISTEN=127.0.0.1:0", "PHANTOM_UPSTREAM=" + s.upstream.URL + "/",
			"PHANTOM_ISSUER=" + s.issuer, "PHANTOM_AUDIENCE=other " + audience, "PHANTOM_CLIENT_ID=" + clientID,
			"PHANTOM_SCOPES=read", "PHANTOM_CLIENT_AUTH=post", "PHANTOM_MAX_TTL=30s", "PHANTOM_JSON_MEMBER=",
			"PHANTOM_CLIENT_SECRET" + "=" + clientSecret,
		})
		g.get(t, "/", s.issue(nil)).served(t)
	})

	t.Run("a flag wins", func(t *testing.T) {
		s := newSite(t)
		g := s.startWith(t, []string{
			"-listen", "127.0.0.1:0", "-health-listen", "127.0.0.1:0", "-upstream", s.upstream.URL, "-issuer", s.issuer,
			"-audience", audience, "-client-id", clientID,
		}, []string{
			"PHANTOM_UPSTREAM=http://127.0.0.1:1", "PHANTOM_ISSUER=https://other.test", "PHANTOM_AUDIENCE=other",
			"PHANTOM_CLIENT_ID=other", "PHANTOM_CLIENT_SECRET" + "=" + clientSecret,
		})
		g.get(t, "/", s.issue(nil)).served(t)
	})

	t.Run("secret file", func(t *testing.T) {
		for _, end := range []string{"", "\n", "\r\n"} {
			s := newSite(t)
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(clientSecret+end), 0o600); err != nil {
				t.Fatal(err)
			}
			g := s.start(t, map[string]string{"client-secret-file": path})
			g.get(t, "/", s.issue(nil)).served(t)
		}
	})

	t.Run("client authentication", func(t *testing.T) {
		for method, want := range map[string]string{"basic": "header", "post": "form", "none": "nothing"} {
			s := newSite(t)
			sent := make(chan string, 16)
			s.asServer.be(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/introspect" {
					s.as.ServeHTTP(w, r)
					return
				}
				_, _, basic := r.BasicAuth()
				switch {
				case basic && r.PostFormValue("client_id")+r.PostFormValue("client_secret") == "":
					sent <- "header"
				case r.PostFormValue("client_id") == clientID && r.PostFormValue("client_secret") == clientSecret && r.Header.Get("Authorization") == "":
					sent <- "form"
				case r.PostFormValue("client_id")+r.PostFormValue("client_secret")+r.Header.Get("Authorization") == "":
					sent <- "nothing"
				default:
					sent <- "both"
				}
				if method == "none" { // as, behind, wants to know who asks
					r.SetBasicAuth("gateway+client", "s3cr3t%3A+100+%25+of%2Bthe%2Fgateway")
				}
				s.as.ServeHTTP(w, r)
			})
			changes := map[string]string{"client-auth": method}
			if method == "none" {
				changes["client-id"] = ""
			}
			s.start(t, changes).get(t, "/", s.issue(nil)).served(t)
			if got := <-sent; got != want {
				t.Errorf("%s sends %s", method, got)
			}
		}
	})

	t.Run("endpoints without metadata", func(t *testing.T) {
		s := newSite(t)
		s.asServer.be(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/.well-known/") {
				t.Errorf("%s is asked for", r.URL.Path)
			}
			s.as.ServeHTTP(w, r)
		})
		g := s.start(t, map[string]string{"introspection-endpoint": s.issuer + "/introspect", "jwks-url": s.issuer + "/jwks"})
		g.get(t, "/", s.issue(nil)).served(t)
	})

	t.Run("JSON member", func(t *testing.T) {
		s := newSite(t, phantomtest.WithJSONResponse("access"))
		g := s.start(t, map[string]string{"json-member": "access"})
		g.get(t, "/", s.issue(nil)).served(t)
	})

	t.Run("audience", func(t *testing.T) {
		s := newSite(t)
		g := s.start(t, map[string]string{"audience": "https://a.test https://b.test"})
		g.get(t, "/", s.issue(map[string]any{"aud": "https://b.test"})).served(t)
		g.get(t, "/", s.issue(nil)).rejected(t, 401, invalidToken)
	})

	t.Run("scopes", func(t *testing.T) {
		s := newSite(t)
		g := s.start(t, map[string]string{"scopes": "admin:all audit"})
		g.get(t, "/", s.issue(nil)).rejected(t, 403, `Bearer realm="api", error="insufficient_scope", scope="admin:all audit"`)
		s.upstream.untouched(t)
		for scope, status := range map[string]int{"audit read admin:all": 200, "audit read": 403, "admin:all auditor": 403} {
			if a := g.get(t, "/", s.issue(map[string]any{"scope": scope})); a.StatusCode != status {
				t.Errorf("%s: status %d", scope, a.StatusCode)
			}
		}
	})

	t.Run("max TTL", func(t *testing.T) {
		for ttl, seen := range map[string]bool{"0s": true, "1m": false} {
			s := newSite(t)
			g := s.start(t, map[string]string{"max-ttl": ttl})
			token := s.issue(nil)
			g.get(t, "/", token).served(t)
			s.as.Revoke(token)
			if a := g.get(t, "/", token); (a.StatusCode == http.StatusUnauthorized) != seen {
				t.Errorf("status %d after the revocation with -max-ttl %s", a.StatusCode, ttl)
			}
		}
	})
}

func TestTLS(t *testing.T) {
	cert, key, roots := makeCertificate(t)
	s := newSite(t)
	g := s.start(t, map[string]string{"tls-cert": cert, "tls-key": key})
	token := s.issue(nil)
	clientOf := func(http2 bool, newest uint16) *http.Client {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: newest},
			Protocols:       protocols,
		}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: patience}
	}
	request := func(method, token string) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), method, g.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		return req
	}

	for proto, http2 := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		t.Run(proto, func(t *testing.T) {
			client := clientOf(http2, tls.VersionTLS13)
			a := fetch(t, client, request("GET", token))
			a.served(t)
			if a.Proto != proto {
				t.Errorf("protocol %s", a.Proto)
			}
			r, _ := s.upstream.last(t)
			checkJWT(t, r)
			checkForwarded(t, r, "127.0.0.1", strings.TrimPrefix(g.url, "https://"), "https")
			fetch(t, client, request("GET", "")).rejected(t, 401, noToken)
			for _, method := range []string{"TRACE", "CONNECT"} { // P59
				if a := fetch(t, client, request(method, token)); a.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("%s: status %d", method, a.StatusCode)
				}
			}
		})
	}

	t.Run("old TLS", func(t *testing.T) {
		resp, err := clientOf(false, tls.VersionTLS11).Do(request("GET", token))
		if err == nil {
			_ = resp.Body.Close()
			t.Error("TLS 1.1 is good enough")
		}
	})

	t.Run("plain HTTP", func(t *testing.T) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(g.url, "https", "http", 1), nil)
		req.Header.Set("Authorization", "Bearer "+token)
		if a := fetch(t, client, req); a.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d", a.StatusCode)
		}
	})
	s.upstream.mu.Lock()
	defer s.upstream.mu.Unlock()
	if len(s.upstream.requests) > 0 {
		t.Errorf("%d more requests reached the upstream", len(s.upstream.requests))
	}
}

// makeCertificate makes a certificate for the loopback interface and returns the
// names of its files.
func makeCertificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), roots
}

// Until the authorization server answers, the log says why: once for each cause,
// not once for each try.
func TestNotReadyIsSaidOnceForEachCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var tries, status atomic.Int64
		auth, err := phantom.New(
			phantom.WithIssuer("https://as.test"), phantom.WithAudience(audience),
			phantom.WithIntrospectionEndpoint("https://as.test/introspect"), phantom.WithJWKSURL("https://as.test/jwks"),
			phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)), phantom.WithLogger(slog.New(slog.DiscardHandler)),
			phantom.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				tries.Add(1)
				return &http.Response{StatusCode: int(status.Load()), Header: http.Header{}, Body: http.NoBody, Request: r}, nil
			})}))
		if err != nil {
			t.Fatal(err)
		}
		s := &state{logger: slog.New(slog.NewTextHandler(&log, nil))}
		for _, code := range []int{http.StatusServiceUnavailable, http.StatusNotFound} {
			synctest.Wait()
			status.Store(int64(code))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			tries.Store(0)
			log.Reset()
			if s.warm(ctx, auth); s.ready.Load() || tries.Load() < 3 {
				t.Errorf("status %d: %d tries, ready: %v", code, tries.Load(), s.ready.Load())
			}
			last := ""
			for line := range strings.Lines(log.String()) {
				_, why, ok := strings.Cut(line, `msg="not ready" error=`)
				if !ok || why == last {
					t.Errorf("status %d: %q after %q", code, line, last)
				}
				last = why
			}
			if !strings.Contains(log.String(), fmt.Sprint("status ", code)) {
				t.Errorf("status %d: log %q", code, log.String())
			}
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An issuer whose metadata are wrong is an operator's mistake that shows at
// once in the log, not with the first client.
func TestWrongIssuer(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"issuer": s.issuer + "/other"})
	if line := g.await(t, "not ready"); line["level"] != "WARN" || !strings.Contains(line["error"].(string), "metadata") {
		t.Errorf("log line %v", line)
	}
	g.get(t, "/", s.issue(nil)).rejected(t, http.StatusBadGateway, "")
	g.stop(t, syscall.SIGTERM)
}
