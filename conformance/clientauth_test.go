package conformance_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// oneLookup makes one lookup with the client authentication and returns the
// request that reached the server.
func oneLookup(t *testing.T, auth phantom.ClientAuth) *http.Request {
	t.Helper()
	as := newAS(t)
	if got := as.try(as.middleware(phantom.WithClientAuth(auth)), "tok"); got != codeOK {
		t.Fatalf("outcome %s\n%s", got, as.logs.String())
	}
	return as.recorded(endpointPath)[0]
}

func TestClientSecretBasic(t *testing.T) {
	for _, c := range [][2]string{
		{"a:b", "p%w+d é"},
		{"app", "secret"},
		{"https://client.test/?a=b", "a&b=c;d"},
		{" ", "  "},
		{"a+b%2Bc", "%zz%"},
		{"ключ", "🔑\u2028"},
		{`"quoted"`, `back\slash`},
		{"~!*()'", ":::"},
		{"tab\tline\n", "\x00\x7f\xff"},
	} {
		r := oneLookup(t, phantom.ClientSecretBasic(c[0], c[1]))
		encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
		if !ok || len(r.Header["Authorization"]) != 1 {
			t.Fatalf("A120 Authorization %q", r.Header["Authorization"])
		}
		// As a server does it that follows RFC 6749 section 2.3.1.
		user, password, _ := strings.Cut(string(must(base64.StdEncoding.DecodeString(encoded))), ":")
		for _, part := range []string{user, password} {
			if strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~*+%") != "" {
				t.Errorf("A120 %q is not form-encoded", part)
			}
		}
		if id, secret := must(url.QueryUnescape(user)), must(url.QueryUnescape(password)); id != c[0] || secret != c[1] {
			t.Errorf("A120 the server reads %q and %q, want %q", id, secret, c)
		}
		if len(r.PostForm) != 2 {
			t.Errorf("A120 more than one method: %v", r.PostForm)
		}
	}
}

