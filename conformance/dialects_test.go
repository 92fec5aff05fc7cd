package conformance_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Answers that authorization servers were seen to give, field by field. In a
// body <JWT> stands for the access token's JWT, <RFC 9701> for one that carries
// an introspection answer. The dates lie in 2026; the bubble's clock in 2000.
var dialects = []struct {
	name       string
	status     int
	fields     []string
	body       string
	want       string
	remembered bool
}{
	// oidc-provider: no JWT access token in the answer, in no form of it.
	{"oidc-provider active", 200, []string{"cache-control: no-store", "Content-Type: application/json; charset=utf-8"},
		`{"active":true,"sub":"alice","client_id":"app","exp":1795356871,"iat":1795356271,"iss":"http://127.0.0.1:9411","aud":"https://api.example.test","scope":"read write","token_type":"Bearer"}`,
		code502A, true},
	{"oidc-provider active, RFC 9701", 200, []string{"cache-control: no-store", "Content-Type: application/token-introspection+jwt; charset=utf-8"},
		`<RFC 9701>`, code502A, false},
	{"oidc-provider revoked", 200, []string{"cache-control: no-store", "Content-Type: application/json; charset=utf-8"},
		`{"active":false}`, code401T, true},
	{"oidc-provider refresh token", 200, []string{"cache-control: no-store", "Content-Type: application/json; charset=utf-8"},
		`{"active":true,"sub":"alice","client_id":"app","exp":1795356936,"iat":1795356336,"iss":"http://127.0.0.1:9411","scope":"read write"}`,
		code502A, true},
	{"oidc-provider JWT access token", 400, []string{"cache-control: no-store", "Content-Type: application/json; charset=utf-8"},
		`{"error":"unsupported_token_type","error_description":"Structured JWT Tokens cannot be introspected via the introspection_endpoint"}`,
		code401T, true},
	{"oidc-provider wrong secret", 401, []string{
		"cache-control: no-store",
		`WWW-Authenticate: Basic realm="http://127.0.0.1:9411", error="invalid_client", error_description="client authentication failed"`,
		"Content-Type: application/json; charset=utf-8",
	}, `{"error":"invalid_client","error_description":"client authentication failed"}`, code502A, false},
	{"oidc-provider no credentials", 400, []string{"Content-Type: application/json; charset=utf-8"},
		`{"error":"invalid_request","error_description":"no client authentication mechanism provided"}`, code502A, false},
	{"oidc-provider credentials not form-encoded", 400, []string{"Content-Type: application/json; charset=utf-8"},
		`{"error":"invalid_request","error_description":"client_id and client_secret in the authorization header are not properly encoded"}`, code502A, false},
	{"oidc-provider encrypting client", 400, []string{"Content-Type: application/json; charset=utf-8"},
		`{"error":"invalid_request","error_description":"introspection must be requested with Accept: application/token-introspection+jwt for this client"}`, code502A, false},
	{"oidc-provider JSON request", 400, []string{"Content-Type: application/json; charset=utf-8"},
		`{"error":"invalid_request","error_description":"only application/x-www-form-urlencoded content-type bodies are supported on POST /token/introspection"}`, code502A, false},
	{"oidc-provider wrong path", 404, nil, ``, code502A, false},

	// The forms that bring the access token's JWT.
	{"Curity active", 200, []string{"cache-control: max-age=599", "Content-Type: application/jwt"}, `<JWT>`, codeOK, true},
	{"Curity revoked", 204, []string{"cache-control: no-store"}, ``, code401T, true},
	{"Curity token procedure active", 200, []string{"cache-control: no-store", "Content-Type: application/json; charset=utf-8"},
		`{"active":true,"sub":"alice","client_id":"app","exp":1795356871,"iat":1795356271,"iss":"http://127.0.0.1:9411","aud":"https://api.example.test","scope":"read write","token_type":"Bearer","phantom_token":"<JWT>"}`,
		codeOK, true},
	{"Keycloak active", 200, []string{"Cache-Control: no-cache", "Content-Type: application/json"},
		`{"active":true,"sub":"alice","client_id":"app","username":"alice","exp":1795356871,"token_type":"Bearer","jwt":"<JWT>"}`, codeOK, true},
	{"Keycloak without the client's switch", 200, []string{"Content-Type: application/json"},
		`{"active":true,"sub":"alice","client_id":"app","username":"alice","exp":1795356871,"token_type":"Bearer"}`, code502A, true},
	{"Keycloak revoked", 200, []string{"Content-Type: application/json"}, `{"active":false}`, code401T, true},
	{"Keycloak odd failure", 400, []string{"Content-Type: application/json"}, `{"error":"invalid_request","error_description":"Failed to introspect token."}`, code502A, false},
	{"Keycloak public client", 403, []string{"Content-Type: application/json"}, `{"error":"invalid_request","error_description":"Client not allowed."}`, code502A, false},

	// zitadel/oidc
	{"zitadel active", 200, []string{"Content-Type: application/json"},
		`{"active":true,"scope":"read write","client_id":"app","token_type":"Bearer","exp":1795356873,"iat":1795356273,"sub":"app","aud":["https://api.example.test","gw-basic","gw-key","gw:odd id"],"iss":"http://127.0.0.1:9421","jti":"e4ac2344-f84b-45b8-a219-e7de85e4132e"}`,
		code502A, true},
	{"zitadel revoked", 200, []string{"Content-Type: application/json"}, `{"active":false}`, code401T, true},
	{"zitadel wrong secret", 401, []string{"Content-Type: text/plain; charset=utf-8"}, "ErrorType=unauthorized_client Parent=unknown client\n", code502A, false},
	{"zitadel secret in the form", 401, []string{"Content-Type: text/plain; charset=utf-8"}, "ErrorType=invalid_client Parent=no client credentials provided\n", code502A, false},
	{"zitadel assertion for another", 401, []string{"Content-Type: text/plain; charset=utf-8"},
		`ErrorType=unauthorized_client Description=JWT assertion failed Parent=audience is not valid: Audience must contain client_id "http://127.0.0.1:9421"`, code502A, false},

	// Hydra
	{"Hydra active", 200, []string{"Cache-Control: private, no-cache, no-store, must-revalidate", "Content-Type: application/json;charset=UTF-8"},
		`{"active":true,"scope":"read write","client_id":"app","sub":"app","exp":1795356968,"iat":1795356368,"nbf":1795356368,"aud":["https://api.example.test"],"iss":"http://127.0.0.1:9431","token_type":"Bearer","token_use":"access_token"}`,
		code502A, true},
	{"Hydra refresh token", 200, []string{"Cache-Control: private, no-cache, no-store, must-revalidate", "Content-Type: application/json;charset=UTF-8"},
		`{"active":true,"scope":"read write","client_id":"app","sub":"app","exp":1795356968,"token_type":"Bearer","token_use":"refresh_token"}`,
		code401T, true},
	{"Hydra revoked", 200, []string{"Cache-Control: no-store", "Content-Type: application/json;charset=UTF-8", "Pragma: no-cache"},
		`{"active":false}`, code401T, true},
	{"Hydra empty body", 400, []string{"Content-Type: application/json;charset=UTF-8"},
		`{"error":"invalid_request","error_description":"The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed. The POST body can not be empty."}`,
		code502A, false},
	{"Hydra public port", 404, []string{"Content-Type: text/plain; charset=utf-8"}, "404 page not found\n", code502A, false},
	{"Hydra GET", 405, []string{"Allow: POST"}, "", code502A, false},

	// Others, as far as they differ.
	{"authentik revoked, claims kept", 200, []string{"Content-Type: application/json"},
		`{"active":false,"iss":"https://as.test","sub":"alice","exp":1795356871,"scope":"read write","client_id":"app"}`, code401T, true},
	{"CAS unknown, token echoed", 200, []string{"Content-Type: application/json"},
		`{"token":"AT-1-tok","active":false,"scope":"CAS"}`, code401T, true},
	{"OpenIddict refresh token", 200, []string{"Content-Type: application/json;charset=UTF-8"},
		`{"active":true,"sub":"alice","token_usage":"refresh_token","jwt":"<JWT>"}`, code401T, true},
	{"Duende's token_type", 200, []string{"Cache-Control: no-store", "Content-Type: application/json; charset=UTF-8"},
		`{"active":true,"sub":"alice","client_id":"app","token_type":"access_token","jwt":"<JWT>"}`, codeOK, true},
	{"CAS bound token", 200, []string{"Content-Type: application/json"},
		`{"active":true,"sub":"alice","client_id":"app","token_type":"DPoP","jwt":"<JWT>"}`, code401T, true},
	{"Janssen scope as an array", 200, []string{"Content-Type: application/json"},
		`{"active":true,"sub":"alice","client_id":"app","scope":["read","write"],"jwt":"<JWT>"}`, codeOK, true},
	{"WSO2 a JWT of the user's claims", 200, []string{"Content-Type: application/json"},
		`{"active":true,"sub":"alice","token_type":"JWT","token_string":"<JWT>"}`, code502A, true},
	{"Authlete wrong secret", 401, nil, "", code502A, false},
	{"Zitadel wrong secret", 400, []string{"Content-Type: application/json"}, `{"error":"unauthorized_client"}`, code502A, false},
	{"WSO2 unknown Accept", 406, []string{"Content-Type: text/html"}, "<html>", code502A, false},
}

