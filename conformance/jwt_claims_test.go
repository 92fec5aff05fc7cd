package conformance_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// The audience is ours if it equals ours to the byte, alone or in an array of
// strings.
//
// Catalogue: J167, J168.
func TestAudienceIsCompared(t *testing.T) {
	aud := func(value string) string { return claim("aud", value) }
	runJWTCases(t, []jwtCase{
		{"string", aud(`"https://rs.test"`), codeOK, "", ""},
		{"array", aud(`["https://other.test","https://rs.test"]`), codeOK, "", ""},
		{"escaped", aud(`"https:\/\/rs\u002etest"`), codeOK, "", ""},
		{"array without", aud(`["https://other.test"]`), code401T, "aud", ""},
		{"missing", aud(""), code401T, "aud", ""},
		{"empty", aud(`""`), code401T, "aud", ""},
		{"empty array", aud(`[]`), code401T, "aud", ""},
		{"null", aud(`null`), code401T, "aud", ""},
		{"array of null", aud(`[null]`), code401T, "aud", ""},
		{"array in array", aud(`[["https://rs.test"]]`), code401T, "aud", ""},
		{"object", aud(`{"https://rs.test":1}`), code401T, "aud", ""},
		{"number", aud(`1`), code401T, "aud", ""},
		{"true", aud(`true`), code401T, "aud", ""},
		{"ours beside a number", aud(`["https://rs.test",1]`), code401T, "aud", ""},
		{"other case", aud(`"https://RS.test"`), code401T, "aud", ""},
		{"extra slash", aud(`"https://rs.test/"`), code401T, "aud", ""},
		{"space", aud(`" https://rs.test"`), code401T, "aud", ""},
		{"two in one string", aud(`"https://rs.test https://other.test"`), code401T, "aud", ""},
		{"NUL", aud(`"https://rs.test\u0000https://other.test"`), code401T, "aud", ""},
		{"only AUD", es256(goodHeader, strings.Replace(goodPayload(), `"aud"`, `"AUD"`, 1)), code401T, "ambiguous aud", ""},
		{"as a prefix", aud(`"https://rs.test.evil.example"`), code401T, "aud", ""},
		{"with a path", aud(`"https://rs.test/../"`), code401T, "aud", ""},
		{"as user information", aud(`"https://rs.test@evil.example"`), code401T, "aud", ""},
		{"as a suffix", aud(`"evil+https://rs.test"`), code401T, "aud", ""},
		{"cut off", aud(`"https://rs.tes"`), code401T, "aud", ""},
		{"wildcard", aud(`"*"`), code401T, "aud", ""},
		{"pattern", aud(`"https://.*"`), code401T, "aud", ""},
	})
}

// The issuer equals ours to the byte.
//
// Catalogue: J169.
func TestIssuerIsCompared(t *testing.T) {
	iss := func(value string) string { return claim("iss", value) }
	runJWTCases(t, []jwtCase{
		{"wrong", iss(`"https://other.test"`), code401T, "iss", ""},
		{"other case", iss(`"https://AS.test"`), code401T, "iss", ""},
		{"extra slash", iss(`"https://as.test/"`), code401T, "iss", ""},
		{"array", iss(`["https://as.test"]`), code401T, "iss", ""},
		{"missing", iss(""), code401T, "iss", ""},
		{"null", iss(`null`), code401T, "iss", ""},
		{"empty", iss(`""`), code401T, "iss", ""},
		{"HTTPS", iss(`"HTTPS://as.test"`), code401T, "iss", ""},
		{"http", iss(`"http://as.test"`), code401T, "iss", ""},
		{"port", iss(`"https://as.test:443"`), code401T, "iss", ""},
		{"another realm", iss(`"https://as.test/realms/evil"`), code401T, "iss", ""},
		{"look-alike", iss(`"https://аs.test"`), code401T, "iss", ""},
		{"NUL", iss(`"https://as.test\u0000"`), code401T, "iss", ""},
		{"escaped", iss(`"https:\/\/as.test"`), codeOK, "", ""},
	})
}