func TestClientSecretPost(t *testing.T) {
	r := oneLookup(t, phantom.ClientSecretPost("a:b", "p%w+d é&client_id=x"))
	want := url.Values{
		"token": {"tok"}, "token_type_hint": {"access_token"},
		"client_id": {"a:b"}, "client_secret": {"p%w+d é&client_id=x"},
	}
	if !maps.EqualFunc(r.PostForm, want, slices.Equal) {
		t.Errorf("A121 form %v", r.PostForm)
	}
	if r.Header["Authorization"] != nil || r.URL.RawQuery != "" {
		t.Errorf("A121 Authorization %q, query %q", r.Header["Authorization"], r.URL.RawQuery)
	}

	// Nor does it get out when the transport quotes all that it was given.
	for name, fail := range map[string]func(body string) error{
		"A121 a plain error":  func(body string) error { return errors.New("cannot send " + body) },
		"A121 a url.Error":    func(body string) error { return &url.Error{Op: "Post", URL: "https://x?" + body, Err: io.EOF} },
		"A121 an unavailable": func(body string) error { return fmt.Errorf("%s: %w", body, phantom.ErrUnavailable) },
	} {
		as := newAS(t)
		m := as.middleware(
			phantom.WithClientAuth(phantom.ClientSecretPost(clientID, clientSecret)),
			phantom.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, fail(string(must(io.ReadAll(r.Body))))
			})}),
		)
		if got := as.try(m, "token-of-alice"); got != code503A {
			t.Errorf("%s: %s", name, got)
		}
		_, err := m.Verify(t.Context(), "token-of-alice")
		if as.leaks(fmt.Sprintf("%v %+v", err, err)) != nil {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// handle is a private key of which nothing is known but what crypto.Signer
// says, such as one in hardware.
type handle struct{ crypto.Signer }

// claimsOf verifies an assertion with the standard library and returns its
// claims.
func claimsOf(t *testing.T, jwt, alg, keyID string, public crypto.PublicKey) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("assertion of %d parts", len(parts))
	}
	var header map[string]string
	if err := json.Unmarshal(must(base64.RawURLEncoding.Strict().DecodeString(parts[0])), &header); err != nil {
		t.Fatal(err)
	}
	wantHeader := map[string]string{"alg": alg, "kid": keyID, "typ": "JWT"}
	if keyID == "" {
		delete(wantHeader, "kid")
	}
	if !maps.Equal(header, wantHeader) {
		t.Errorf("header %v, want %v", header, wantHeader)
	}
	sig := must(base64.RawURLEncoding.Strict().DecodeString(parts[2]))
	input := parts[0] + "." + parts[1]
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	var digest []byte
	if hash != 0 {
		h := hash.New()
		h.Write([]byte(input))
		digest = h.Sum(nil)
	}
	good := false
	switch key := public.(type) {
	case *rsa.PublicKey:
		if alg[0] == 'P' {
			good = rsa.VerifyPSS(key, hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		} else {
			good = rsa.VerifyPKCS1v15(key, hash, digest, sig) == nil
		}
	case *ecdsa.PublicKey:
		n := (key.Curve.Params().BitSize + 7) / 8
		good = len(sig) == 2*n && ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case ed25519.PublicKey:
		good = ed25519.Verify(key, []byte(input), sig)
	}
	if !good {
		t.Errorf("%s: bad signature", alg)
	}
	dec := json.NewDecoder(strings.NewReader(string(must(base64.RawURLEncoding.Strict().DecodeString(parts[1])))))
	dec.UseNumber()
	var found map[string]any
	if err := dec.Decode(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestPrivateKeyJWT(t *testing.T) {
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		for kind, key := range map[string]crypto.Signer{"key": keyFor(alg), "handle": handle{keyFor(alg)}} {
			t.Run("A122 "+alg+" "+kind, func(t *testing.T) {
				lookups := 100 // ES: enough for an r or s with a leading zero
				if alg[0] == 'R' || alg[0] == 'P' || alg == "ES384" || alg == "ES512" {
					lookups = 5
				}
				as := newAS(t)
				as.introspect = reply(204, "")
				m := as.middleware(phantom.WithClientAuth(phantom.PrivateKeyJWT("gw:odd id", "key-1", alg, key)))
				before := time.Now().Unix()
				for i := range lookups {
					if got := as.try(m, fmt.Sprintf("token-%d", i)); got != code401T {
						t.Fatalf("%s\n%s", got, as.logs.String())
					}
				}
				after := time.Now().Unix()
				ids := map[string]bool{}
				for _, r := range as.recorded(endpointPath) {
					assertion := as.secret(r.PostForm.Get("client_assertion"))
					want := url.Values{
						"token": r.PostForm["token"], "token_type_hint": {"access_token"}, "client_id": {"gw:odd id"},
						"client_assertion":      {assertion},
						"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
					}
					if !maps.EqualFunc(r.PostForm, want, slices.Equal) || r.Header["Authorization"] != nil {
						t.Fatalf("form %v, Authorization %q", r.PostForm, r.Header["Authorization"])
					}
					found := claimsOf(t, assertion, alg, "key-1", key.Public())
					iat, exp := must(found["iat"].(json.Number).Int64()), must(found["exp"].(json.Number).Int64())
					if iat < before || iat > after || exp != iat+60 {
						t.Errorf("iat %d, exp %d", iat, exp)
					}
					jti, _ := found["jti"].(string)
					if len(jti) < 22 || ids[jti] {
						t.Errorf("jti %q, seen before: %v", jti, ids[jti])
					}
					ids[jti] = true
					for name, value := range map[string]any{"iss": "gw:odd id", "sub": "gw:odd id", "aud": issuer} {
						if found[name] != value {
							t.Errorf("%s is %v, want %v", name, found[name], value)
						}
					}
					if len(found) != 6 {
						t.Errorf("claims %v", found)
					}
				}
				if len(ids) != lookups {
					t.Errorf("%d different jti in %d lookups", len(ids), lookups)
				}
			})
		}
	}
	t.Run("A122 no key id", func(t *testing.T) {
		r := oneLookup(t, phantom.PrivateKeyJWT("app", "", "ES256", p256Key()))
		claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "", p256Key().Public())
	})
	t.Run("A122 one value for two issuers", func(t *testing.T) {
		auth := phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())
		for _, iss := range []string{issuer, "https://other.test/realm", issuer} {
			as := newAS(t)
			as.introspect = reply(204, "")
			m := as.middleware(phantom.WithIssuer(iss), phantom.WithClientAuth(auth))
			if got := as.try(m, "tok"); got != code401T {
				t.Fatal(got)
			}
			sent := as.recorded(endpointPath)[0].PostForm.Get("client_assertion")
			if aud := claimsOf(t, sent, "ES256", "k", p256Key().Public())["aud"]; aud != iss {
				t.Errorf("aud %v, want %v", aud, iss)
			}
		}
	})
	t.Run("A122 delegated to", func(t *testing.T) {
		// Without the issuer there is no assertion to make: none with an empty
		// or a guessed audience is sent.
		as := newAS(t)
		auth := authFunc(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key()).Authenticate)
		if got := as.try(as.middleware(phantom.WithClientAuth(auth)), "tok"); got != code503A || as.calls.Load() != 0 {
			t.Errorf("%s, asked %d times", got, as.calls.Load())
		}
	})
}

