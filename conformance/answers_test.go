package conformance_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// reply answers with the status, the body and exactly the given fields, each
// as "Name: value".
func reply(status int, body string, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil // or the recorder would guess one
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const (
	asJWT  = "Content-Type: application/jwt"
	asJSON = "Content-Type: application/json"
)

// answerOf encodes the JSON answer for an active token with the JWT as
// phantom_token; changes add members, or remove them if they are nil.
func answerOf(jwt string, changes map[string]any) string {
	members := map[string]any{"active": true, "phantom_token": jwt}
	maps.Copy(members, changes)
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	return string(must(json.Marshal(members)))
}

// thrice asks about one token three times in a row and checks each outcome.
// The server must be asked once if the answer may be remembered, else thrice.
func thrice(t *testing.T, answer http.HandlerFunc, want string, remembered bool, extra ...phantom.Option) {
	t.Helper()
	as := newAS(t)
	as.introspect = answer
	m := as.middleware(extra...)
	for range 3 {
		if got := as.try(m, "opaque-token-of-alice"); got != want {
			t.Fatalf("outcome %s, want %s\n%s", got, want, as.logs.String())
		}
	}
	calls := int64(3)
	if remembered {
		calls = 1
	}
	if got := as.calls.Load(); got != calls {
		t.Errorf("the server was asked %d times, want %d", got, calls)
	}
}

// An answerCase is an answer to an introspection and its outcome.
type answerCase struct {
	name   string
	answer http.HandlerFunc
	want   string
}

// runAnswers tries each answer. A good one is remembered, and so is a refusal.
func runAnswers(t *testing.T, cases []answerCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { thrice(t, tc.answer, tc.want, tc.want == codeOK || tc.want == code401T) })
	}
}

// runPassing tries each answer. A good one is remembered; a refusal is not,
// because it may pass.
func runPassing(t *testing.T, cases []answerCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { thrice(t, tc.answer, tc.want, tc.want == codeOK) })
	}
}

// runLasting tries each answer. Each is remembered, good or not.
func runLasting(t *testing.T, cases []answerCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { thrice(t, tc.answer, tc.want, true) })
	}
}

// The request to the endpoint carries the token and our credentials, and
// nothing of the client's request.
//
// Catalogue: A72.
func TestIntrospectionRequestCarriesOnlyTheToken(t *testing.T) {
	for _, tc := range []struct {
		name, accept, endpoint string
		extra                  []phantom.Option
	}{
		{"application/jwt", "application/jwt", issuer + endpointPath, nil},
		{"JSON", "application/json", issuer + endpointPath, []phantom.Option{phantom.WithJSONResponse("phantom_token")}},
		{"an endpoint with a query of its own", "application/jwt", issuer + endpointPath + "?tenant=a%20b", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(append(tc.extra, phantom.WithIntrospectionEndpoint(tc.endpoint))...)
			target := "https://rs.test/orders?access_token=from-the-query&q=1"
			r := httptest.NewRequest(http.MethodPut, target, strings.NewReader("the body"))
			r.Header = http.Header{
				"Authorization":   {"Bearer " + as.secret("a+b/c~d.e_f-g==")},
				"Cookie":          {"session=1"},
				"X-Forwarded-For": {"192.0.2.1"},
				"X-Request-Id":    {"7"},
				"Traceparent":     {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
				"User-Agent":      {"client/1"},
				"Accept":          {"text/html"},
				"Accept-Encoding": {"gzip"},
				"Idempotency-Key": {"k"},
			}
			if got := as.send(m.Handler, r); got != codeOK {
				t.Fatal(got)
			}
			sent := as.recorded(endpointPath)
			if len(sent) != 1 {
				t.Fatalf("%d requests", len(sent))
			}
			got := sent[0]
			if got.Method != http.MethodPost || got.URL.String() != tc.endpoint {
				t.Errorf("%s %s", got.Method, got.URL)
			}
			wantHeader := http.Header{
				"Accept":          {tc.accept},
				"Accept-Encoding": {"identity"},
				"Authorization":   {"Basic Z2F0ZXdheV9jbGllbnQ6czNjcjN0LW9mLXRoZS1nYXRld2F5"},
				"Content-Type":    {"application/x-www-form-urlencoded"},
			}
			if !maps.EqualFunc(got.Header, wantHeader, slices.Equal) {
				t.Errorf("header %v\nwant   %v", got.Header, wantHeader)
			}
			wantForm := url.Values{"token": {"a+b/c~d.e_f-g=="}, "token_type_hint": {"access_token"}}
			if !maps.EqualFunc(got.PostForm, wantForm, slices.Equal) {
				t.Errorf("form %v\nwant %v", got.PostForm, wantForm)
			}
		})
	}
}