// A JWT has a subject, which is any text but an empty one.
//
// Catalogue: J171.
func TestSubjectIsRequired(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"missing", claim("sub", ""), code401T, "sub", ""},
		{"null", claim("sub", `null`), code401T, "sub", ""},
		{"empty", claim("sub", `""`), code401T, "sub", ""},
		{"number", claim("sub", `1`), code401T, "sub", ""},
		{"array", claim("sub", `["alice"]`), code401T, "sub", ""},
		{"any text", claim("sub", `"Ωé\u0000 \"\ud83d\ude00"`), codeOK, "", ""},
		{"Sub beside sub", claim("Sub", `"root"`), code401T, "ambiguous sub", ""},
		{"long s", claim("\u017fub", `"root"`), code401T, "ambiguous sub", ""},
		{"only SUB", es256(goodHeader, strings.Replace(goodPayload(), `"sub"`, `"SUB"`, 1)), code401T, "ambiguous sub", ""},
	})
}

// The profile of RFC 9068 wants client_id and jti. Both profiles refuse them if
// they are no strings.
//
// Catalogue: J172.
func TestClientIDAndJTIByProfile(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"client_id missing", claim("client_id", ""), codeOK, "client_id", code401T},
		{"jti missing", claim("jti", ""), codeOK, "jti", code401T},
		{"client_id empty", claim("client_id", `""`), codeOK, "client_id", code401T},
		{"jti empty", claim("jti", `""`), codeOK, "jti", code401T},
		{"client_id number", claim("client_id", `1`), code401T, "client_id", ""},
		{"jti null", claim("jti", `null`), codeOK, "jti", code401T},
		{"only azp", es256(goodHeader, strings.Replace(goodPayload(), `"client_id"`, `"azp"`, 1)), codeOK, "client_id", code401T},
		{"Client_ID beside client_id", claim("Client_ID", `"admin"`), code401T, "ambiguous client_id", ""},
	})
}

// A second scope in other letters would confuse a reader that folds case.
//
// Catalogue: J174.
func TestScopeInUpperCaseIsRefused(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"SCOPE beside scope", claim("SCOPE", `"admin"`), code401T, "ambiguous scope", ""},
	})
}

// An ID token, a refresh token or another JWT of the issuer is no access
// token, with or without an audience check.
//
// Catalogue: J146.
func TestIDTokenIsRefused(t *testing.T) {
	idToken := map[string]any{
		"aud": "app", "nonce": "n-0S6_WzA2Mj", "azp": "app", "auth_time": time.Now().Unix(),
		"client_id": nil, "scope": nil, "jti": nil,
	}
	for _, tc := range []struct {
		name    string
		header  string
		changes map[string]any
		option  phantom.Option
		detail  string
	}{
		{"for the client", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, nil, nil, "aud"},
		{"for the client, any audience", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, nil, phantom.WithoutAudienceCheck(), "not an access token: nonce"},
		{"without typ", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": []string{"app", audience}}, nil, "not an access token: nonce"},
		{"with at_hash", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "at_hash": "x"}, nil, "not an access token: at_hash"},
		{"with c_hash", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "c_hash": "x"}, nil, "not an access token: c_hash"},
		{"Keycloak's", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, map[string]any{"aud": audience, "nonce": nil, "typ": "ID"}, nil, "not an access token: typ"},
		{"Keycloak's refresh token", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, map[string]any{"aud": audience, "nonce": nil, "typ": "Refresh"}, nil, "not an access token: typ"},
		{"Curity's", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "purpose": "id"}, nil, "not an access token: purpose"},
		{"Amazon's", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "token_use": "id"}, nil, "not an access token: token_use"},
		{"token_use of another type", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "token_use": 1}, nil, "not an access token: token_use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changes := map[string]any{}
			maps.Copy(changes, idToken)
			maps.Copy(changes, tc.changes)
			as := newAS(t)
			as.introspect = answerJWT(mintHeader("ES256", tc.header, claims(changes)))
			options := as.options()
			if tc.option != nil { // in place of the audience
				options[1] = tc.option
			}
			book := as.logBook()
			m := must(phantom.New(append(options, phantom.WithLogger(slog.New(book)))...))
			if got := as.try(m, "opaque"); got != code401T {
				t.Error(got)
			}
			checkLine(t, book.take(), code401T, tc.detail)
			strict := must(phantom.New(append(options, phantom.WithRFC9068())...))
			if got := as.try(strict, "opaque"); got != code401T {
				t.Errorf("RFC 9068: %s", got)
			}
		})
	}
}

// A JWT that says it is something else than an access token is refused.
//
// Catalogue: J146.
func TestTokenThatNamesAnotherKindIsRefused(t *testing.T) {
	words := []string{"id", "ID_Token", "refresh", "refresh_token", "Offline", "offline_access", "logout", "DPoP"}
	for _, word := range words {
		for _, name := range []string{"typ", "purpose", "token_type"} {
			t.Run(name+" "+word, func(t *testing.T) {
				trial(t, mint("ES256", claims(map[string]any{name: word})), code401T, "not an access token: "+name)
			})
		}
	}
}