// A strangeSigner has an ordinary public key and does something else with what
// it is to sign.
type strangeSigner struct {
	public crypto.PublicKey
	sign   func(digest []byte) ([]byte, error)
}

func (s strangeSigner) Public() crypto.PublicKey { return s.public }
func (s strangeSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(digest)
}

func TestFaultySigner(t *testing.T) {
	for name, c := range map[string]struct {
		alg string
		crypto.Signer
	}{
		"A122 error":          {"ES256", strangeSigner{p256Key().Public(), func([]byte) ([]byte, error) { return nil, errors.New("PIN 1234 refused") }}},
		"A122 nothing":        {"ES256", strangeSigner{p256Key().Public(), func([]byte) ([]byte, error) { return nil, nil }}},
		"A122 junk":           {"RS256", strangeSigner{rsaKey().Public(), func([]byte) ([]byte, error) { return make([]byte, 256), nil }}},
		"A122 another's":      {"RS256", strangeSigner{rsaKey().Public(), func(d []byte) ([]byte, error) { return otherRSA().Sign(rand.Reader, d, crypto.SHA256) }}},
		"A122 panic":          {"EdDSA", strangeSigner{edKey().Public(), func([]byte) ([]byte, error) { panic("PIN 1234") }}},
		"A122 raw, not ASN.1": {"ES256", strangeSigner{p256Key().Public(), func([]byte) ([]byte, error) { return make([]byte, 64), nil }}},
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.secret("PIN 1234")
			m := as.middleware(phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", c.alg, c.Signer)))
			if got := as.try(m, "tok"); got != code503A {
				t.Error(got)
			}
			if n := as.calls.Load(); n != 0 {
				t.Errorf("sent %d times all the same", n)
			}
		})
	}
}

// authFunc is a ClientAuth of the caller's own.
type authFunc func(*http.Request, url.Values) error

func (f authFunc) Authenticate(r *http.Request, form url.Values) error { return f(r, form) }

