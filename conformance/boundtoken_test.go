package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/phantom-token/phantom"
)

// boundCases are values of cnf (RFC 7800) and what they make of a token that
// is otherwise good.
var boundCases = []struct{ name, value, want string }{
	{"D240 DPoP key", `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`, code401T},
	{"D240 certificate", `{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`, code401T},
	{"D240 both", `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I","x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`, code401T},
	{"D240 whole key", `{"jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}`, code401T},
	{"D240 key by name", `{"kid":"k"}`, code401T},
	{"D240 something new", `{"x-new":1}`, code401T},
	{"D240 nothing in it", `{}`, code401T},
	{"D240 null in it", `{"jkt":null}`, code401T},
	{"D242 string", `"jkt"`, code401T},
	{"D242 empty string", `""`, code401T},
	{"D242 number", `0`, code401T},
	{"D242 array", `[]`, code401T},
	{"D242 array of objects", `[{"jkt":"x"}]`, code401T},
	{"D242 true", `true`, code401T},
	{"D242 false", `false`, code401T},
	{"D242 null", `null`, codeOK},
}

// cnfNames are spellings of the one name.
var cnfNames = map[string]string{"plain": "cnf", "escaped": `\u0063nf`, "escaped whole": `\u0063\u006e\u0066`}

// payloadWith is the default payload with one more member, given as JSON text.
func payloadWith(name, value string) string {
	payload := string(must(json.Marshal(claims(nil))))
	return payload[:len(payload)-1] + fmt.Sprintf(`,"%s":%s}`, name, value)
}

// twice sends a token by the Authorization value and returns the outcomes of a
// first and a second request.
func (as *fakeAS) twice(m *phantom.Middleware, authorization string) [2]string {
	return [2]string{as.send(m.Handler, get(authorization)), as.send(m.Handler, get(authorization))}
}

// A bound token is never taken as a plain bearer token, also not by an entry
// that it would leave in the cache.
func TestBoundJWT(t *testing.T) {
	for _, c := range boundCases {
		for spelling, name := range cnfNames {
			for profile, extra := range map[string][]phantom.Option{
				"default": nil, "RFC 9068": {phantom.WithRFC9068()}, "JSON": {phantom.WithJSONResponse("phantom_token")},
			} {
				t.Run(c.name+"/"+spelling+"/"+profile, func(t *testing.T) {
					as := newAS(t)
					jwt := compact("ES256", keyFor("ES256"), `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`, payloadWith(name, c.value))
					as.introspect = answerJWT(jwt)
					if profile == "JSON" {
						as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"phantom_token":%q}`, jwt))
					}
					as.secret(jwt)
					m := as.middleware(extra...)
					if got := as.twice(m, "Bearer "+as.secret("opaque-token")); got != [2]string{c.want, c.want} {
						t.Errorf("%s, want %s", got, c.want)
					}
					// Our own refusal is no word of the server: it is asked again.
					calls := int64(2)
					if c.want == codeOK {
						calls = 1
					}
					if n := as.calls.Load(); n != calls {
						t.Errorf("the server was asked %d times, want %d", n, calls)
					}
				})
			}
		}
	}
}

// D241: the server may say it beside the JWT only.
func TestBoundIntrospection(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, c := range boundCases {
		for spelling, name := range cnfNames {
			t.Run("D241 "+c.name+"/"+spelling, func(t *testing.T) {
				for member, extra := range map[string][]phantom.Option{
					"jwt": nil, "phantom_token": {phantom.WithJSONResponse("phantom_token")},
				} {
					as := newAS(t)
					as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"%s":%s,"%s":%q}`, name, c.value, member, as.secret(jwt)))
					if got := as.twice(as.middleware(extra...), "Bearer "+as.secret("opaque-token")); got != [2]string{c.want, c.want} {
						t.Errorf("%s: %s, want %s", member, got, c.want)
					}
				}
				// An Introspector of the caller's is judged by the same rules.
				as := newAS(t)
				m := must(phantom.New(
					phantom.WithIssuer(issuer), phantom.WithAudience(audience),
					phantom.WithKeySet(phantom.StaticKeys(keyFor("ES256").Public())),
					phantom.WithIntrospector(askHook(func(context.Context, string) (*phantom.Introspection, error) {
						return &phantom.Introspection{Active: true, JWT: jwt, Claims: fmt.Appendf(nil, `{"%s":%s}`, name, c.value), MaxAge: -1}, nil
					}))))
				if got := as.twice(m, "Bearer "+as.secret("opaque-token")); got != [2]string{c.want, c.want} {
					t.Errorf("Introspector: %s, want %s", got, c.want)
				}
			})
		}
	}
}

