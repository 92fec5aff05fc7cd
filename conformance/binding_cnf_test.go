package conformance_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// Thumbprints of keys that nothing has.
var (
	thumbA = b64([]byte(strings.Repeat("a", 32)))
	thumbB = b64([]byte(strings.Repeat("b", 32)))
)

// A recorder makes Bindings that pass, and records what they are asked.
type recorder struct {
	mu    sync.Mutex
	asked []string
}

func (c *recorder) binding(method, scheme string) phantom.Binding {
	return phantom.Binding{Method: method, Scheme: scheme, Check: func(_ *http.Request, token, thumbprint string) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, method+" "+token+" "+thumbprint)
		return nil
	}}
}

// Each confirmation method in cnf needs a Binding, all must hold, and at least
// one must be there. What is no method is ignored.
//
// Catalogue: E17.
func TestEachConfirmationMethodIsChecked(t *testing.T) {
	key, cert := "jkt "+boundToken+" ", "x5t#S256 "+boundToken+" "
	for _, tc := range []struct {
		name string
		cnf  string
		want string // what is checked when both, only keys, and only certificates are
	}{
		{"key", `{"jkt":"A"}`, key + "A; " + key + "A; -"},
		{"certificate", `{"x5t#S256":"B"}`, cert + "B; -; " + cert + "B"},
		{"both", `{"jkt":"A","x5t#S256":"B"}`, cert + "B, " + key + "A; -; -"},
		{"beside Keycloak's", `{"kc-jkt-type":"x","jkt":"A"}`, key + "A; " + key + "A; -"},
		{"and a null", `{"jkt":"A","x5t#S256":null}`, key + "A; " + key + "A; -"},
		{"and a whole key", `{"jkt":"A","jwk":{"kty":"OKP"}}`, "-; -; -"},
		{"and an encrypted key", `{"jkt":"A","jwe":"x"}`, "-; -; -"},
		{"and a URL of keys", `{"jkt":"A","jku":"x"}`, "-; -; -"},
		{"and the name of a key", `{"jkt":"A","kid":"x"}`, "-; -; -"},
		{"and a method in other letters", `{"jkt":"A","X5T#s256":"B"}`, "-; -; -"},
		{"other letters", `{"JKT":"A"}`, "-; -; -"},
		{"only what is no method", `{"kc-jkt-type":"x"}`, "-; -; -"},
		{"null", `{"jkt":null}`, "-; -; -"},
		{"number", `{"jkt":1}`, "-; -; -"},
		{"array", `{"jkt":["A"]}`, "-; -; -"},
		{"empty", `{"jkt":""}`, "-; -; -"},
		{"short", `{"jkt":"` + b64(make([]byte, 31)) + `"}`, "-; -; -"},
		{"long", `{"jkt":"` + b64(make([]byte, 33)) + `"}`, "-; -; -"},
		{"padded", `{"jkt":"A="}`, "-; -; -"},
		{"with a line break", `{"jkt":"A\n"}`, "-; -; -"},
		{"of the other alphabet", `{"jkt":"` + strings.Repeat("/", 43) + `"}`, "-; -; -"},
		{"with bits that count for nothing", `{"jkt":"` + strings.Repeat("_", 43) + `"}`, "-; -; -"},
		{"text", `"A"`, "-; -; -"},
	} {
		fill := strings.NewReplacer(`"A`, `"`+thumbA, `"B`, `"`+thumbB, " A", " "+thumbA, " B", " "+thumbB)
		var got []string
		for _, methods := range [][]string{{"jkt", "x5t#S256"}, {"jkt"}, {"x5t#S256"}} {
			as, checks := newAS(t), &recorder{}
			as.introspect = answerJWT(es256(goodHeader, payloadWith("cnf", fill.Replace(tc.cnf))))
			var opts []phantom.Option
			for _, method := range methods {
				opts = append(opts, phantom.WithBinding(checks.binding(method, map[string]string{"jkt": "DPoP"}[method])))
			}
			m, passed := as.middleware(opts...), 0
			for _, scheme := range []string{"Bearer ", "DPoP "} {
				switch told := as.told(m.Handler, get(scheme+as.secret(boundToken))); {
				case told == codeOK:
					passed++
				case !strings.HasPrefix(told, "401"):
					t.Errorf("%s: %s", tc.name, told)
				}
			}
			asked := strings.Join(checks.asked, ", ")
			if asked == "" {
				asked = "-"
			}
			if passed > 1 || (passed == 1) != (asked != "-") {
				t.Errorf("%s: passed %d times, checked %s", tc.name, passed, asked)
			}
			got = append(got, asked)
		}
		if want := fill.Replace(tc.want); strings.Join(got, "; ") != want {
			t.Errorf("%s: checked %s, want %s", tc.name, strings.Join(got, "; "), want)
		}
	}
}