func TestUnfitClientAuth(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	source := func(context.Context) (string, error) { return "t", nil }
	for name, c := range map[string]struct {
		auth   phantom.ClientAuth
		reason string // "-": it fits
	}{
		"nil":                          {nil, "nil"},
		"typed nil":                    {authFunc(nil), "nil"},
		"basic without id":             {phantom.ClientSecretBasic("", "SECRET"), "empty client id"},
		"basic without secret":         {phantom.ClientSecretBasic("app", ""), "empty client secret"},
		"basic without both":           {phantom.ClientSecretBasic("", ""), "empty client id"},
		"post without id":              {phantom.ClientSecretPost("", "SECRET"), "empty client id"},
		"post without secret":          {phantom.ClientSecretPost("app", ""), "empty client secret"},
		"key JWT without id":           {phantom.PrivateKeyJWT("", "k", "ES256", p256Key()), "empty client id"},
		"key JWT without key":          {phantom.PrivateKeyJWT("app", "k", "ES256", nil), "nil key"},
		"key JWT with a typed nil":     {phantom.PrivateKeyJWT("app", "k", "RS256", (*rsa.PrivateKey)(nil)), "nil key"},
		"key JWT with no public key":   {phantom.PrivateKeyJWT("app", "k", "ES256", strangeSigner{}), ""},
		"key JWT of another kind":      {phantom.PrivateKeyJWT("app", "k", "RS256", p256Key()), ""},
		"key JWT on another curve":     {phantom.PrivateKeyJWT("app", "k", "ES384", p256Key()), ""},
		"key JWT with Ed25519 for ES":  {phantom.PrivateKeyJWT("app", "k", "ES256", edKey()), ""},
		"key JWT with HMAC":            {phantom.PrivateKeyJWT("app", "k", "HS256", rsaKey()), ""},
		"key JWT with none":            {phantom.PrivateKeyJWT("app", "k", "none", rsaKey()), ""},
		"key JWT with lower case":      {phantom.PrivateKeyJWT("app", "k", "es256", p256Key()), ""},
		"key JWT without algorithm":    {phantom.PrivateKeyJWT("app", "k", "", p256Key()), ""},
		"key JWT with a weak key":      {phantom.PrivateKeyJWT("app", "k", "RS256", weak), ""},
		"TLS without id":               {phantom.TLSClientAuth(""), "empty client id"},
		"bearer without source":        {phantom.BearerToken(nil), "nil source"},
		"TLS without the caller's":     {phantom.TLSClientAuth("app"), "WithHTTPClient"},
		"fits":                         {phantom.BearerToken(source), "-"},
		"key JWT with an opaque key":   {phantom.PrivateKeyJWT("app", "k", "ES256", handle{p256Key()}), "-"},
		"key JWT without a key's name": {phantom.PrivateKeyJWT("app", "", "ES256", p256Key()), "-"},
	} {
		_, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(c.auth))
		if c.reason == "-" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var config *phantom.ConfigError
		if !errors.As(err, &config) || config.Option != "WithClientAuth" || !strings.Contains(config.Reason, c.reason) ||
			strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
		if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 1 {
			t.Errorf("%s: not one mistake: %v", name, err)
		}
	}
	_, err := phantom.New(
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(phantom.TLSClientAuth("app")),
		phantom.WithHTTPClient(&http.Client{}), // of which only the transport could have a certificate
	)
	var config *phantom.ConfigError
	if !errors.As(err, &config) || config.Option != "WithClientAuth" {
		t.Errorf("TLS with a client that has no transport: %v", err)
	}
}

// A server with a certificate of its own that asks for the client's.
func TestTLSClientAuth(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	var seen atomic.Pointer[http.Request]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		seen.Store(r)
		answerJWT(jwt)(w, r)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the client that has none
	server.StartTLS()
	defer server.Close()
	certificate := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}, &x509.Certificate{SerialNumber: big.NewInt(7)}, p256Key().Public(), p256Key()))
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for name, c := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"certificate": {&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: p256Key()}}}, codeOK},
		"none":        {&tls.Config{RootCAs: roots}, code503A},
	} {
		seen.Store(nil)
		as := newAS(t)
		transport := &http.Transport{TLSClientConfig: c.config}
		m := must(phantom.New(
			phantom.WithIssuer(issuer), phantom.WithAudience(audience), staticES256(),
			phantom.WithIntrospectionEndpoint(server.URL), phantom.WithClientAuth(phantom.TLSClientAuth("app")),
			phantom.WithHTTPClient(&http.Client{Transport: transport}),
		))
		if got := as.try(m, "tok"); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
		transport.CloseIdleConnections()
		if c.want != codeOK {
			continue
		}
		r := seen.Load()
		if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].SerialNumber.Int64() != 7 {
			t.Errorf("%s: certificates %v", name, r.TLS.PeerCertificates)
		}
		want := url.Values{"token": {"tok"}, "token_type_hint": {"access_token"}, "client_id": {"app"}}
		if !maps.EqualFunc(r.PostForm, want, slices.Equal) || r.Header["Authorization"] != nil {
			t.Errorf("%s: form %v, Authorization %q", name, r.PostForm, r.Header["Authorization"])
		}
	}
}