// Each answer that a server of these was seen to give has its one outcome.
//
// Catalogue: A72, A77, A78, A80, A81, A98, A99, A115, A116.
func TestServersAreUnderstood(t *testing.T) {
	for _, tc := range dialects {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				jwt := mint("ES256", claims(nil))
				// Sent to us, about the access token, and signed with the same key.
				inner := claims(map[string]any{
					"aud": clientID, "token_introspection": map[string]any{"active": true, "sub": "alice"},
				})
				body := strings.NewReplacer(
					"<JWT>", jwt,
					"<RFC 9701>", mintHeader("ES256", `{"alg":"ES256","typ":"token-introspection+jwt","kid":"k-ES256"}`, inner),
				).Replace(tc.body)
				thrice(t, reply(tc.status, body, tc.fields...), tc.want, tc.remembered)
			})
		})
	}
}

// Keycloak compares the whole Accept field with one media type, and gives plain
// JSON to everything else: with the default the JWT comes, with
// WithJSONResponse it does not.
func TestKeycloakNeedsOneMediaType(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	keycloak := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "application/jwt" {
			reply(200, answerOf(jwt, map[string]any{"phantom_token": nil, "jwt": jwt}), asJSON)(w, r)
			return
		}
		reply(200, answerOf(jwt, map[string]any{"phantom_token": nil}), asJSON)(w, r)
	}
	thrice(t, keycloak, codeOK, true)
	thrice(t, keycloak, code502A, true, phantom.WithJSONResponse("jwt"))
}

