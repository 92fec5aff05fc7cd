package phantomtest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

// request sends a request to an endpoint and returns the answer. A form makes
// it a POST of the default client; accept may be empty.
func request(h http.Handler, method, target string, form url.Values, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("gateway", "gateway-secret")
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// object returns the JSON object that is the body of an answer.
func object(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("body %q: %v", w.Body, err)
	}
	return v
}

// published returns the only key that as publishes, and its JWK.
func published(t *testing.T, as http.Handler) (*ecdsa.PublicKey, map[string]string) {
	t.Helper()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(request(as, "GET", "/jwks", nil, "").Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("key set: %v, %v", set, err)
	}
	key := set.Keys[0]
	x, y := number(segment(t, key["x"])), number(segment(t, key["y"]))
	return &ecdsa.PublicKey{Curve: elliptic.P256(), X: x, Y: y}, key
}

func segment(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func number(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

// decode returns the header and the claims of a JWT whose signature is good by
// the key that as publishes.
func decode(t *testing.T, as http.Handler, jwt string) (header, claims map[string]any) {
	t.Helper()
	public, key := published(t, as)
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is not a compact JWS", jwt)
	}
	signature := segment(t, parts[2])
	if len(signature) != 64 {
		t.Fatalf("signature of %d bytes", len(signature))
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(public, digest[:], number(signature[:32]), number(signature[32:])) {
		t.Fatal("bad signature")
	}
	if err := json.Unmarshal(segment(t, parts[0]), &header); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(segment(t, parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	if header["kid"] != key["kid"] || header["alg"] != key["alg"] || header["alg"] != "ES256" {
		t.Fatalf("header %v, key %v", header, key)
	}
	return header, claims
}

func introspect(as http.Handler, token, accept string) *httptest.ResponseRecorder {
	return request(as, "POST", "/introspect", url.Values{"token": {token}}, accept)
}

func TestIntrospectionAnswers(t *testing.T) {
	const jwt, js = "application/jwt", "application/json"
	refresh := map[string]any{"token_use": "refresh_token"}
	for _, test := range []struct {
		name    string
		dialect string
		accept  string
		claims  map[string]any // of an active token; see also unknown
		unknown bool

		status       int
		contentType  string
		cacheControl string
		member       string // where the JWT is; "body", or empty for none
	}{
		{"curity", "curity", jwt, nil, false, 200, jwt, "max-age=600", "body"},
		{"curity, no exp", "curity", jwt, map[string]any{"exp": nil}, false, 200, jwt, "", "body"},
		{"curity, odd exp", "curity", jwt, map[string]any{"exp": "soon"}, false, 200, jwt, "", "body"},
		{"curity, JSON", "curity", js, nil, false, 200, js, "no-store", ""},
		{"curity, list", "curity", jwt + ", " + js + ";q=0.9", nil, false, 200, js, "no-store", ""},
		{"curity, no Accept", "curity", "", nil, false, 200, js, "no-store", ""},
		{"curity, refresh", "curity", jwt, refresh, false, 204, "", "no-store", ""},
		{"curity, inactive", "curity", jwt, nil, true, 204, "", "no-store", ""},
		{"curity, inactive, JSON", "curity", js, nil, true, 200, js, "no-store", ""},
		{"phantom_token", "phantom_token", js, nil, false, 200, js, "no-store", "phantom_token"},
		{"phantom_token, no Accept", "phantom_token", "", nil, false, 200, js, "no-store", "phantom_token"},
		{"phantom_token, refresh", "phantom_token", js, refresh, false, 200, js, "no-store", ""},
		{"phantom_token, inactive", "phantom_token", js, nil, true, 200, js, "no-store", ""},
		{"other member", "other member", js, nil, false, 200, js, "no-store", "token_string"},
		{"keycloak", "keycloak", jwt, nil, false, 200, js, "no-store", "jwt"},
		{"keycloak, list", "keycloak", jwt + ", " + js, nil, false, 200, js, "no-store", ""},
		{"keycloak, JSON", "keycloak", js, nil, false, 200, js, "no-store", ""},
		{"keycloak, refresh", "keycloak", jwt, refresh, false, 200, js, "no-store", ""},
		{"keycloak, inactive", "keycloak", jwt, nil, true, 200, js, "no-store", ""},
	} {
		// In a bubble the clock stands still, so that ages are exact.
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := phantomtest.New(dialects[test.dialect]...)
				token := "unknown"
				if !test.unknown {
					token = as.Issue(test.claims)
				}
				w := introspect(as, token, test.accept)
				if w.Code != test.status {
					t.Errorf("status %d, want %d", w.Code, test.status)
				}
				if got := w.Header().Get("Content-Type"); got != test.contentType {
					t.Errorf("Content-Type %q, want %q", got, test.contentType)
				}
				if got := w.Header().Get("Cache-Control"); got != test.cacheControl {
					t.Errorf("Cache-Control %q, want %q", got, test.cacheControl)
				}

				switch {
				case test.member == "body":
					_, claims := decode(t, as, w.Body.String())
					if claims["sub"] != "alice" {
						t.Errorf("claims %v", claims)
					}
				case test.status == 204:
					if w.Body.Len() > 0 {
						t.Errorf("body %q", w.Body)
					}
				case test.unknown:
					if got := w.Body.String(); got != `{"active":false}` {
						t.Errorf("body %q", got)
					}
				default:
					answer := object(t, w)
					if answer["active"] != true || answer["token_type"] != "Bearer" || answer["sub"] != "alice" || answer["client_id"] != "app" {
						t.Errorf("answer %v", answer)
					}
					for _, member := range []string{"phantom_token", "jwt", "token_string"} {
						if _, ok := answer[member]; ok != (member == test.member) {
							t.Errorf("there is a member %q: %v", member, ok)
						}
					}
					if test.member != "" {
						decode(t, as, answer[test.member].(string))
					}
				}
			})
		})
	}
}