func TestBearerToken(t *testing.T) {
	n := 0
	as := newAS(t)
	m := as.middleware(phantom.WithClientAuth(phantom.BearerToken(func(ctx context.Context) (string, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > 2*time.Second {
			t.Error("the source is called without the lookup's deadline")
		}
		n++
		return as.secret(fmt.Sprintf("gateway-token-%d", n)), nil
	})))
	for i := range 3 {
		if got := as.try(m, fmt.Sprintf("token-%d", i)); got != codeOK {
			t.Fatal(got)
		}
	}
	for i, r := range as.recorded(endpointPath) {
		if got := r.Header["Authorization"]; len(got) != 1 || got[0] != fmt.Sprintf("Bearer gateway-token-%d", i+1) {
			t.Errorf("Authorization %q", got)
		}
		if len(r.PostForm) != 2 {
			t.Errorf("form %v", r.PostForm)
		}
	}

	// Without a token of our own there is no verdict on the client's.
	for name, c := range map[string]struct {
		token string
		err   error
	}{
		"error":                {"", errors.New("token endpoint: secret-in-a-text")},
		"a verdict on ours":    {"", fmt.Errorf("secret-in-a-text: %w", phantom.ErrInvalidToken)},
		"an Error of ours":     {"", &phantom.Error{Reason: phantom.ReasonInactive}},
		"no token of ours":     {"", phantom.ErrNoToken},
		"scope":                {"", &phantom.Error{Reason: phantom.ReasonScope, Scopes: []string{"introspect"}}},
		"the context's end":    {"", context.DeadlineExceeded},
		"a token and an error": {"secret-in-a-text", errors.New("expired")},
		"empty":                {"", nil},
		"a line break":         {"secret-in-a-text\r\nX-Admin: 1", nil},
		"a space":              {"secret in a text", nil},
		"the scheme before":    {"Bearer secret-in-a-text", nil},
	} {
		as := newAS(t)
		as.secret("secret-in-a-text")
		m := as.middleware(phantom.WithClientAuth(phantom.BearerToken(func(context.Context) (string, error) { return c.token, c.err })))
		for range 2 { // not remembered
			if got := as.try(m, "tok"); got != code503A {
				t.Errorf("%s: %s", name, got)
			}
		}
		if n := as.calls.Load(); n != 0 {
			t.Errorf("%s: the server was asked %d times", name, n)
		}
		if log := as.logs.String(); !strings.Contains(log, "client authentication") {
			t.Errorf("%s: log %s", name, log)
		}
	}
}

func TestNoClientAuth(t *testing.T) {
	r := oneLookup(t, phantom.NoClientAuth())
	if r.Header["Authorization"] != nil || len(r.PostForm) != 2 {
		t.Errorf("Authorization %q, form %v", r.Header["Authorization"], r.PostForm)
	}
}

// Every lookup is made with the credentials of its time, also with those of
// this package behind a ClientAuth of the caller's.
func TestRotatingClientAuth(t *testing.T) {
	as := newAS(t)
	var current atomic.Value
	accepted := "secret-number-1"
	current.Store(as.secret(accepted))
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != accepted {
			reply(401, `{"error":"invalid_client"}`, asJSON)(w, r)
			return
		}
		answerJWT(mint("ES256", claims(nil)))(w, r)
	}
	m := as.middleware(phantom.WithClientAuth(authFunc(func(r *http.Request, form url.Values) error {
		r.Header.Set("X-Tenant", "t1")
		form.Set("resource", audience)
		return phantom.ClientSecretBasic("app", current.Load().(string)).Authenticate(r, form)
	})))
	steps := []struct {
		name, want string
		before     func()
	}{
		{"the first", codeOK, func() {}},
		{"revoked", code502A, func() { accepted = "secret-number-2" }},
		{"rotated", codeOK, func() { current.Store(as.secret("secret-number-2")) }},
	}
	for i, step := range steps {
		step.before()
		if got := as.try(m, fmt.Sprintf("token-%d", i)); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	for _, r := range as.recorded(endpointPath) {
		if r.PostForm.Get("resource") != audience || r.Header.Get("X-Tenant") != "t1" {
			t.Errorf("form %v, header %v", r.PostForm, r.Header)
		}
	}

	// One that fails has not spoken of the client's token; one that panics is a
	// fault of ours. Neither harms the next lookup.
	for name, c := range map[string]struct {
		fail func() error
		want string
	}{
		"error":            {func() error { return errors.New("secret-in-a-text") }, code503A},
		"verdict":          {func() error { return fmt.Errorf("secret-in-a-text: %w", phantom.ErrInvalidToken) }, code503A},
		"panic":            {func() error { panic("secret-in-a-text") }, code500I},
		"panic of runtime": {func() error { s := []string{}; return errors.New(s[len(s)]) }, code500I},
	} {
		as := newAS(t)
		as.secret("secret-in-a-text")
		failing := true
		m := as.middleware(phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error {
			if failing {
				return c.fail()
			}
			return nil
		})))
		if got := as.try(m, "tok"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		failing = false
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("%s: afterwards %s", name, got)
		}
	}
}

