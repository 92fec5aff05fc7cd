package differential_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/phantom-token/phantom"
)

// go-oidc's key sets fit as they are.
var (
	_ phantom.KeySet = (*oidc.StaticKeySet)(nil)
	_ phantom.KeySet = (*oidc.RemoteKeySet)(nil)
	_ oidc.KeySet    = phantom.KeySet(nil)
)

// faults are JWTs that no key set may let pass.
func faults() map[string]string {
	good := mint(jose.ES256)
	body, sig, _ := strings.Cut(good[strings.IndexByte(good, '.')+1:], ".")
	head, _, _ := strings.Cut(good, ".")
	other := compact(jose.ES256, `{"alg":"ES256","kid":"k-ES256"}`, strings.Replace(goodPayload(), "alice", "mallory", 1))
	otherBody := strings.Split(other, ".")[1]
	return map[string]string{
		"another payload":     head + "." + otherBody + "." + sig,
		"another header":      b64([]byte(`{"alg":"ES384","kid":"k-ES384"}`)) + "." + body + "." + sig,
		"zeros":               head + "." + body + "." + b64(make([]byte, 64)),
		"unknown kid":         compact(jose.ES256, `{"alg":"ES256","kid":"unknown"}`, strings.Replace(goodPayload(), issuer, "https://evil.test", 1)),
		"none":                b64([]byte(`{"alg":"none"}`)) + "." + body + ".AAAA",
		"another issuer":      compact(jose.ES256, `{"alg":"ES256","kid":"k-ES256"}`, strings.Replace(goodPayload(), issuer, "https://evil.test", 1)),
		"another algorithm's": compact(jose.ES384, `{"alg":"ES256","kid":"k-ES256"}`, goodPayload()),
	}
}

func TestStaticKeySet(t *testing.T) {
	m := middleware(t, phantom.WithKeySet(&oidc.StaticKeySet{PublicKeys: publicKeys()}))
	for _, alg := range algorithms {
		wants(t, m, mint(alg), 200)
	}
	for name, jwt := range faults() {
		t.Run(name, func(t *testing.T) { wants(t, m, jwt, 401) })
	}
	t.Run("malformed", func(t *testing.T) { wants(t, m, mint(jose.ES256)+"=", 502) })
	t.Run("no keys", func(t *testing.T) {
		wants(t, middleware(t, phantom.WithKeySet(&oidc.StaticKeySet{})), mint(jose.ES256), 401)
	})
}

// And the other way round.
func TestStaticKeysInGoOIDC(t *testing.T) {
	verifier := oidc.NewVerifier(issuer, phantom.StaticKeys(publicKeys()...), &oidc.Config{
		ClientID: audience, SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256, oidc.EdDSA},
	})
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		tok, err := verifier.Verify(t.Context(), mint(alg))
		if err != nil || tok.Subject != "alice" {
			t.Errorf("%s: %v, %v", alg, tok, err)
		}
	}
	for name, jwt := range faults() {
		if _, err := verifier.Verify(t.Context(), jwt); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A keyServer is a JWKS endpoint on the loopback interface.
type keyServer struct {
	*httptest.Server
	handler atomic.Pointer[http.HandlerFunc]
	fetches atomic.Int64
}

func newKeyServer(t *testing.T, h http.HandlerFunc) *keyServer {
	s := &keyServer{}
	s.answer(h)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		(*s.handler.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) answer(h http.HandlerFunc) { s.handler.Store(&h) }

func TestRemoteKeySet(t *testing.T) {
	server := newKeyServer(t, serveJSON(jwkSet()))
	m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)))
	for _, alg := range algorithms {
		wants(t, m, mint(alg), 200)
	}
	if n := server.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	for name, jwt := range faults() {
		t.Run(name, func(t *testing.T) { wants(t, m, jwt, 401) })
	}
}

func TestRemoteKeySetDown(t *testing.T) {
	t.Run("from the start", func(t *testing.T) {
		server := newKeyServer(t, serveJSON(jwkSet()))
		server.Close()
		m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)))
		wants(t, m, mint(jose.ES256), 503)
		wants(t, m, faults()["zeros"], 503) // nobody can say that it is bad
	})
	t.Run("later", func(t *testing.T) {
		server := newKeyServer(t, serveJSON(jwkSet()))
		m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)))
		wants(t, m, mint(jose.ES256), 200)
		server.Close()
		wants(t, m, mint(jose.ES384), 200)
		wants(t, m, faults()["unknown kid"], 503)
	})
	t.Run("hanging", func(t *testing.T) {
		release := make(chan struct{})
		server := newKeyServer(t, func(http.ResponseWriter, *http.Request) { <-release })
		defer close(release)
		m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)), phantom.WithTimeout(50*time.Millisecond))
		wants(t, m, mint(jose.ES256), 503)
	})
	t.Run("broken connection", func(t *testing.T) {
		server := newKeyServer(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)))
		wants(t, m, mint(jose.ES256), 503)
		server.answer(serveJSON(jwkSet()))
		recovers(t, m)
	})
}

// go-oidc reports a status as plain text, which cannot be told from a bad
// signature. A transport that makes an error of it has it answered as the
// outage that it is.
func TestRemoteKeySetStatus(t *testing.T) {
	server := newKeyServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	ctx := oidc.ClientContext(t.Context(), &http.Client{Transport: onlyOK{http.DefaultTransport}})
	m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(ctx, server.URL)))
	wants(t, m, mint(jose.ES256), 503)
	server.answer(serveJSON(jwkSet()))
	recovers(t, m)
	wants(t, m, faults()["zeros"], 401)
}

// recovers waits for the end of an earlier fetch: go-oidc tells its waiters of
// the result a moment before it permits another fetch.
func recovers(t *testing.T, m *phantom.Middleware) {
	t.Helper()
	for range 1000 {
		if status, _, _ := get(m, mint(jose.ES256)); status == http.StatusOK {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("still not verified")
}

// onlyOK is a transport for which every other status is a failure.
type onlyOK struct{ http.RoundTripper }

func (t onlyOK) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close()
	return nil, errors.New("key set: " + resp.Status)
}

func TestRemoteKeySetRotation(t *testing.T) {
	all := jwkSet()
	server := newKeyServer(t, serveJSON(jose.JSONWebKeySet{Keys: all.Keys[:1]}))
	m := middleware(t, phantom.WithKeySet(oidc.NewRemoteKeySet(t.Context(), server.URL)))
	wants(t, m, mint(jose.RS256), 200)
	wants(t, m, mint(jose.ES256), 401)
	server.answer(serveJSON(all))
	recovers(t, m)
	wants(t, m, mint(jose.RS256), 200)
}