func TestIssueClaims(t *testing.T) {
	for _, test := range []struct {
		name    string
		dialect string
		claims  map[string]any
		typ     string
		changed map[string]any // compared with the claims of a token without any
	}{
		{"defaults", "curity", nil, "at+jwt", nil},
		{"defaults in JSON", "phantom_token", nil, "at+jwt", nil},
		{"defaults of Keycloak", "keycloak", nil, "JWT", map[string]any{"client_id": nil, "azp": "app"}},
		{"other values", "curity", map[string]any{"sub": "bob", "exp": 9e9}, "at+jwt", map[string]any{"sub": "bob", "exp": 9e9}},
		{"one more", "curity", map[string]any{"roles": []string{"x"}}, "at+jwt", map[string]any{"roles": []any{"x"}}},
		{"fewer", "curity", map[string]any{"sub": nil, "scope": nil}, "at+jwt", map[string]any{"sub": nil, "scope": nil}},
	} {
		t.Run(test.name, func(t *testing.T) {
			as := phantomtest.New(dialects[test.dialect]...)
			before := float64(time.Now().Unix())
			given := maps.Clone(test.claims)
			w := introspect(as, as.Issue(given), "application/jwt")
			if !maps.EqualFunc(given, test.claims, func(a, b any) bool { return (a == nil) == (b == nil) }) {
				t.Errorf("Issue made %v of its argument", given)
			}
			jwt := w.Body.String()
			switch test.dialect {
			case "phantom_token":
				jwt = object(t, w)["phantom_token"].(string)
			case "keycloak":
				jwt = object(t, w)["jwt"].(string)
			}
			header, claims := decode(t, as, jwt)
			if header["typ"] != test.typ {
				t.Errorf("typ %v, want %v", header["typ"], test.typ)
			}

			iat, _ := claims["iat"].(float64)
			if iat < before || iat > before+60 {
				t.Errorf("iat %v, now %v", claims["iat"], before)
			}
			if jti, _ := claims["jti"].(string); len(jti) < 20 {
				t.Errorf("jti %q", jti)
			}
			want := map[string]any{
				"iss": "https://as.test", "sub": "alice", "aud": "https://rs.test", "client_id": "app",
				"scope": "read write", "iat": iat, "exp": iat + 600, "jti": claims["jti"],
			}
			maps.Copy(want, test.changed)
			maps.DeleteFunc(want, func(_ string, v any) bool { return v == nil })
			gotJSON, _ := json.Marshal(claims)
			wantJSON, _ := json.Marshal(want)
			if string(gotJSON) != string(wantJSON) {
				t.Errorf("claims\n%s, want\n%s", gotJSON, wantJSON)
			}
		})
	}
}