// What is printed of credentials, options and a Middleware holds no secret.
func TestCredentialsDoNotPrint(t *testing.T) {
	const secret = "sEcReT-of-the-client"
	for _, auth := range []phantom.ClientAuth{
		phantom.ClientSecretBasic("app", secret), phantom.ClientSecretPost("app", secret),
		phantom.PrivateKeyJWT("app", secret, "ES256", p256Key()),
	} {
		option := phantom.WithClientAuth(auth)
		m := must(phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), option))
		for _, v := range []any{auth, option, m} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
				text := fmt.Sprintf(format, v)
				if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
					t.Errorf("%s of a %T prints the secret", format, v)
				}
			}
		}
	}
}

// failFirst fails the first n introspection requests.
func failFirst(as *fakeAS, n int64, fail func(*http.Request) error) (http.RoundTripper, *atomic.Int64) {
	var attempts atomic.Int64
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == endpointPath && attempts.Add(1) <= n {
			_ = r.ParseForm()
			as.mu.Lock()
			as.requests = append(as.requests, r)
			as.mu.Unlock()
			if err := fail(r); err != nil {
				return nil, err
			}
		}
		return as.RoundTrip(r)
	}), &attempts
}

func TestRetry(t *testing.T) {
	broken := func(err error) func(*http.Request) error { return func(*http.Request) error { return err } }
	for _, c := range []struct {
		name     string
		failures int64
		fail     func(*http.Request) error
		want     string
		attempts int64
	}{
		{"A104 EOF once", 1, broken(io.EOF), codeOK, 2},
		{"A104 EOF twice", 2, broken(io.EOF), code503A, 2},
		{"A104 EOF for ever", 1000, broken(io.EOF), code503A, 2},
		{"A104 unexpected EOF", 1, broken(io.ErrUnexpectedEOF), codeOK, 2},
		{"A104 reset", 1, broken(&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}), codeOK, 2},
		{"A104 broken pipe", 1, broken(syscall.EPIPE), codeOK, 2},
		{"A104 a wrapped EOF", 1, broken(&url.Error{Op: "Post", URL: "https://as.test/?token=SECRET", Err: io.EOF}), codeOK, 2},
		{"A104 timeout", 1, broken(os.ErrDeadlineExceeded), code503A, 1},
		{"A104 the lookup's own deadline", 1, broken(context.DeadlineExceeded), code503A, 1},
		{"A104 untrusted certificate", 1, broken(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), code503A, 1},
		{"A104 after the first byte of an answer", 1, func(r *http.Request) error {
			httptrace.ContextClientTrace(r.Context()).GotFirstResponseByte()
			return io.ErrUnexpectedEOF
		}, code503A, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			transport, attempts := failFirst(as, c.failures, c.fail)
			m := as.middleware(
				phantom.WithHTTPClient(&http.Client{Transport: transport}),
				phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())),
			)
			if got := as.try(m, "tok"); got != c.want {
				t.Errorf("outcome %s, want %s", got, c.want)
			}
			if got := attempts.Load(); got != c.attempts {
				t.Errorf("%d attempts, want %d", got, c.attempts)
			}
			ids := map[any]bool{}
			for _, r := range as.recorded(endpointPath) {
				ids[claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "k", p256Key().Public())["jti"]] = true
				if r.PostForm.Get("token") != "tok" {
					t.Errorf("form %v", r.PostForm)
				}
			}
			if len(ids) != int(c.attempts) {
				t.Errorf("%d different assertions in %d attempts", len(ids), c.attempts)
			}
		})
	}
	t.Run("A104 no credentials for the second attempt", func(t *testing.T) {
		as := newAS(t)
		transport, attempts := failFirst(as, 1, broken(io.EOF))
		first := true
		m := as.middleware(
			phantom.WithHTTPClient(&http.Client{Transport: transport}),
			phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error {
				defer func() { first = false }()
				if !first {
					return errors.New("used up")
				}
				return nil
			})),
		)
		if got := as.try(m, "tok"); got != code503A || attempts.Load() != 1 {
			t.Errorf("%s, %d attempts", got, attempts.Load())
		}
	})
	t.Run("A104 not after the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			transport, attempts := failFirst(as, 1, func(*http.Request) error {
				time.Sleep(3 * time.Second)
				return io.EOF
			})
			m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: transport}))
			if got := as.try(m, "tok"); got != code503A {
				t.Error(got)
			}
			time.Sleep(5 * time.Second)
			if got := attempts.Load(); got != 1 {
				t.Errorf("%d attempts", got)
			}
		})
	})
}

