package differential_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/phantom-token/phantom"
)

const (
	issuer   = "https://as.test"
	audience = "https://rs.test"
)

// algorithms are all that phantom verifies; go-jose is given the same list.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keyFor returns the key that signs with alg.
func keyFor(alg jose.SignatureAlgorithm) crypto.Signer {
	switch alg {
	case jose.ES256:
		return p256Key()
	case jose.ES384:
		return p384Key()
	case jose.ES512:
		return p521Key()
	case jose.EdDSA:
		return edKey()
	}
	return rsaKey()
}

func publicKeys() []crypto.PublicKey {
	return []crypto.PublicKey{
		otherRSA().Public(), rsaKey().Public(), p256Key().Public(), p384Key().Public(), p521Key().Public(), edKey().Public(),
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// compact signs header and payload, whatever they are.
func compact(alg jose.SignatureAlgorithm, header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(must(signature(alg, keyFor(alg), input)))
}

// signature makes a signature of alg over input, whatever input is: a signer of
// a JOSE library would not take most of it.
func signature(alg jose.SignatureAlgorithm, key crypto.Signer, input string) ([]byte, error) {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[string(alg[2:])]
	if alg == jose.EdDSA {
		return key.Sign(rand.Reader, []byte(input), crypto.Hash(0))
	}
	h := hash.New()
	h.Write([]byte(input))
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if alg[0] == 'P' {
			return rsa.SignPSS(rand.Reader, k, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, k, hash, h.Sum(nil))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, h.Sum(nil))
		if err != nil {
			return nil, err
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...), nil
	}
	return nil, fmt.Errorf("no such key: %T", key)
}

// goodPayload are the claims of an access token that is good for a while.
func goodPayload() string {
	return fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"alice","exp":%d}`, issuer, audience, time.Now().Unix()+300)
}

func mint(alg jose.SignatureAlgorithm) string {
	return compact(alg, fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, "k-"+alg), goodPayload())
}

// jwkSet is the key set of a server that signs with every algorithm.
func jwkSet() jose.JSONWebKeySet {
	var set jose.JSONWebKeySet
	for _, alg := range algorithms {
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: keyFor(alg).Public(), KeyID: "k-" + string(alg), Algorithm: string(alg), Use: "sig",
		})
	}
	return set
}

// An introspector answers each opaque token with a JWT of its own.
type introspector struct {
	jwts sync.Map
	last atomic.Int64
}

// tokenOf returns a new opaque token for the JWT.
func (i *introspector) tokenOf(jwt string) string {
	token := fmt.Sprint("opaque-", i.last.Add(1))
	i.jwts.Store(token, jwt)
	return token
}

func (i *introspector) Introspect(_ context.Context, token string) (*phantom.Introspection, error) {
	jwt, known := i.jwts.LoadAndDelete(token)
	if !known { // Warm's
		return &phantom.Introspection{}, nil
	}
	return &phantom.Introspection{Active: true, JWT: jwt.(string)}, nil
}

var swap introspector

// middleware returns a Middleware that judges the JWT behind a token of swap.
func middleware(tb testing.TB, options ...phantom.Option) *phantom.Middleware {
	tb.Helper()
	m, err := phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience),
		phantom.WithIntrospector(&swap), phantom.WithCacheSize(0),
	}, options...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func verify(ctx context.Context, m *phantom.Middleware, jwt string) (*phantom.Token, error) {
	return m.Verify(ctx, swap.tokenOf(jwt))
}

// get sends a request whose token is swapped for jwt, and returns the status
// and the two fields that go with it.
func get(m *phantom.Middleware, jwt string) (status int, challenge, retryAfter string) {
	r := httptest.NewRequest(http.MethodGet, audience, nil)
	r.Header.Set("Authorization", "Bearer "+swap.tokenOf(jwt))
	rec := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+jwt {
			w.WriteHeader(http.StatusTeapot)
		}
	})).ServeHTTP(rec, r)
	return rec.Code, rec.Header().Get("WWW-Authenticate"), rec.Header().Get("Retry-After")
}

// wants checks the answer to a request with jwt.
func wants(t *testing.T, m *phantom.Middleware, jwt string, status int) {
	t.Helper()
	challenge, retry := "", ""
	switch status {
	case 401:
		challenge = `Bearer realm="api", error="invalid_token"`
	case 503:
		retry = "1"
	}
	if s, c, r := get(m, jwt); s != status || c != challenge || r != retry {
		t.Errorf("%d, challenge %q, Retry-After %q; want %d, %q, %q", s, c, r, status, challenge, retry)
	}
}

// serveJSON answers with a JSON document.
func serveJSON(v any) http.HandlerFunc {
	body := must(json.Marshal(v))
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}
}