// A claim that no float64 can hold arrives as it was given.
func TestExactNumbers(t *testing.T) {
	for name, opts := range dialects {
		as := phantomtest.New(opts...)
		w := introspect(as, as.Issue(map[string]any{"uid": int64(9007199254740993)}), "application/json")
		if body := w.Body.String(); !strings.Contains(body, `"uid":9007199254740993`) {
			t.Errorf("%s: body %q", name, body)
		}
	}
}

func TestOpaqueTokens(t *testing.T) {
	as := phantomtest.New()
	a, b := as.Issue(nil), as.Issue(nil)
	if a == b || len(a) < 20 || strings.Contains(a, ".") {
		t.Errorf("tokens %q and %q", a, b)
	}
}

func TestClientAuthentication(t *testing.T) {
	basic := func(id, secret string) func(*http.Request, url.Values) {
		return func(r *http.Request, _ url.Values) { r.SetBasicAuth(id, secret) }
	}
	post := func(id, secret string) func(*http.Request, url.Values) {
		return func(_ *http.Request, form url.Values) {
			form.Set("client_id", id)
			form.Set("client_secret", secret)
		}
	}
	for _, endpoint := range []string{"/introspect", "/token", "/revoke"} {
		for _, test := range []struct {
			name         string
			authenticate func(*http.Request, url.Values)
			ok           bool
		}{
			{"basic", basic("one", "1"), true},
			{"basic, form-encoded", basic(url.QueryEscape("a:b"), url.QueryEscape("p%w+d é")), true},
			{"post", post("a:b", "p%w+d é"), true},
			{"basic, not form-encoded", basic("a:b", "p%w+d é"), false},
			{"basic, wrong secret", basic("one", "2"), false},
			{"basic, secret of another", basic("one", "p%25w%2Bd+%C3%A9"), false},
			{"basic, empty", basic("", ""), false},
			{"post, wrong secret", post("one", "2"), false},
			{"post, no secret", post("one", ""), false},
			{"none", func(*http.Request, url.Values) {}, false},
			{"default client", basic("gateway", "gateway-secret"), false},
		} {
			t.Run(endpoint+" "+test.name, func(t *testing.T) {
				as := phantomtest.New(phantomtest.WithClient("one", "1"), phantomtest.WithClient("a:b", "p%w+d é"))
				form := url.Values{"token": {"x"}, "grant_type": {"client_credentials"}}
				r := httptest.NewRequest(http.MethodPost, endpoint, nil)
				test.authenticate(r, form)
				r2 := httptest.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
				r2.Header = r.Header
				r2.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				as.ServeHTTP(w, r2)
				if !test.ok {
					if w.Code != 401 || object(t, w)["error"] != "invalid_client" || w.Header().Get("WWW-Authenticate") != `Basic realm="https://as.test"` {
						t.Errorf("answer %d %v %q", w.Code, w.Header(), w.Body)
					}
				} else if w.Code != 200 {
					t.Errorf("status %d, want 200", w.Code)
				}
			})
		}
	}
}