// The answer and the JWT say the same of the key, or one of them says nothing. A
// word such as DPoP is right for a token that comes under this scheme.
//
// Catalogue: E18, E24.
func TestAnswerAndJWTAgreeOnTheKey(t *testing.T) {
	jkt := func(thumbprint string) map[string]any { return map[string]any{"jkt": thumbprint} }
	for _, tc := range []struct {
		name        string
		answer, jwt map[string]any
		want        string // under DPoP, and with no Binding
	}{
		{"the JWT alone", nil, map[string]any{"cnf": jkt(thumbA)}, "OK; 401"},
		{"the answer alone", map[string]any{"cnf": jkt(thumbA)}, nil, "OK; 401"},
		{"both", map[string]any{"cnf": jkt(thumbA)}, map[string]any{"cnf": jkt(thumbA)}, "OK; 401"},
		{"both, and null", map[string]any{"cnf": null}, map[string]any{"cnf": jkt(thumbA)}, "OK; 401"},
		{"different keys", map[string]any{"cnf": jkt(thumbB)}, map[string]any{"cnf": jkt(thumbA)}, "401; 401"},
		{"the answer is unfit", map[string]any{"cnf": jkt("x")}, map[string]any{"cnf": jkt(thumbA)}, "401; 401"},
		{"the JWT is unfit", map[string]any{"cnf": jkt(thumbA)}, map[string]any{"cnf": jkt("x")}, "401; 401"},
		{"token_type DPoP", map[string]any{"token_type": "DPoP"}, map[string]any{"cnf": jkt(thumbA)}, "OK; 401"}, // E24
		{"token_type and typ DPoP", map[string]any{"token_type": "dpop"}, map[string]any{"cnf": jkt(thumbA), "typ": "DPoP"}, "OK; 401"},
		{"token_type pop", map[string]any{"token_type": "pop"}, map[string]any{"cnf": jkt(thumbA)}, "401; 401"},
		{"token_type DPoP, unbound", map[string]any{"token_type": "DPoP"}, nil, "401; 401"},
		{"typ DPoP, unbound", nil, map[string]any{"typ": "DPoP"}, "401; 401"},
		{"typ DPoP and a nonce", nil, map[string]any{"cnf": jkt(thumbA), "typ": "DPoP", "nonce": "n"}, "OK; 401"},
		{"a refresh token", map[string]any{"token_type": "Refresh"}, map[string]any{"cnf": jkt(thumbA)}, "401; 401"},
	} {
		as, checks := newAS(t), &recorder{}
		body := map[string]any{"active": true, "phantom_token": mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256"}`, claims(tc.jwt))}
		for name, value := range tc.answer {
			body[name] = value
		}
		as.introspect = answerJSON(cnfJSON(body))
		outcome := func(m *phantom.Middleware, scheme string) string {
			told, _, _ := strings.Cut(as.told(m.Handler, get(scheme+" "+as.secret(boundToken))), " ")
			return told
		}
		got := outcome(as.middleware(phantom.WithBinding(checks.binding("jkt", "DPoP"))), "DPoP") +
			"; " + outcome(as.middleware(), "Bearer")
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if want := fmt.Sprint("[jkt ", boundToken, " ", thumbA, "]"); strings.HasPrefix(tc.want, "OK") && fmt.Sprint(checks.asked) != want {
			t.Errorf("%s: checked %s", tc.name, checks.asked)
		}
	}
}

// Where the JWT comes from elsewhere, the answer's cnf counts, and the JWT must
// have none. Where the client's token is the JWT, its own does.
//
// Catalogue: E21.
func TestTheKeyIsTheClientsInEveryMode(t *testing.T) {
	cnf := map[string]any{"cnf": map[string]any{"jkt": thumbA}}
	bound := func(checks *recorder) phantom.Option { return phantom.WithBinding(checks.binding("jkt", "DPoP")) }
	minter := func(changes map[string]any) phantom.Option {
		own := newMinter()
		own.changes = changes
		return phantom.WithMinter(own)
	}
	jwt := mint("ES256", claims(cnf))
	for _, tc := range []struct {
		name  string
		token string
		make  func(as *fakeAS, b phantom.Option) *phantom.Middleware
		want  string
	}{
		{"no JWT", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(cnf)
			return as.claimsOnly(b)
		}, "OK 1"},
		{"no JWT, token_type DPoP", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(map[string]any{"cnf": cnf["cnf"], "token_type": "DPoP"})
			return as.claimsOnly(b)
		}, "OK 1"},
		{"no JWT, token_type DPoP, unbound", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(map[string]any{"token_type": "DPoP"})
			return as.claimsOnly(b)
		}, "401 DPoP=invalid_token Bearer 0"},
		{"minted", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(cnf)
			return must(phantom.New(as.withoutKeys(minter(nil), b)...))
		}, "OK 1"},
		{"minted with a cnf", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(cnf)
			return must(phantom.New(as.withoutKeys(minter(cnf), b)...))
		}, "502 0"},
		{"exchanged", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect, as.metadata = answerMembers(cnf), answerExchange(nil)
			return as.exchanging(b)
		}, "OK 1"},
		{"exchanged with a cnf", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			as.introspect = answerMembers(cnf)
			as.metadata = answerExchange(map[string]any{"access_token": exchangedJWT(cnf)})
			return as.exchanging(b)
		}, "502 0"},
		{"signed", boundToken, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			inside := map[string]any{
				"iss": issuer, "aud": clientID, "iat": time.Now().Unix(), "token_introspection": members(cnf),
			}
			header := fmt.Sprintf(`{"alg":"ES256","kid":"k-ES256","typ":%q}`, signedResponseTyp)
			as.introspect = answer(200, signedMedia, compact("ES256", p256Key(), header, cnfJSON(inside)))
			return as.middleware(phantom.WithoutJWT(), phantom.WithSignedResponse(clientID), b)
		}, "OK 1"},
		{"the client's own JWT", jwt, func(as *fakeAS, b phantom.Option) *phantom.Middleware {
			return as.direct(b)
		}, "OK 1"},
	} {
		as, checks := newAS(t), &recorder{}
		m := tc.make(as, bound(checks))
		for hits := range 2 {
			got := as.told(m.Handler, get("DPoP "+as.secret(tc.token)))
			want := tc.want
			if hits > 0 && strings.HasSuffix(want, "1") {
				want = "OK 2"
			}
			if got += fmt.Sprint(" ", len(checks.asked)); got != want {
				t.Errorf("%s: %s, want %s", tc.name, got, want)
			}
		}
	}
}