// A claim that we judge must not come in other letters: a reader that folds
// case would take it for the one that we judged.
//
// Catalogue: J166.
func TestClaimInOtherLettersIsRefused(t *testing.T) {
	for _, name := range []string{
		"ISS", "Sub", "aUD", "Exp", "Nbf", "IAT", "Jti", "Client_id", "AZP", "Scope", "CNF", "Act",
		"token_Use", "Token_usage", "TOKEN_TYPE",
	} {
		t.Run(name, func(t *testing.T) {
			trial(t, mint("ES256", claims(map[string]any{name: "x"})), code401T, "ambiguous "+strings.ToLower(name))
		})
	}
}

// An access token may carry a nonce, and may be called an access token in
// several ways.
//
// Catalogue: J146.
func TestAccessTokenByOtherNamesIsAccepted(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes map[string]any
	}{
		{"nonce in an access token that says it is one", map[string]any{"nonce": "n"}},
		{"access tokens by other names", map[string]any{"token_use": "access", "typ": "Bearer", "purpose": "access_token"}},
	} {
		t.Run(tc.name, func(t *testing.T) { trial(t, mint("ES256", claims(tc.changes)), codeOK, "") })
	}
}

// WithoutAudienceCheck takes any audience and none, but a claim that is no
// audience by its form is refused still.
//
// Catalogue: J167.
func TestWithoutAudienceCheckTakesAnyAudience(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"missing", ``, codeOK},
		{"another", `"https://other.test"`, codeOK},
		{"array", `["a","b"]`, codeOK},
		{"empty array", `[]`, codeOK},
		{"null", `null`, code401T},
		{"empty", `""`, code401T},
		{"number", `1`, code401T},
		{"array in array", `[["x"]]`, code401T},
		{"object", `{"x":1}`, code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(claim("aud", tc.value))
			options := as.options()
			options[1] = phantom.WithoutAudienceCheck()
			if got := as.try(must(phantom.New(options...)), "opaque"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// Of several audiences of ours one is enough.
//
// Catalogue: J167.
func TestOneOfSeveralAudiencesIsEnough(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"the first", `"https://rs.test"`, codeOK},
		{"the second", `"rs"`, codeOK},
		{"in an array", `["x","rs"]`, codeOK},
		{"both in one string", `"https://rs.test,rs"`, code401T},
		{"neither", `"x"`, code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := judge(t, claim("aud", tc.value), phantom.WithAudience(audience, "rs")); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// A required scope has to be in the JWT, as a word of its own. A token without
// it stays good for what needs no scope.
//
// Catalogue: J173, J174.
func TestScopeIsAWordOfItsOwn(t *testing.T) {
	for _, tc := range []struct{ name, scope, want string }{
		{"string", `"read write"`, codeOK},
		{"array", `["read","write"]`, codeOK},
		{"longer name", `"readonly"`, code403S},
		{"absent", ``, code403S},
		{"null", `null`, code403S},
		{"empty", `""`, code403S},
		{"array of arrays", `[["read"]]`, code403S},
		{"array with a number", `["read",1]`, code403S},
		{"object", `{"read":true}`, code403S},
		{"true", `true`, code403S},
		{"two in one element", `["read write"]`, codeOK},
		{"last", `"write read"`, codeOK},
		{"prefix", `"rea"`, code403S},
		{"quoted", `"\"read\""`, code403S},
		{"wildcard", `"*"`, code403S},
		{"two spaces", `"write  read"`, codeOK},
		{"spaces around", `" read "`, codeOK},
		{"tab", `"write\tread"`, code403S},
		{"line break", `"write\nread"`, code403S},
		{"no-break space", `"write\u00a0read"`, code403S},
		{"comma", `"write,read"`, code403S},
		{"upper case", `"READ"`, code403S},
		{"NUL", `"read\u0000"`, code403S},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, extra := range [][]phantom.Option{nil, {phantom.WithRFC9068()}} {
				as := newAS(t)
				as.introspect = answerJWT(claim("scope", tc.scope))
				m := as.middleware(extra...)
				next := &spy{}
				rec := serve(m.RequireScopes("read")(next), get("Bearer "+as.secret("opaque")))
				if got := as.outcome(rec, next, 0); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
				const challenge = `Bearer realm="api", error="insufficient_scope", scope="read"`
				if tc.want == code403S && rec.Header().Get("WWW-Authenticate") != challenge {
					t.Errorf("challenge %q", rec.Header()["Www-Authenticate"])
				}
				// The token itself is as good as any, and known.
				if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != 1 {
					t.Errorf("without the requirement %s, %d introspections", got, as.calls.Load())
				}
			}
		})
	}
}

// A handler reads each number with all its digits.
//
// Catalogue: J175.
func TestNumbersKeepAllDigits(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(claim("uid", "9007199254740993"))
	next := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		got, err := phantom.Claims[struct {
			UID int64 `json:"uid"`
		}](r.Context())
		if err != nil || got.UID != 9007199254740993 {
			t.Errorf("uid %d, %v", got.UID, err)
		}
		loose, err := phantom.Claims[map[string]any](r.Context())
		if err != nil || loose["uid"] != json.Number("9007199254740993") {
			t.Errorf("uid %v (%T), %v", loose["uid"], loose["uid"], err)
		}
	}}
	if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer opaque")), next, 0); got != codeOK {
		t.Error(got)
	}
}

