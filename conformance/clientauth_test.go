package conformance_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
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

// authFunc is a ClientAuth of the caller's own.
type authFunc func(*http.Request, url.Values) error

func (f authFunc) Authenticate(r *http.Request, form url.Values) error { return f(r, form) }

// The id and the secret are form-encoded before they go into Basic, as RFC 6749
// section 2.3.1 wants it. The server reads exactly what we have.
//
// Catalogue: A120.
func TestBasicCredentialsAreFormEncoded(t *testing.T) {
	for _, tc := range [][2]string{
		{"a:b", "p%w+d é"},
		{"app", "secret"},
		{"https://client.test/?a=b", "a&b=c;d"},
		{" ", "  "},
		{"a+b%2Bc", "%zz%"},
		{"ключ", "🔑\u2028"},
		{`"quoted"`, `back\slash`},
		{"~!*()'", ":::"},
		{"no-break\u00a0space", "\xff\xfe"},
	} {
		r := oneLookup(t, phantom.ClientSecretBasic(tc[0], tc[1]))
		encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
		if !ok || len(r.Header["Authorization"]) != 1 {
			t.Fatalf("Authorization %q", r.Header["Authorization"])
		}
		// As a server does it that follows RFC 6749 section 2.3.1.
		user, password, _ := strings.Cut(string(must(base64.StdEncoding.DecodeString(encoded))), ":")
		for _, part := range []string{user, password} {
			if strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~*+%") != "" {
				t.Errorf("%q is not form-encoded", part)
			}
		}
		if id, secret := must(url.QueryUnescape(user)), must(url.QueryUnescape(password)); id != tc[0] || secret != tc[1] {
			t.Errorf("the server reads %q and %q, want %q", id, secret, tc)
		}
		if len(r.PostForm) != 2 {
			t.Errorf("more than one method: %v", r.PostForm)
		}
	}
}

// client_secret_post puts the secret into the body alone.
//
// Catalogue: A121.
func TestPostedSecretIsOnlyInTheBody(t *testing.T) {
	r := oneLookup(t, phantom.ClientSecretPost("a:b", "p%w+d é&client_id=x"))
	want := url.Values{
		"token": {"tok"}, "token_type_hint": {"access_token"},
		"client_id": {"a:b"}, "client_secret": {"p%w+d é&client_id=x"},
	}
	if !maps.EqualFunc(r.PostForm, want, slices.Equal) {
		t.Errorf("form %v", r.PostForm)
	}
	if r.Header["Authorization"] != nil || r.URL.RawQuery != "" {
		t.Errorf("Authorization %q, query %q", r.Header["Authorization"], r.URL.RawQuery)
	}
}

// The secret does not get out either when the transport quotes all that it was
// given.
//
// Catalogue: A121.
func TestPostedSecretIsNotQuoted(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(body string) error
	}{
		{"a plain error", func(body string) error { return errors.New("cannot send " + body) }},
		{"a url.Error", func(body string) error { return &url.Error{Op: "Post", URL: "https://x?" + body, Err: io.EOF} }},
		{"an unavailable", func(body string) error { return fmt.Errorf("%s: %w", body, phantom.ErrUnavailable) }},
	} {
		as := newAS(t)
		m := as.middleware(
			phantom.WithClientAuth(phantom.ClientSecretPost(clientID, clientSecret)),
			phantom.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return nil, tc.fail(string(must(io.ReadAll(r.Body))))
			})}),
		)
		if got := as.try(m, "token-of-alice"); got != code503A {
			t.Errorf("%s: %s", tc.name, got)
		}
		_, err := m.Verify(t.Context(), "token-of-alice")
		if as.leaks(fmt.Sprintf("%v %+v", err, err)) != nil {
			t.Errorf("%s: error %v", tc.name, err)
		}
	}
}

// NoClientAuth sends the token, and no credentials.
func TestNoClientAuthSendsNoCredentials(t *testing.T) {
	r := oneLookup(t, phantom.NoClientAuth())
	if r.Header["Authorization"] != nil || len(r.PostForm) != 2 {
		t.Errorf("Authorization %q, form %v", r.Header["Authorization"], r.PostForm)
	}
}

