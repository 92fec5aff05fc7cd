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
	{"DPoP key", `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`, code401T},
	{"certificate", `{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`, code401T},
	{"both", `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I","x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`, code401T},
	{"whole key", `{"jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}`, code401T},
	{"key by name", `{"kid":"k"}`, code401T},
	{"something new", `{"x-new":1}`, code401T},
	{"nothing in it", `{}`, code401T},
	{"null in it", `{"jkt":null}`, code401T},
	{"string", `"jkt"`, code401T},
	{"empty string", `""`, code401T},
	{"number", `0`, code401T},
	{"array", `[]`, code401T},
	{"array of objects", `[{"jkt":"x"}]`, code401T},
	{"true", `true`, code401T},
	{"false", `false`, code401T},
	{"null", `null`, codeOK},
}

// cnfNames are spellings of the one name.
var cnfNames = []struct{ name, json string }{
	{"plain", "cnf"},
	{"escaped", `\u0063nf`},
	{"escaped whole", `\u0063\u006e\u0066`},
}

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

// A bound token is not taken as a plain bearer token, also not by an entry that
// it would leave in the cache.
//
// Catalogue: D240, D242.
func TestBoundJWTIsRefused(t *testing.T) {
	bare := func(jwt string) http.HandlerFunc { return answerJWT(jwt) }
	profiles := []struct {
		name   string
		answer func(jwt string) http.HandlerFunc
		extra  []phantom.Option
	}{
		{"default", bare, nil},
		{"RFC 9068", bare, []phantom.Option{phantom.WithRFC9068()}},
		{"JSON", func(jwt string) http.HandlerFunc {
			return answerJSON(fmt.Sprintf(`{"active":true,"phantom_token":%q}`, jwt))
		}, []phantom.Option{phantom.WithJSONResponse("phantom_token")}},
	}
	for _, tc := range boundCases {
		for _, spelling := range cnfNames {
			for _, profile := range profiles {
				t.Run(tc.name+"/"+spelling.name+"/"+profile.name, func(t *testing.T) {
					as := newAS(t)
					jwt := es256(goodHeader, payloadWith(spelling.json, tc.value))
					as.introspect = profile.answer(jwt)
					as.secret(jwt)
					m := as.middleware(profile.extra...)
					if got := as.twice(m, "Bearer "+as.secret("opaque-token")); got != [2]string{tc.want, tc.want} {
						t.Errorf("%s, want %s", got, tc.want)
					}
					// A token stays bound: the refusal is remembered.
					if n := as.calls.Load(); n != 1 {
						t.Errorf("the server was asked %d times", n)
					}
				})
			}
		}
	}
}

// The server may say beside the JWT only that the token is bound. An
// Introspector of the caller's is judged by the same rules.
//
// Catalogue: D241, D242.
func TestTokenBoundByTheAnswerIsRefused(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	members := []struct {
		name  string
		extra []phantom.Option
	}{
		{"jwt", nil},
		{"phantom_token", []phantom.Option{phantom.WithJSONResponse("phantom_token")}},
	}
	for _, tc := range boundCases {
		for _, spelling := range cnfNames {
			t.Run(tc.name+"/"+spelling.name, func(t *testing.T) {
				want := [2]string{tc.want, tc.want}
				bound := fmt.Sprintf(`"%s":%s`, spelling.json, tc.value)
				for _, member := range members {
					as := newAS(t)
					as.introspect = answerJSON(fmt.Sprintf(`{"active":true,%s,"%s":%q}`, bound, member.name, as.secret(jwt)))
					got := as.twice(as.middleware(member.extra...), "Bearer "+as.secret("opaque-token"))
					if got != want {
						t.Errorf("%s: %s, want %s", member.name, got, tc.want)
					}
				}
				as := newAS(t)
				m := must(phantom.New(
					phantom.WithIssuer(issuer), phantom.WithAudience(audience),
					phantom.WithKeySet(phantom.StaticKeys(keyFor("ES256").Public())),
					phantom.WithIntrospector(askHook(func(context.Context, string) (*phantom.Introspection, error) {
						return &phantom.Introspection{Active: true, JWT: jwt, Claims: []byte("{" + bound + "}")}, nil
					}))))
				if got := as.twice(m, "Bearer "+as.secret("opaque-token")); got != want {
					t.Errorf("Introspector: %s, want %s", got, tc.want)
				}
			})
		}
	}
}