// A supplied JWT is not bound, even by a method that a Binding checks: it is for
// the upstream, which gets no proof.
//
// Catalogue: E21.
func TestSuppliedJWTIsNeverBound(t *testing.T) {
	c := newClient()
	cnf := map[string]any{"jkt": c.Thumbprint()}
	for _, tc := range []struct {
		name string
		cnf  any
		want string
	}{{"unbound", nil, codeOK}, {"bound", cnf, code502A}} {
		as := newAS(t)
		as.introspect = answerMembers(nil)
		minter := newMinter()
		minter.changes = map[string]any{"cnf": tc.cnf}
		if got := as.try(as.minting(minter, phantom.WithBinding(proofs())), "opaque-token"); got != tc.want {
			t.Errorf("minted, %s: %s, want %s", tc.name, got, tc.want)
		}
		jwt := claims(map[string]any{"aud": "upstream"})
		if tc.cnf != nil {
			jwt["cnf"] = tc.cnf
		}
		as.metadata = answerExchange(map[string]any{"access_token": mint("ES256", jwt)})
		if got := as.try(as.exchanging(phantom.WithBinding(proofs())), "opaque-token"); got != tc.want {
			t.Errorf("exchanged, %s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// A member without Bindings takes no token under the scheme that the dispatcher
// reads for another member.
//
// Catalogue: E27.
func TestSchemeOfAnotherMemberIsNotTaken(t *testing.T) {
	d, _, _, _, b := twoServers(t, []phantom.Option{phantom.WithBinding(proofs())}, nil)
	next := &spy{}
	if rec := serve(d.Handler(next), get("DPoP b-token")); rec.Code != 401 || next.calls() != 0 {
		t.Errorf("under the other's scheme: %d", rec.Code)
	}
	if rec := serve(d.Handler(next), get("Bearer b-token")); rec.Code != 200 || next.calls() != 1 || b.calls.Load() != 1 {
		t.Errorf("under its own: %d, %d introspections", rec.Code, b.calls.Load())
	}
}