// TLSClientAuth shows the certificate of the caller's client to a server that
// asks for it. Without one the lookup fails.
func TestTLSClientAuthShowsTheCertificate(t *testing.T) {
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
	ours := []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: p256Key()}}
	for _, tc := range []struct {
		name   string
		config *tls.Config
		want   string
	}{
		{"certificate", &tls.Config{RootCAs: roots, Certificates: ours}, codeOK},
		{"none", &tls.Config{
			RootCAs: roots,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &tls.Certificate{}, nil
			},
		}, code503A},
	} {
		seen.Store(nil)
		as := newAS(t)
		transport := &http.Transport{TLSClientConfig: tc.config}
		m := must(phantom.New(
			phantom.WithIssuer(issuer), phantom.WithAudience(audience), staticES256(),
			phantom.WithIntrospectionEndpoint(server.URL), phantom.WithClientAuth(phantom.TLSClientAuth("app")),
			phantom.WithHTTPClient(&http.Client{Transport: transport}),
		))
		if got := as.try(m, "tok"); got != tc.want {
			t.Errorf("%s: %s", tc.name, got)
		}
		transport.CloseIdleConnections()
		if tc.want != codeOK {
			continue
		}
		r := seen.Load()
		if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].SerialNumber.Int64() != 7 {
			t.Errorf("%s: certificates %v", tc.name, r.TLS.PeerCertificates)
		}
		want := url.Values{"token": {"tok"}, "token_type_hint": {"access_token"}, "client_id": {"app"}}
		if !maps.EqualFunc(r.PostForm, want, slices.Equal) || r.Header["Authorization"] != nil {
			t.Errorf("%s: form %v, Authorization %q", tc.name, r.PostForm, r.Header["Authorization"])
		}
	}
}

// BearerToken asks its source for each lookup, within the time of the lookup.
func TestBearerTokenIsAskedForEachTime(t *testing.T) {
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
}

// Without a token of our own there is no verdict on the client's, and the
// server is not asked.
func TestBearerTokenThatFailsIsAnOutage(t *testing.T) {
	for _, tc := range []struct {
		name  string
		token string
		err   error
	}{
		{"error", "", errors.New("token endpoint: secret-in-a-text")},
		{"a verdict on ours", "", fmt.Errorf("secret-in-a-text: %w", phantom.ErrInvalidToken)},
		{"an Error of ours", "", &phantom.Error{Reason: phantom.ReasonInactive}},
		{"no token of ours", "", phantom.ErrNoToken},
		{"scope", "", &phantom.Error{Reason: phantom.ReasonScope, Scopes: []string{"introspect"}}},
		{"the context's end", "", context.DeadlineExceeded},
		{"a token and an error", "secret-in-a-text", errors.New("expired")},
		{"empty", "", nil},
		{"a line break", "secret-in-a-text\r\nX-Admin: 1", nil},
		{"a space", "secret in a text", nil},
		{"the scheme before", "Bearer secret-in-a-text", nil},
	} {
		as := newAS(t)
		if tc.token != "" {
			as.secret("secret-in-a-text")
		}
		as.secret(tc.token)
		source := func(context.Context) (string, error) { return tc.token, tc.err }
		m := as.middleware(phantom.WithClientAuth(phantom.BearerToken(source)))
		for range 2 { // not remembered
			if got := as.try(m, "tok"); got != code503A {
				t.Errorf("%s: %s", tc.name, got)
			}
		}
		if n := as.calls.Load(); n != 0 {
			t.Errorf("%s: the server was asked %d times", tc.name, n)
		}
		log := as.logs.String()
		if !strings.Contains(log, "client authentication") {
			t.Errorf("%s: log %s", tc.name, log)
		}
		if tc.err != nil && !strings.Contains(log, quoted(tc.err.Error())) {
			t.Errorf("%s: the log does not have its words: %s", tc.name, log)
		}
	}
}

// Every lookup is made with the credentials of its time, also with those of
// this package behind a ClientAuth of the caller's.
func TestCredentialsAreThoseOfTheTime(t *testing.T) {
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
}