// No request makes a plain token of a bound one: not with a proof, not with a
// certificate, not by another scheme.
//
// Catalogue: D240, D241, D242.
func TestBoundTokenIsRefusedByEveryMounting(t *testing.T) {
	const dpopKey = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	bound := mint("ES256", claims(map[string]any{"cnf": map[string]string{"jkt": dpopKey}}))
	plain := mint("ES256", claims(nil))
	bearer := http.Header{"Authorization": {"Bearer opaque-token"}}
	for _, tc := range []struct {
		name       string
		introspect http.HandlerFunc
		header     http.Header
		want       string
	}{
		{"with a proof", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token"}, "Dpop": {plain}}, code401T},
		{"by the DPoP scheme", answerJWT(bound), http.Header{"Authorization": {"DPoP opaque-token"}, "Dpop": {plain}}, code401N},
		{"by both schemes", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token", "DPoP opaque-token"}}, code400R},
		{"with a certificate of a proxy", answerJWT(bound), http.Header{"Authorization": {"Bearer opaque-token"}, "Client-Cert": {":MIIB:"}, "X-Client-Cert": {"MIIB"}}, code401T},
		{"token type DPoP", answerJSON(fmt.Sprintf(`{"active":true,"token_type":"DPoP","phantom_token":%q}`, plain)), bearer, code401T},
		{"token type Bearer", answerJSON(fmt.Sprintf(`{"active":true,"token_type":"Bearer","phantom_token":%q}`, plain)), bearer, codeOK},
		{"bound in both places", answerJSON(fmt.Sprintf(`{"active":true,"cnf":{"jkt":"x"},"phantom_token":%q}`, bound)), bearer, code401T},
		{"null beside a bound JWT", answerJSON(fmt.Sprintf(`{"active":true,"cnf":null,"phantom_token":%q}`, bound)), bearer, code401T},
		{"bound, without a JWT", answerJSON(`{"active":true,"cnf":{"jkt":"x"}}`), bearer, code401T},
		{"a proof for a plain token", answerJWT(plain), http.Header{"Authorization": {"Bearer opaque-token"}, "Dpop": {"anything"}}, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("opaque-token")
			as.secret(bound)
			as.introspect = tc.introspect
			m := as.middleware()
			for _, mounting := range []struct {
				name string
				wrap func(http.Handler) http.Handler
			}{
				{"Handler", m.Handler},
				{"Optional", m.Optional},
				{"RequireScopes", m.RequireScopes("read")},
			} {
				r := get()
				r.Header = tc.header.Clone()
				if got := as.send(mounting.wrap, r); got != tc.want {
					t.Errorf("%s: %s, want %s", mounting.name, got, tc.want)
				}
			}
		})
	}
}

// A name that differs in case only would be cnf to a reader that folds case.
func TestCnfInOtherLettersIsRefused(t *testing.T) {
	for _, name := range []string{"CNF", "Cnf", "cnF"} {
		for _, value := range []string{`{"jkt":"x"}`, `null`} {
			if got := judge(t, es256(goodHeader, payloadWith(name, value))); got != code401T {
				t.Errorf("%s %s: %s", name, value, got)
			}
		}
	}
}

// A token that is bound from now on is refused once its entry has ended, and
// nothing of the entry comes back.
//
// Catalogue: D240.
func TestTokenThatIsBoundLaterIsRefused(t *testing.T) {
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