// The server answers with the bare JWT, and one line break behind it at most.
//
// Catalogue: A72, A73, A74.
func TestBareJWTIsAccepted(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"as it is", reply(200, jwt, asJWT), codeOK},
		{"other case and a parameter", reply(200, jwt, "Content-Type: Application/JWT; charset=utf-8"), codeOK},
		{"a parameter without a space", reply(200, jwt, "Content-Type: application/jwt;charset=UTF-8"), codeOK},
		{"LF behind", reply(200, jwt+"\n", asJWT), codeOK},
		{"CRLF behind", reply(200, jwt+"\r\n", asJWT), codeOK},
		{"two LF behind", reply(200, jwt+"\n\n", asJWT), code502A},
		{"two CRLF behind", reply(200, jwt+"\r\n\r\n", asJWT), code502A},
		{"CR alone behind", reply(200, jwt+"\r", asJWT), code502A},
	})
}

// Anything else around the JWT, or within it, makes the answer unusable.
//
// Catalogue: A75, A76.
func TestBareJWTStandsAlone(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"in double quotes", reply(200, `"`+jwt+`"`, asJWT), code502A},
		{"byte order mark", reply(200, "\ufeff"+jwt, asJWT), code502A},
		{"a space inside", reply(200, jwt[:40]+" "+jwt[40:], asJWT), code502A},
		{"a line break inside", reply(200, jwt[:40]+"\n"+jwt[40:], asJWT), code502A},
		{"a space before", reply(200, " "+jwt, asJWT), code502A},
		{"a space behind", reply(200, jwt+" ", asJWT), code502A},
		{"NUL behind", reply(200, jwt+"\x00", asJWT), code502A},
		{"the scheme before", reply(200, "Bearer "+jwt, asJWT), code502A},
		{"a header line injected", reply(200, jwt+"\r\nX-Admin: 1", asJWT), code502A},
		{"two JWTs", reply(200, jwt+"\n"+jwt, asJWT), code502A},
		{"an empty body", reply(200, "", asJWT), code502A},
		{"a line break alone", reply(200, "\r\n", asJWT), code502A},
		{"JSON in the guise of a JWT", reply(200, answerOf(jwt, nil), asJWT), code502A},
		{"inactive JSON in the guise of a JWT", reply(200, `{"active":false}`, asJWT), code502A},
	})
}

// We ask for no encoding and take none.
//
// Catalogue: A94.
func TestEncodedAnswerIsRefused(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"gzip", reply(200, jwt, asJWT, "Content-Encoding: gzip"), code502A},
		{"br", reply(200, jwt, asJWT, "Content-Encoding: br"), code502A},
		{"twice gzip", reply(200, jwt, asJWT, "Content-Encoding: gzip, gzip"), code502A},
		{"an unknown encoding", reply(200, jwt, asJWT, "Content-Encoding: x-none"), code502A},
	})
}

// An answer has one media type, which says what it is.
//
// Catalogue: A95.
func TestOtherMediaTypeIsRefused(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"login page", reply(200, "<!doctype html><title>Sign in</title>", "Content-Type: text/html; charset=utf-8"), code502A},
		{"a JWT as a page", reply(200, jwt, "Content-Type: text/html"), code502A},
		{"a JWT as text", reply(200, jwt, "Content-Type: text/plain"), code502A},
		{"no Content-Type", reply(200, jwt), code502A},
		{"empty Content-Type", reply(200, jwt, "Content-Type: "), code502A},
		{"two Content-Type lines", reply(200, jwt, asJWT, asJSON), code502A},
		{"the same Content-Type twice", reply(200, jwt, asJWT, asJWT), code502A},
		{"a list in Content-Type", reply(200, jwt, "Content-Type: application/jwt, application/json"), code502A},
		{"a longer type", reply(200, jwt, "Content-Type: application/jwt+json"), code502A},
		{"a type within another", reply(200, jwt, "Content-Type: application/at+jwt"), code502A},
		{"broken parameters", reply(200, jwt, "Content-Type: application/jwt; charset"), code502A},
		{"JSON without Content-Type", reply(200, answerOf(jwt, nil)), code502A},
		{"JSON as text", reply(200, answerOf(jwt, nil), "Content-Type: text/json"), code502A},
		{"another kind of JSON", reply(200, answerOf(jwt, nil), "Content-Type: application/problem+json"), code502A},
		{"UTF-16", reply(200, "\xfe\xff\x00{\x00}", asJSON), code502A},
	})
}

// A JWT of RFC 9701 holds an introspection answer. It is not taken for the
// access token.
//
// Catalogue: A116.
func TestIntrospectionJWTIsNoAccessToken(t *testing.T) {
	const header = `{"alg":"ES256","kid":"k-ES256","typ":"token-introspection+jwt"}`
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"RFC 9701", reply(200, jwt, "Content-Type: application/token-introspection+jwt"), code502A},
		{"RFC 9701 with its own typ", reply(200, mintHeader("ES256", header, claims(nil)), asJWT), code401T},
		{"RFC 9701 in JSON", withMembers(map[string]any{"phantom_token": mintHeader("ES256", header, claims(nil))}), code401T},
	})
}