// Only the outermost actor is the current one. The subject stays the user.
//
// Catalogue: J177.
func TestOutermostActorIsTheCurrentOne(t *testing.T) {
	type actor struct {
		Sub string `json:"sub"`
		Act *actor `json:"act"`
	}
	as := newAS(t)
	as.introspect = answerJWT(claim("act", `{"sub":"gateway","act":{"sub":"batch","act":{"sub":"cron"}}}`))
	next := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		got, err := phantom.Claims[struct {
			Sub string `json:"sub"`
			Act actor  `json:"act"`
		}](r.Context())
		if err != nil || got.Sub != "alice" || got.Act.Sub != "gateway" ||
			got.Act.Act.Sub != "batch" || got.Act.Act.Act.Sub != "cron" {
			t.Errorf("%+v, %v", got, err)
		}
		tok, _ := phantom.FromContext(r.Context())
		if tok.Subject() != "alice" {
			t.Errorf("subject %q", tok.Subject())
		}
	}}
	if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer opaque")), next, 0); got != codeOK {
		t.Error(got)
	}
}

// Each request carries the JWT and the claims of its own lookup, however the
// lookups of one token overlap.
//
// Catalogue: J179.
func TestEachRequestCarriesItsOwnJWT(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
		calls int64 // 0: any number
	}{
		{"uncached", []phantom.Option{phantom.WithCacheSize(0)}, 0},
		{"cached", nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			var mu sync.Mutex
			n := 0
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				n++
				id := fmt.Sprint("id-", n)
				mu.Unlock()
				answerJWT(mint("EdDSA", claims(map[string]any{"jti": id, "sub": "user-" + id})))(w, r)
			}
			m := as.middleware(tc.extra...)
			h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				tok, _ := phantom.FromContext(r.Context())
				var c struct{ Sub, Jti string }
				if err := tok.Decode(&c); err != nil {
					t.Error(err)
				}
				if c.Jti != tok.ID() || c.Sub != "user-"+tok.ID() || tok.Subject() != c.Sub {
					t.Errorf("claims %v beside %q of %q", c, tok.ID(), tok.Subject())
				}
				if r.Header.Get("Authorization") != "Bearer "+tok.JWT() {
					t.Error("another JWT than the token's")
				}
			}))
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 20 {
						if rec := serve(h, get("Bearer opaque")); rec.Code != 200 {
							t.Errorf("status %d", rec.Code)
						}
					}
				})
			}
			wg.Wait()
			if tc.calls != 0 && as.calls.Load() != tc.calls {
				t.Errorf("%d introspections", as.calls.Load())
			}
		})
	}
}

// Verify returns an error that names the check, and shows no JWT.
func TestVerifyNamesTheCheckThatRefused(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(as.secret(claim("aud", `"https://other.test"`)))
	m := as.middleware()
	tok, err := m.Verify(t.Context(), "opaque")
	var e *phantom.Error
	if tok != nil || !errors.Is(err, phantom.ErrInvalidToken) || !errors.As(err, &e) {
		t.Fatalf("%v, %v", tok, err)
	}
	if e.Reason != phantom.ReasonJWTRejected || e.Detail != "aud" ||
		e.StatusCode() != 401 || err.Error() != `phantom: jwt_rejected: aud, expected "https://rs.test"` {
		t.Errorf("%+v", e)
	}
	if found := as.leaks(fmt.Sprintf("%v %+v %#v", err, err, e)); found != nil {
		t.Errorf("the error holds %q", found)
	}
}