// The server closes an idle connection just when the next request is on its
// way: net/http does not repeat a POST by itself, and must not, because the
// assertion in it may be good for one use only.
func TestRetryOnRealConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		jwt := mint("ES256", claims(nil))
		assertions := make(chan string, 10)
		listener := &pipeListener{conns: make(chan net.Conn)}
		var requests atomic.Int64
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			assertions <- r.PostForm.Get("client_assertion")
			if requests.Add(1) == 2 {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					conn.Close()
				}
				return
			}
			answerJWT(jwt)(w, r)
		})}
		go server.Serve(listener)
		transport := &http.Transport{DialTLSContext: listener.dial}
		opts := as.options(
			phantom.WithHTTPClient(&http.Client{Transport: transport}), staticES256(),
			phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())),
		)
		m := must(phantom.New(slices.Delete(opts, 3, 4)...)) // WithJWKSURL
		for _, token := range []string{"one", "two", "three"} {
			if got := as.try(m, token); got != codeOK {
				t.Errorf("A104 %s: %s", token, got)
			}
		}
		if n := requests.Load(); n != 4 {
			t.Errorf("A104 %d requests", n)
		}
		close(assertions)
		seen := map[string]bool{}
		for assertion := range assertions {
			seen[assertion] = true
		}
		if len(seen) != 4 {
			t.Errorf("A104 %d different assertions in 4 requests", len(seen))
		}
		transport.CloseIdleConnections()
		server.Close()
	})
}

// A pipeListener connects an http.Server and an http.Transport in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed atomic.Bool
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- ours:
		return theirs, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l *pipeListener) Close() error {
	if l.closed.CompareAndSwap(false, true) {
		close(l.conns)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// The caller's client is neither changed nor bound to.
func TestHTTPClientIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(1500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		redirects := 0
		client := &http.Client{
			Transport:     as,
			Timeout:       time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { redirects++; return nil },
		}
		m := as.middleware(phantom.WithHTTPClient(client))
		if client.Transport != as || client.Timeout != time.Second || client.Jar != nil || client.CheckRedirect(nil, nil) != nil || redirects != 1 {
			t.Errorf("changed to %+v", client)
		}
		// Its overall timeout is not ours.
		if got := as.try(m, "one"); got != codeOK {
			t.Errorf("slower than the client's timeout: %s", got)
		}
		// Ours is.
		as.introspect = wait(2500*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		if got := as.try(m, "two"); got != code503A {
			t.Errorf("slower than the lookup's: %s", got)
		}
		synctest.Wait()
		as.introspect = nil
		client.Transport = roundTripper(func(*http.Request) (*http.Response, error) { panic("not this one") })
		if got := as.try(m, "three"); got != codeOK {
			t.Errorf("after a change of the caller's: %s", got)
		}
	})
}

// What a Client would tolerate of a RoundTripper does not panic here.
func TestOddTransports(t *testing.T) {
	for name, c := range map[string]struct {
		response *http.Response
		want     string
	}{
		"no body":            {&http.Response{StatusCode: 204}, code401T},
		"no body, no header": {&http.Response{StatusCode: 200}, code502A},
		"status 0":           {&http.Response{}, code502A},
		"status 100":         {&http.Response{StatusCode: 100, Body: http.NoBody}, code502A},
		"status 999":         {&http.Response{StatusCode: 999, Body: http.NoBody}, code503A},
	} {
		as := newAS(t)
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: roundTripper(
			func(*http.Request) (*http.Response, error) { return c.response, nil },
		)}))
		if got := as.try(m, "tok"); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A credential that a program keeps in PEM fits as it is parsed.
func TestPrivateKeyJWTFromPEM(t *testing.T) {
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p256Key()))})
	block, _ := pem.Decode(text)
	key := must(x509.ParsePKCS8PrivateKey(block.Bytes))
	r := oneLookup(t, phantom.PrivateKeyJWT("app", "k", "ES256", key.(crypto.Signer)))
	claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "k", p256Key().Public())
}
