package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

const (
	mintIssuer       = "https://gateway.test/mint"
	upstreamAudience = "https://orders.test"
)

// mintKeys writes a file with n keys and returns its name.
func mintKeys(t *testing.T, n int) string {
	t.Helper()
	var content []byte
	for range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return write(t, string(content))
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each mode, with the right and the wrong audience, and a token that is
// revoked.
func TestModes(t *testing.T) {
	for _, tc := range []struct {
		mode    string
		changes map[string]string
		want    string // what the upstream gets: "issuer audience", or none
	}{
		{"jwt", nil, "AS " + audience},
		{"claims", nil, ""},
		{"mint", map[string]string{
			"mint-issuer": mintIssuer, "mint-key-file": mintKeys(t, 2), "mint-audience": upstreamAudience,
		}, mintIssuer + " " + upstreamAudience},
		{"exchange", map[string]string{"exchange-param": "audience=" + upstreamAudience}, "AS " + upstreamAudience},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			var opts []phantomtest.Option
			if tc.mode != "jwt" {
				opts = append(opts, phantomtest.WithoutJWT())
			}
			s := newSite(t, opts...)
			changes := map[string]string{"mode": tc.mode, "max-ttl": "0s"}
			for name, value := range tc.changes {
				changes[name] = value
			}
			g := s.start(t, changes)

			token := s.issue(nil)
			g.get(t, "/", token).served(t)
			r, _ := s.upstream.last(t)
			checkSource(t, s, g, r, tc.want)

			g.get(t, "/", s.issue(map[string]any{"aud": "https://other.test"})).rejected(t, 401, invalidToken)
			s.as.Revoke(token)
			g.get(t, "/", token).rejected(t, 401, invalidToken)
			g.get(t, "/", "").rejected(t, 401, noToken)
		})
	}
}

// checkSource verifies the JWT as an upstream would that trusts nobody.
func checkSource(t *testing.T, s *site, g *gateway, r *http.Request, want string) {
	t.Helper()
	if want == "" {
		if got, ok := r.Header["Authorization"]; ok {
			t.Errorf("Authorization upstream: %q", got)
		}
		return
	}
	checkJWT(t, r)
	issuer, aud, _ := strings.Cut(strings.Replace(want, "AS", s.issuer, 1), " ")
	opts := []phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(aud), phantom.WithoutIntrospection(),
	}
	if issuer == mintIssuer { // which is nowhere
		opts = append(opts, phantom.WithJWKSURL(g.url+"/mint/.well-known/jwks.json"))
	}
	auth, err := phantom.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := auth.Verify(t.Context(), bearer(r))
	if err != nil || tok.Subject() != "alice" {
		t.Errorf("token %v, error %v", tok, err)
	}
}

// What a gateway publishes needs no token, and every other path does.
func TestPublication(t *testing.T) {
	s := newSite(t, phantomtest.WithoutJWT())
	g := s.start(t, map[string]string{
		"mode": "mint", "mint-issuer": mintIssuer, "mint-key-file": mintKeys(t, 2), "mint-audience": upstreamAudience,
	})
	for path, want := range map[string]string{
		"/mint/.well-known/jwks.json":                  `{"keys":[{`,
		"/mint/.well-known/openid-configuration":       `"jwks_uri":"https://gateway.test/mint/.well-known/jwks.json"`,
		"/.well-known/oauth-authorization-server/mint": `"issuer":"https://gateway.test/mint"`,
	} {
		if a := g.get(t, path, ""); a.StatusCode != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("%s: status %d, body %s", path, a.StatusCode, a.body)
		}
		if a := g.do(t, http.MethodPost, path, ""); a.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d", path, a.StatusCode)
		}
	}
	if a := g.get(t, "/mint/.well-known/jwks.json", ""); strings.Count(a.body, `"kid"`) != 2 || strings.Contains(a.body, `"d"`) {
		t.Errorf("key set %s", a.body)
	}
	for _, path := range []string{"/.well-known/jwks.json", "/mint/.well-known/jwks.json/", "/mint/.well-known/other", "/"} {
		g.get(t, path, "").rejected(t, 401, noToken)
	}
	s.upstream.untouched(t)
}

