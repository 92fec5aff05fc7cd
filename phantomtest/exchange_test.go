package phantomtest_test

import (
	"encoding/json"
	"maps"
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

const (
	grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken    = "urn:ietf:params:oauth:token-type:access_token"
	typeJWT            = "urn:ietf:params:oauth:token-type:jwt"
)

// post sends a form without an Authorization field.
func post(h http.Handler, target string, form url.Values, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// below is a server whose endpoints are below a path.
type below struct {
	http.Handler

	path string
}

func (b below) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.URL.Path = b.path + r.URL.Path
	b.Handler.ServeHTTP(w, r)
}

// exchange exchanges a token as the default client, with further parameters; an
// absent value removes one.
func exchange(as http.Handler, token string, more url.Values) *httptest.ResponseRecorder {
	form := url.Values{"grant_type": {grantTokenExchange}, "subject_token": {token}, "subject_token_type": {typeAccessToken}}
	maps.Copy(form, more)
	return request(as, "POST", "/token", form, "application/json")
}

func TestTokenExchange(t *testing.T) {
	const (
		api   = "https://api.test"
		other = "https://other.test/v1?x=y"
	)
	type claims = map[string]any
	for _, tc := range []struct {
		name   string
		opts   []phantomtest.Option
		issue  claims
		params url.Values

		issued    string
		tokenType string
		expiresIn float64
		scope     any // of the response
		changed   claims
	}{
		{"nothing asked", nil, nil, nil, typeAccessToken, "Bearer", 600, nil, nil},
		{"access token", nil, nil, url.Values{"requested_token_type": {typeAccessToken}}, typeAccessToken, "Bearer", 600, nil, nil},
		{"JWT", nil, nil, url.Values{"requested_token_type": {typeJWT}}, typeJWT, "N_A", 600, nil, nil},
		{"audience", nil, nil, url.Values{"audience": {"api"}}, typeAccessToken, "Bearer", 600, nil, claims{"aud": "api"}},
		{"resource", nil, nil, url.Values{"resource": {api}}, typeAccessToken, "Bearer", 600, nil, claims{"aud": api}},
		{
			"audiences and resources", nil, nil, url.Values{"audience": {"a", "b"}, "resource": {api, other}},
			typeAccessToken, "Bearer", 600, nil, claims{"aud": []any{"a", "b", api, other}},
		},
		{"scope", nil, nil, url.Values{"scope": {"admin"}}, typeAccessToken, "Bearer", 600, "admin", claims{"scope": "admin"}},
		{
			"empty parameters", nil, nil, url.Values{"audience": {""}, "resource": {""}, "scope": {""}, "actor_token": {""}, "requested_token_type": {""}},
			typeAccessToken, "Bearer", 600, nil, nil,
		},
		{
			"claims of the token", nil, claims{"sub": "bob", "tenant": "acme", "aud": []string{"x", "y"}, "scope": []string{"a"}}, nil,
			typeAccessToken, "Bearer", 600, nil, claims{"sub": "bob", "tenant": "acme", "aud": []any{"x", "y"}, "scope": []any{"a"}},
		},
		{
			"what is about the token", nil,
			claims{"iss": nil, "token_type": "DPoP", "token_use": "access_token", "token_usage": "x", "cnf": claims{"jkt": "x"}, "azp": "app"}, nil,
			typeAccessToken, "Bearer", 600, nil, nil,
		},
		{"no sub, no aud", nil, claims{"sub": nil, "aud": nil}, nil, typeAccessToken, "Bearer", 600, nil, claims{"sub": nil, "aud": nil}},
		{"Keycloak", []phantomtest.Option{phantomtest.WithKeycloak()}, nil, nil, typeAccessToken, "Bearer", 600, nil, claims{"client_id": nil, "azp": "gateway"}},
		{"token that lives on", nil, claims{"exp": 9e9}, nil, typeAccessToken, "Bearer", 600, nil, nil},
		{"token for ever", nil, claims{"exp": nil}, nil, typeAccessToken, "Bearer", 600, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := phantomtest.New(tc.opts...)
				token := as.Issue(tc.issue)
				w := exchange(as, token, tc.params)
				if w.Code != 200 || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
					t.Fatalf("answer %d %v", w.Code, w.Header())
				}
				answer := object(t, w)
				if answer["issued_token_type"] != tc.issued || answer["token_type"] != tc.tokenType ||
					answer["expires_in"] != tc.expiresIn || answer["scope"] != tc.scope {
					t.Errorf("answer %v", answer)
				}
				header, got := decode(t, as, answer["access_token"].(string))
				if typ := map[bool]string{true: "JWT", false: "at+jwt"}[tc.name == "Keycloak"]; header["typ"] != typ {
					t.Errorf("typ %v, want %v", header["typ"], typ)
				}
				now := float64(time.Now().Unix())
				want := claims{
					"iss": "https://as.test", "sub": "alice", "aud": "https://rs.test", "client_id": "gateway",
					"scope": "read write", "iat": now, "exp": now + tc.expiresIn, "jti": got["jti"],
				}
				maps.Copy(want, tc.changed)
				maps.DeleteFunc(want, func(_ string, v any) bool { return v == nil })
				gotJSON, _ := json.Marshal(got)
				wantJSON, _ := json.Marshal(want)
				if string(gotJSON) != string(wantJSON) {
					t.Errorf("claims\n%s, want\n%s", gotJSON, wantJSON)
				}
				if jti, _ := got["jti"].(string); len(jti) < 20 || jti == object(t, introspect(as, token, ""))["jti"] {
					t.Errorf("jti %q", jti)
				}
			})
		})
	}
}