// Curity answers by Accept: the bare JWT and 204, or JSON, and never a 204
// there.
func TestCurityIsUnderstoodInBothForms(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	curity := func(active bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			asked := r.Header.Get("Accept") == "application/jwt"
			switch {
			case asked && active:
				reply(200, jwt, asJWT, "Cache-Control: max-age=299", "Set-Cookie: cs=1; Path=/; HttpOnly")(w, r)
			case asked:
				reply(204, "")(w, r)
			case active:
				reply(200, answerOf(jwt, nil), asJSON)(w, r)
			default:
				reply(200, `{"active":false}`, asJSON)(w, r)
			}
		}
	}
	for _, extra := range [][]phantom.Option{nil, {phantom.WithJSONResponse("phantom_token")}} {
		thrice(t, curity(true), codeOK, true, extra...)
		thrice(t, curity(false), code401T, true, extra...)
	}
}

// oidc-provider decodes what is in Basic, and takes an assertion once only.
func TestOIDCProviderAcceptsOurCredentials(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	used := map[string]bool{}
	provider := func(w http.ResponseWriter, r *http.Request) {
		refuse := reply(401, `{"error":"invalid_client","error_description":"client authentication failed"}`, asJSON)
		encoded, basic := strings.CutPrefix(r.Header.Get("Authorization"), "Basic ")
		assertion := r.PostForm.Get("client_assertion")
		switch {
		case basic:
			pair, err := base64.StdEncoding.DecodeString(encoded)
			user, password, _ := strings.Cut(string(pair), ":")
			id, err1 := url.QueryUnescape(user)
			secret, err2 := url.QueryUnescape(password)
			if err != nil || err1 != nil || err2 != nil || id != "gw:odd id" || secret != "p%w+d é" {
				refuse(w, r)
				return
			}
		case assertion == "" || used[assertion] || r.PostForm.Get("client_id") != "gw:odd id":
			refuse(w, r)
			return
		}
		used[assertion] = true
		reply(200, answerOf(jwt, nil), asJSON)(w, r)
	}
	raw := authFunc(func(r *http.Request, _ url.Values) error {
		r.SetBasicAuth("gw:odd id", "p%w+d é")
		return nil
	})
	for _, tc := range []struct {
		name string
		auth phantom.ClientAuth
		want string
	}{
		{"Basic", phantom.ClientSecretBasic("gw:odd id", "p%w+d é"), codeOK},               // A120
		{"Basic, encoded raw", raw, code502A},                                              // A120
		{"assertion", phantom.PrivateKeyJWT("gw:odd id", "k", "ES256", p256Key()), codeOK}, // A122
		{"nothing", phantom.NoClientAuth(), code502A},                                      // A98
	} {
		as := newAS(t)
		as.introspect = provider
		m := as.middleware(phantom.WithClientAuth(tc.auth))
		for _, token := range []string{"one", "two", "three"} {
			if got := as.try(m, token); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	}
}

// A token is opaque to us, also if it looks like a JWT or has five parts. Each
// is asked about, byte for byte.
//
// Catalogue: R31, R32.
func TestTokensOfAnyShapeAreAskedAbout(t *testing.T) {
	tokens := []string{
		strings.Join([]string{"eyJhbGciOiJBMjU2R0NNS1ciLCJlbmMiOiJBMjU2R0NNIn0", "a", "b", "c", "d"}, "."), // zitadel/oidc
		"ory_at_zdNYMu9cHukZmolGZd0e3Mxo-x.NJKHrnBsfy8r0x",                                                 // Hydra
		mint("ES256", claims(nil)), // Keycloak's lightweight token
		mint("ES256", claims(map[string]any{"aud": "someone-else"})),
		"_0XBPWQQ_453276c1-8c9c-4b02-a5ba-98df9b8e0a3e", // Curity
		"AT-1-x~y+z/w==",
	}
	as := newAS(t)
	inner := mint("ES256", claims(nil))
	as.introspect = answerJWT(inner)
	m := as.middleware()
	var asked []string
	for _, token := range tokens {
		next := &spy{}
		if got := as.outcome(serve(m.Handler(next), get("Bearer "+as.secret(token))), next, 0); got != codeOK {
			t.Fatalf("%.20s: %s", token, got)
		}
		if got := next.last().Header.Get("Authorization"); got != "Bearer "+inner {
			t.Errorf("%.20s is handed on as %.30s", token, got)
		}
	}
	for _, r := range as.recorded(endpointPath) {
		asked = append(asked, r.PostForm.Get("token"))
	}
	if !slices.Equal(asked, tokens) {
		t.Errorf("asked about %q", asked)
	}
}

// Curity gives a max-age that is longer than our cap, so the cap counts. A
// token that is revoked there is refused a minute later.
//
// Catalogue: C214.
func TestCurityIsAskedWithinTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			reply(200, mint("ES256", claims(nil)), asJWT, "Cache-Control: max-age=299")(w, r)
		}
		m := as.middleware()
		for range 300 {
			if got := as.try(m, "tok"); got != codeOK {
				t.Fatal(got)
			}
			time.Sleep(time.Second)
		}
		// Refreshed ahead, in rounds of up to 48 s.
		if got := as.calls.Load(); got < 7 || got > 8 {
			t.Errorf("asked %d times in 300 s", got)
		}
		as.introspect = reply(204, "")
		time.Sleep(time.Minute)
		if got := as.try(m, "tok"); got != code401T {
			t.Errorf("revoked a minute ago: %s", got)
		}
	})
}