// The handler gets a JWT without the line break behind it.
//
// Catalogue: A74.
func TestLineBreakIsNotHandedOn(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, tail := range []string{"\n", "\r\n"} {
		as := newAS(t)
		as.introspect = answerJWT(jwt + tail)
		next := &spy{}
		if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer tok")), next, 0); got != codeOK {
			t.Fatal(got)
		}
		if got := next.last().Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+jwt {
			t.Errorf("%q: %q", tail, got)
		}
	}
}

// An inactive token is refused, and remembered unless negative caching is off.
func TestInactiveTokenIsRemembered(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"no content", reply(204, "")}, // A77
		{"no content, with fields", reply(204, "", asJWT, "Cache-Control: max-age=599")},                             // A77
		{"inactive", answerJSON(`{"active":false}`)},                                                                 // A78
		{"inactive, claims kept", answerJSON(`{"active":false,"sub":"alice","exp":"not a date","scope":["a"]}`)},     // A78
		{"inactive with a JWT", answerJSON(answerOf(jwt, map[string]any{"active": false}))},                          // A79
		{"inactive with both members", answerJSON(answerOf(jwt, map[string]any{"active": false, "jwt": jwt}))},       // A79
		{"unsupported_token_type", reply(400, `{"error":"unsupported_token_type","error_description":"x"}`, asJSON)}, // A99
	} {
		t.Run(tc.name, func(t *testing.T) {
			thrice(t, tc.answer, code401T, true)
			thrice(t, tc.answer, code401T, false, phantom.WithNegativeTTL(0))
		})
	}
}

// An inactive token is asked about again after the negative lifetime.
//
// Catalogue: A77.
func TestInactiveTokenIsRememberedForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = reply(204, "")
		m := as.middleware()
		for range 100 {
			if got := as.try(m, "tok"); got != code401T {
				t.Fatal(got)
			}
			time.Sleep(49 * time.Millisecond)
		}
		if got := as.calls.Load(); got != 1 {
			t.Errorf("asked %d times within the negative lifetime", got)
		}
		as.introspect = nil
		time.Sleep(time.Second)
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("after the negative lifetime: %s", got)
		}
	})
}

// With WithJSONResponse the JWT is in that member and nowhere else. A bare JWT
// is understood all the same: the answer decides, not the question.
func TestConfiguredMemberHoldsTheJWT(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	member := phantom.WithJSONResponse("internal_jwt")
	for _, tc := range []struct {
		name       string
		answer     http.HandlerFunc
		want       string
		remembered bool
	}{
		{"the member", answerJSON(answerOf(jwt, map[string]any{"phantom_token": nil, "internal_jwt": jwt})), codeOK, true},             // A80
		{"the others are ordinary members", answerJSON(answerOf("junk", map[string]any{"internal_jwt": jwt, "jwt": 7})), codeOK, true}, // A80
		{"bare JWT", reply(200, jwt, asJWT), codeOK, true},                                                                             // A80
		{"another member", answerJSON(answerOf(jwt, nil)), code502A, true},                                                             // A81, Y8
		{"no content is no JSON answer", reply(204, ""), code502A, false},                                                              // A77
		{"inactive", answerJSON(`{"active":false}`), code401T, true},                                                                   // A78
	} {
		t.Run(tc.name, func(t *testing.T) { thrice(t, tc.answer, tc.want, tc.remembered, member) })
	}
}

// Members of the answer that are not the JWT reach the handler exactly. A bare
// JWT has none.
func TestMembersOfTheAnswerReachTheHandler(t *testing.T) {
	as := newAS(t)
	jwt := mint("ES256", claims(nil))
	body := `{"active":true,"jwt":"JWT","uid":9007199254740993,"ext":{"dept":"R&D <ö>"}}`
	as.introspect = answerJSON(strings.ReplaceAll(body, "JWT", jwt))
	tok, err := as.middleware().Verify(t.Context(), "tok")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := tok.Introspection(&got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "map[active:true ext:map[dept:R&D <ö>] uid:9007199254740993]" {
		t.Errorf("%v", got)
	}
	as.introspect = answerJWT(jwt)
	if tok, err = as.middleware().Verify(t.Context(), "tok"); err != nil {
		t.Fatal(err)
	}
	if err := tok.Introspection(&got); err == nil {
		t.Error("members of an answer that has none")
	}
}

// A thousand requests wait for one slow answer, and all of them get it.
//
// Catalogue: A124.
func TestThousandWaitersShareOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(1900*time.Millisecond, answerJWT(mint("ES256", claims(nil))))
		m := as.middleware()
		outcomes := make(chan string, 1000)
		for range cap(outcomes) {
			go func() { outcomes <- as.try(m, "tok") }()
		}
		for range cap(outcomes) {
			if got := <-outcomes; got != codeOK {
				t.Fatalf("%s", got)
			}
		}
		if got := as.calls.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}