// The JWT ends with the token at the latest, and has an exp of its own when the
// token lives longer.
func TestExchangedJWTDoesNotOutliveTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		token := as.Issue(nil)
		time.Sleep(9 * time.Minute)
		answer := object(t, exchange(as, token, nil))
		_, claims := decode(t, as, answer["access_token"].(string))
		if answer["expires_in"] != 60.0 || claims["exp"] != float64(time.Now().Unix()+60) {
			t.Errorf("expires_in %v, exp %v", answer["expires_in"], claims["exp"])
		}
	})
}

func TestTokenExchangeRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		issue  map[string]any
		params url.Values
		status int
		code   string
	}{
		{"unknown token", nil, url.Values{"subject_token": {"unknown-token"}}, 400, "invalid_request"},
		{"no token", nil, url.Values{"subject_token": nil}, 400, "invalid_request"},
		{"expired token", map[string]any{"exp": 1}, nil, 400, "invalid_request"},
		{"refresh token", map[string]any{"token_use": "refresh_token"}, nil, 400, "invalid_request"},
		{"no type", nil, url.Values{"subject_token_type": nil}, 400, "invalid_request"},
		{"another type", nil, url.Values{"subject_token_type": {typeJWT}}, 400, "invalid_request"},
		{"another type requested", nil, url.Values{"requested_token_type": {"urn:ietf:params:oauth:token-type:saml2"}}, 400, "invalid_request"},
		{"actor", nil, url.Values{"actor_token": {"x"}, "actor_token_type": {typeAccessToken}}, 400, "invalid_request"},
		{"scope twice", nil, url.Values{"scope": {"a", "b"}}, 400, "invalid_request"},
		{"token twice", nil, url.Values{"subject_token": {"x", "y"}}, 400, "invalid_request"},
		{"relative resource", nil, url.Values{"resource": {"https://api.test", "api"}}, 400, "invalid_target"},
		{"resource with a fragment", nil, url.Values{"resource": {"https://api.test#x"}}, 400, "invalid_target"},
		{"another grant", nil, url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New()
			token := as.Issue(tc.issue)
			w := exchange(as, token, tc.params)
			if w.Code != tc.status || w.Body.String() != `{"error":"`+tc.code+`"}` {
				t.Errorf("answer %d %q", w.Code, w.Body)
			}
		})
	}
	t.Run("revoked token", func(t *testing.T) {
		as := phantomtest.New()
		token := as.Issue(nil)
		as.Revoke(token)
		if w := exchange(as, token, nil); w.Code != 400 || object(t, w)["error"] != "invalid_request" {
			t.Errorf("answer %d %q", w.Code, w.Body)
		}
	})
}

func TestExchangesAreCounted(t *testing.T) {
	as := phantomtest.New()
	exchange(as, as.Issue(nil), nil)
	exchange(as, "unknown", nil)
	post(as, "/token", url.Values{"grant_type": {grantTokenExchange}}, "") // nobody's
	request(as, "POST", "/token", url.Values{"grant_type": {"client_credentials"}}, "")
	if n := as.Exchanges(); n != 3 {
		t.Errorf("%d exchanges, want 3", n)
	}
	if n := as.Introspections(); n != 0 {
		t.Errorf("%d introspections, want 0", n)
	}
}

// What an exchange gives is no opaque token: the server knows it no more.
func TestExchangedJWTIsUnknown(t *testing.T) {
	as := phantomtest.New()
	jwt := object(t, exchange(as, as.Issue(nil), nil))["access_token"].(string)
	if active := object(t, introspect(as, jwt, ""))["active"]; active != false {
		t.Errorf("active %v", active)
	}
}

func TestMetadataOfTheModes(t *testing.T) {
	for _, tc := range []struct {
		name   string
		opts   []phantomtest.Option
		signed []any
	}{
		{"unsigned", nil, nil},
		{"signed", []phantomtest.Option{phantomtest.WithoutJWT(), phantomtest.WithSignedResponse()}, []any{"ES256"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := phantomtest.New(tc.opts...)
			metadata := object(t, request(as, "GET", "/.well-known/oauth-authorization-server", nil, ""))
			if grants, _ := metadata["grant_types_supported"].([]any); !slices.Contains(grants, any(grantTokenExchange)) {
				t.Errorf("grants %v", grants)
			}
			if got, _ := metadata["introspection_signing_alg_values_supported"].([]any); !slices.Equal(got, tc.signed) {
				t.Errorf("algorithms %v, want %v", got, tc.signed)
			}
		})
	}
}