// A ClientAuth that fails has not judged the client's token: that is an outage.
// One that panics is a fault of ours. Neither harms the next lookup.
func TestClientAuthThatFailsIsNoVerdict(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func() error
		want string
	}{
		{"error", func() error { return errors.New("secret-in-a-text") }, code503A},
		{"verdict", func() error { return fmt.Errorf("secret-in-a-text: %w", phantom.ErrInvalidToken) }, code503A},
		{"panic", func() error { panic("secret-in-a-text") }, code500I},
		{"panic of runtime", func() error { s := []string{}; return errors.New(s[len(s)]) }, code500I},
	} {
		as := newAS(t)
		if tc.want == code500I { // an error's text is for the log, a panic's is not
			as.secret("secret-in-a-text")
		}
		failing := true
		m := as.middleware(phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error {
			if failing {
				return tc.fail()
			}
			return nil
		})))
		if got := as.try(m, "tok"); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		failing = false
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("%s: afterwards %s", tc.name, got)
		}
	}
}

// New refuses a ClientAuth that cannot work, as one mistake, and shows no
// secret.
func TestUnfitClientAuthIsRefused(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	source := func(context.Context) (string, error) { return "t", nil }
	for _, tc := range []struct {
		name   string
		auth   phantom.ClientAuth
		reason string // "-": it fits
	}{
		{"nil", nil, "nil"},
		{"typed nil", authFunc(nil), "nil"},
		{"basic without id", phantom.ClientSecretBasic("", "SECRET"), "empty client id"},
		{"basic without secret", phantom.ClientSecretBasic("app", ""), "empty client secret"},
		{"basic without both", phantom.ClientSecretBasic("", ""), "empty client id"},
		{"post without id", phantom.ClientSecretPost("", "SECRET"), "empty client id"},
		{"post without secret", phantom.ClientSecretPost("app", ""), "empty client secret"},
		{"key JWT without id", phantom.PrivateKeyJWT("", "k", "ES256", p256Key()), "empty client id"},
		{"key JWT without key", phantom.PrivateKeyJWT("app", "k", "ES256", nil), "nil key"},
		{"key JWT with a typed nil", phantom.PrivateKeyJWT("app", "k", "RS256", (*rsa.PrivateKey)(nil)), "nil key"},
		{"key JWT with no public key", phantom.PrivateKeyJWT("app", "k", "ES256", strangeSigner{}), ""},
		{"key JWT of another kind", phantom.PrivateKeyJWT("app", "k", "RS256", p256Key()), ""},
		{"key JWT on another curve", phantom.PrivateKeyJWT("app", "k", "ES384", p256Key()), ""},
		{"key JWT with Ed25519 for ES", phantom.PrivateKeyJWT("app", "k", "ES256", edKey()), ""},
		{"key JWT with HMAC", phantom.PrivateKeyJWT("app", "k", "HS256", rsaKey()), ""},
		{"key JWT with none", phantom.PrivateKeyJWT("app", "k", "none", rsaKey()), ""},
		{"key JWT with lower case", phantom.PrivateKeyJWT("app", "k", "es256", p256Key()), ""},
		{"key JWT without algorithm", phantom.PrivateKeyJWT("app", "k", "", p256Key()), ""},
		{"key JWT with a weak key", phantom.PrivateKeyJWT("app", "k", "RS256", weak), ""},
		{"TLS without id", phantom.TLSClientAuth(""), "empty client id"},
		{"bearer without source", phantom.BearerToken(nil), "nil source"},
		{"TLS without the caller's", phantom.TLSClientAuth("app"), "WithHTTPClient"},
		{"fits", phantom.BearerToken(source), "-"},
		{"key JWT with an opaque key", phantom.PrivateKeyJWT("app", "k", "ES256", handle{p256Key()}), "-"},
		{"key JWT without a key's name", phantom.PrivateKeyJWT("app", "", "ES256", p256Key()), "-"},
	} {
		_, err := phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(tc.auth))
		if tc.reason == "-" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		var config *phantom.ConfigError
		if !errors.As(err, &config) || config.Option != "WithClientAuth" || !strings.Contains(config.Reason, tc.reason) ||
			strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 1 {
			t.Errorf("%s: not one mistake: %v", tc.name, err)
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