func TestTokenEndpoint(t *testing.T) {
	for _, test := range []struct {
		name  string
		form  url.Values
		scope string
	}{
		{"scope as asked", url.Values{"grant_type": {"client_credentials"}, "scope": {"a b"}}, "a b"},
		{"default scope", url.Values{"grant_type": {"client_credentials"}}, "read write"},
	} {
		t.Run(test.name, func(t *testing.T) {
			as := phantomtest.New()
			w := request(as, "POST", "/token", test.form, "")
			if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("answer %d %v", w.Code, w.Header())
			}
			answer := object(t, w)
			if answer["token_type"] != "Bearer" || answer["expires_in"] != 600.0 || answer["scope"] != test.scope {
				t.Errorf("answer %v", answer)
			}
			token, _ := answer["access_token"].(string)
			claims := object(t, introspect(as, token, "application/json"))
			if claims["sub"] != "gateway" || claims["client_id"] != "gateway" || claims["scope"] != test.scope {
				t.Errorf("claims %v", claims)
			}
		})
	}
	t.Run("another grant", func(t *testing.T) {
		w := request(phantomtest.New(), "POST", "/token", url.Values{"grant_type": {"password"}}, "")
		if w.Code != 400 || object(t, w)["error"] != "unsupported_grant_type" {
			t.Errorf("answer %d %q", w.Code, w.Body)
		}
	})
}

func TestRevocationEndpoint(t *testing.T) {
	as := phantomtest.New()
	token, other := as.Issue(nil), as.Issue(nil)
	for _, token := range []string{token, token, "unknown"} {
		if w := request(as, "POST", "/revoke", url.Values{"token": {token}}, ""); w.Code != 200 || w.Body.Len() > 0 {
			t.Errorf("answer %d %q", w.Code, w.Body)
		}
	}
	if active := object(t, introspect(as, token, ""))["active"]; active != false {
		t.Errorf("active %v, want false", active)
	}
	if active := object(t, introspect(as, other, ""))["active"]; active != true {
		t.Errorf("another token: active %v, want true", active)
	}
}

func TestBadRequests(t *testing.T) {
	as := phantomtest.New()
	for _, endpoint := range []string{"/introspect", "/revoke"} {
		w := request(as, "POST", endpoint, url.Values{}, "")
		if w.Code != 400 || object(t, w)["error"] != "invalid_request" {
			t.Errorf("%s without a token: %d %q", endpoint, w.Code, w.Body)
		}
	}
	for target, method := range map[string]string{"/introspect": "GET", "/token": "GET", "/revoke": "GET", "/jwks": "POST"} {
		if w := request(as, method, target, nil, ""); w.Code != 405 {
			t.Errorf("%s %s: status %d, want 405", method, target, w.Code)
		}
	}
	if w := request(as, "GET", "/", nil, ""); w.Code != 404 {
		t.Errorf("unknown path: status %d, want 404", w.Code)
	}
	if n := as.Introspections(); n != 1 {
		t.Errorf("%d introspections, want 1", n)
	}
}

func TestMetadata(t *testing.T) {
	for issuer, targets := range map[string][]string{
		"https://as.test": {
			"/.well-known/oauth-authorization-server",
			"/.well-known/openid-configuration",
		},
		"https://as.test/realms/one": {
			"/.well-known/oauth-authorization-server/realms/one",
			"/.well-known/openid-configuration/realms/one",
			"/realms/one/.well-known/openid-configuration",
		},
	} {
		as := phantomtest.New(phantomtest.WithIssuer(issuer))
		for _, target := range targets {
			w := request(as, "GET", target, nil, "")
			if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %v", target, w.Code, w.Header())
				continue
			}
			metadata := object(t, w)
			want := map[string]any{
				"issuer":                 issuer,
				"token_endpoint":         issuer + "/token",
				"introspection_endpoint": issuer + "/introspect",
				"revocation_endpoint":    issuer + "/revoke",
				"jwks_uri":               issuer + "/jwks",
			}
			for name, value := range want {
				if metadata[name] != value {
					t.Errorf("%s: %s is %v, want %v", target, name, metadata[name], value)
				}
			}
			methods, _ := metadata["introspection_endpoint_auth_methods_supported"].([]any)
			if !slices.Contains(methods, any("client_secret_basic")) {
				t.Errorf("%s: client authentication %v", target, methods)
			}
		}
	}
}