// A client that acts for no user has no sub; a token without an exp never ends
// a request.
func TestOddAnswers(t *testing.T) {
	s := newSite(t, phantomtest.WithoutJWT())
	g := s.start(t, map[string]string{"mode": "claims", "client-subject": "client:"})
	g.get(t, "/", s.issue(map[string]any{"sub": nil})).served(t)
	g.get(t, "/", s.issue(map[string]any{"exp": nil})).served(t)

	g = s.start(t, map[string]string{"mode": "claims"})
	g.get(t, "/", s.issue(map[string]any{"sub": nil})).rejected(t, 401, invalidToken)
}

func TestModeMistakes(t *testing.T) {
	keys := mintKeys(t, 1)
	noKeys, odd := write(t, ""), write(t, "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n")
	mint := []string{"-mode=mint", "-mint-issuer=" + mintIssuer, "-mint-audience=" + upstreamAudience}
	for _, tc := range []struct {
		name string
		args []string
		want string // on stderr, without "gateway: " in front of each line
	}{
		{"nothing that it needs", []string{"-mode=mint"}, `
			-mint-issuer (PHANTOM_MINT_ISSUER): is required with -mode mint
			-mint-key-file (PHANTOM_MINT_KEY_FILE): is required with -mode mint
			-mint-audience (PHANTOM_MINT_AUDIENCE): is required with -mode mint`},
		{"of other modes", append([]string{"-json-member=jwt", "-exchange-param=a=b"}, mint[1:]...), `
			-exchange-param (PHANTOM_EXCHANGE_PARAM): is of no use with -mode jwt
			-mint-issuer (PHANTOM_MINT_ISSUER): is of no use with -mode jwt
			-mint-audience (PHANTOM_MINT_AUDIENCE): is of no use with -mode jwt`},
		{"keys of a server that gives no JWT", []string{"-mode=claims", "-jwks-url=https://as.test/jwks", "-json-member=jwt"}, `
			-jwks-url (PHANTOM_JWKS_URL): is of no use with -mode claims
			-json-member (PHANTOM_JSON_MEMBER): is of no use with -mode claims`},
		{"no such file", append([]string{"-mint-key-file=/no/such/file"}, mint...), `
			-mint-key-file (PHANTOM_MINT_KEY_FILE): no such file or directory`},
		{"no keys", append([]string{"-mint-key-file=" + noKeys}, mint...), `
			-mint-key-file (PHANTOM_MINT_KEY_FILE): has no private key in PEM; see openssl genpkey`},
		{"not a key", append([]string{"-mint-key-file=" + odd}, mint...), `
			-mint-key-file (PHANTOM_MINT_KEY_FILE): block 1, "PRIVATE KEY", is no private key in PKCS #8; see openssl pkcs8 -topk8 -nocrypt`},
		{"issuer of the minter", append([]string{"-mint-key-file=" + keys}, mint[0], mint[2], "-mint-issuer=http://gw.test"), `
			-mint-key-file (PHANTOM_MINT_KEY_FILE): issuer: "http://gw.test" is not https`},
		{"one issuer", append([]string{"-mint-key-file=" + keys}, mint[0], mint[2], "-mint-issuer=https://as.test"), `
			-mint-issuer (PHANTOM_MINT_ISSUER): "https://as.test" is the issuer of WithIssuer: a Minter with keys of its own needs a name of its own`},
		{"form", []string{"-mode=exchange", "-exchange-param=client_secret=hunter2", "-exchange-param=audience="}, `
			-exchange-param (PHANTOM_EXCHANGE_PARAM): the parameter "audience" has an empty value
			-exchange-param (PHANTOM_EXCHANGE_PARAM): the parameter "client_secret" is not yours to set`},
		{"not a form", []string{"-mode=exchange", "-exchange-param=%zz"}, `
			-exchange-param (PHANTOM_EXCHANGE_PARAM): is not encoded as a form`},
		{"token endpoint", []string{"-mode=exchange", "-token-endpoint=http://as.test/token"}, `
			-token-endpoint (PHANTOM_TOKEN_ENDPOINT): "http://as.test/token" is not https; see -insecure-http`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := launch(t, append([]string{
				"-upstream=http://127.0.0.1:1", "-issuer=https://as.test", "-audience=" + audience, "-client-id=" + clientID,
			}, tc.args...), []string{"PHANTOM_CLIENT_SECRET" + "=" + clientSecret})
			if code := g.wait(t); code != 2 {
				t.Errorf("exit status %d", code)
			}
			g.complains(t, tc.want)
			if strings.Contains(g.stderr.String(), "hunter2") {
				t.Error("a secret is in the output")
			}
		})
	}
}