// Other signs of a bound token, and requests that try to use one as what it is.
func TestBoundRequests(t *testing.T) {
	bound := mint("ES256", claims(map[string]any{"cnf": map[string]string{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}))
	plain := mint("ES256", claims(nil))
	for _, c := range []struct {
		name       string
		introspect http.HandlerFunc
		header     http.Header
		want       string
	}{
		{"D240 with a proof", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token"}, "Dpop": {plain}}, code401T},
		{"D240 by the DPoP scheme", answerJWT(bound), http.Header{"Authorization": {"DPoP opaque-token"}, "Dpop": {plain}}, code401N},
		{"D240 by both schemes", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token", "DPoP opaque-token"}}, code400R},
		{"D240 with a certificate of a proxy", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token"}, "Client-Cert": {":MIIB:"}, "X-Client-Cert": {"MIIB"}}, code401T},
		{"D241 token type DPoP", answerJSON(fmt.Sprintf(`{"active":true,"token_type":"DPoP","phantom_token":%q}`, plain)), http.Header{"Authorization": {"Bearer opaque-token"}}, code401T},
		{"D241 token type Bearer", answerJSON(fmt.Sprintf(`{"active":true,"token_type":"Bearer","phantom_token":%q}`, plain)), http.Header{"Authorization": {"Bearer opaque-token"}}, codeOK},
		{"D241 bound in both places", answerJSON(fmt.Sprintf(`{"active":true,"cnf":{"jkt":"x"},"phantom_token":%q}`, bound)), http.Header{"Authorization": {"Bearer opaque-token"}}, code401T},
		{"D241 null beside a bound JWT", answerJSON(fmt.Sprintf(`{"active":true,"cnf":null,"phantom_token":%q}`, bound)), http.Header{"Authorization": {"Bearer opaque-token"}}, code401T},
		{"D241 bound, without a JWT", answerJSON(`{"active":true,"cnf":{"jkt":"x"}}`), http.Header{"Authorization": {"Bearer opaque-token"}}, code401T},
		{"D242 a proof for a plain token", answerJWT(plain), http.Header{"Authorization": {"Bearer opaque-token"}, "Dpop": {"anything"}}, codeOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			as.secret(bound)
			as.introspect = c.introspect
			m := as.middleware()
			for mounting, wrap := range map[string]func(http.Handler) http.Handler{
				"Handler": m.Handler, "Optional": m.Optional, "RequireScopes": m.RequireScopes("read"),
			} {
				r := get()
				r.Header = c.header.Clone()
				if got := as.send(wrap, r); got != c.want {
					t.Errorf("%s: %s, want %s", mounting, got, c.want)
				}
			}
		})
	}
}

// A name that differs in case only would be cnf to a reader that folds case.
func TestBoundInAnotherCase(t *testing.T) {
	for _, name := range []string{"CNF", "Cnf", "cnF"} {
		for _, value := range []string{`{"jkt":"x"}`, `null`} {
			jwt := compact("ES256", keyFor("ES256"), `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`, payloadWith(name, value))
			if got := judge(t, jwt); got != code401T {
				t.Errorf("%s %s: %s", name, value, got)
			}
		}
	}
}

// A token that is bound from now on: what was remembered ends with its entry,
// and nothing of it comes back.
func TestBoundLater(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Fatalf("%s", got)
	}
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"cnf": map[string]string{"jkt": "x"}})))
	m.Forget("opaque-token")
	if got := as.twice(m, "Bearer opaque-token"); got != [2]string{code401T, code401T} {
		t.Errorf("%s", got)
	}
}
