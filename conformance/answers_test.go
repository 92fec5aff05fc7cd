package conformance_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

func TestIntrospectionRequest(t *testing.T) {
	for _, c := range []struct {
		name, accept, endpoint string
		extra                  []phantom.Option
	}{
		{"A72 application/jwt", "application/jwt", issuer + endpointPath, nil},
		{"A72 JSON", "application/json", issuer + endpointPath, []phantom.Option{phantom.WithJSONResponse("phantom_token")}},
		{"A72 an endpoint with a query of its own", "application/jwt", issuer + endpointPath + "?tenant=a%20b", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(append(c.extra, phantom.WithIntrospectionEndpoint(c.endpoint))...)
			r := httptest.NewRequest(http.MethodPut, "https://rs.test/orders?access_token=from-the-query&q=1", strings.NewReader("the body"))
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
			if got.Method != http.MethodPost || got.URL.String() != c.endpoint {
				t.Errorf("%s %s", got.Method, got.URL)
			}
			wantHeader := http.Header{
				"Accept":          {c.accept},
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

func TestJWTAnswers(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"A72 plain", reply(200, jwt, asJWT), codeOK},
		{"A73 other case and a parameter", reply(200, jwt, "Content-Type: Application/JWT; charset=utf-8"), codeOK},
		{"A73 a parameter without a space", reply(200, jwt, "Content-Type: application/jwt;charset=UTF-8"), codeOK},
		{"A74 LF behind", reply(200, jwt+"\n", asJWT), codeOK},
		{"A74 CRLF behind", reply(200, jwt+"\r\n", asJWT), codeOK},
		{"A74 two LF behind", reply(200, jwt+"\n\n", asJWT), code502A},
		{"A74 two CRLF behind", reply(200, jwt+"\r\n\r\n", asJWT), code502A},
		{"A74 CR alone behind", reply(200, jwt+"\r", asJWT), code502A},
		{"A75 in double quotes", reply(200, `"`+jwt+`"`, asJWT), code502A},
		{"A75 byte order mark", reply(200, "\ufeff"+jwt, asJWT), code502A},
		{"A75 a space inside", reply(200, jwt[:40]+" "+jwt[40:], asJWT), code502A},
		{"A75 a line break inside", reply(200, jwt[:40]+"\n"+jwt[40:], asJWT), code502A},
		{"A75 a space before", reply(200, " "+jwt, asJWT), code502A},
		{"A75 a space behind", reply(200, jwt+" ", asJWT), code502A},
		{"A75 NUL behind", reply(200, jwt+"\x00", asJWT), code502A},
		{"A75 the scheme before", reply(200, "Bearer "+jwt, asJWT), code502A},
		{"A75 a header line injected", reply(200, jwt+"\r\nX-Admin: 1", asJWT), code502A},
		{"A75 two JWTs", reply(200, jwt+"\n"+jwt, asJWT), code502A},
		{"A76 empty", reply(200, "", asJWT), code502A},
		{"A76 a line break alone", reply(200, "\r\n", asJWT), code502A},
		{"A76 JSON in the guise of a JWT", reply(200, answerOf(jwt, nil), asJWT), code502A},
		{"A76 inactive JSON in the guise of a JWT", reply(200, `{"active":false}`, asJWT), code502A},
		{"A94 gzip", reply(200, jwt, asJWT, "Content-Encoding: gzip"), code502A},
		{"A94 br", reply(200, jwt, asJWT, "Content-Encoding: br"), code502A},
		{"A94 twice gzip", reply(200, jwt, asJWT, "Content-Encoding: gzip, gzip"), code502A},
		{"A94 unknown", reply(200, jwt, asJWT, "Content-Encoding: x-none"), code502A},
		{"A95 login page", reply(200, "<!doctype html><title>Sign in</title>", "Content-Type: text/html; charset=utf-8"), code502A},
		{"A95 a JWT as a page", reply(200, jwt, "Content-Type: text/html"), code502A},
		{"A95 a JWT as text", reply(200, jwt, "Content-Type: text/plain"), code502A},
		{"A95 no Content-Type", reply(200, jwt), code502A},
		{"A95 empty Content-Type", reply(200, jwt, "Content-Type: "), code502A},
		{"A95 two Content-Type lines", reply(200, jwt, asJWT, asJSON), code502A},
		{"A95 the same Content-Type twice", reply(200, jwt, asJWT, asJWT), code502A},
		{"A95 a list in Content-Type", reply(200, jwt, "Content-Type: application/jwt, application/json"), code502A},
		{"A95 a longer type", reply(200, jwt, "Content-Type: application/jwt+json"), code502A},
		{"A95 a type within another", reply(200, jwt, "Content-Type: application/at+jwt"), code502A},
		{"A95 broken parameters", reply(200, jwt, "Content-Type: application/jwt; charset"), code502A},
		{"A116 RFC 9701", reply(200, jwt, "Content-Type: application/token-introspection+jwt"), code502A},
		{"A116 RFC 9701 with its own typ", reply(200, mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256","typ":"token-introspection+jwt"}`, claims(nil)), asJWT), code401T},
	} {
		t.Run(c.name, func(t *testing.T) { thrice(t, c.answer, c.want, c.want == codeOK) })
	}
}

// What next gets of a JWT with a line break behind is the JWT alone.
func TestLineBreakBehindJWT(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, tail := range []string{"\n", "\r\n"} {
		as := newAS(t)
		as.introspect = answerJWT(jwt + tail)
		next := &spy{}
		if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer tok")), next, 0); got != codeOK {
			t.Fatal(got)
		}
		if got := next.last().Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+jwt {
			t.Errorf("A74 %q: %q", tail, got)
		}
	}
}

func TestJSONAnswers(t *testing.T) {
	now := time.Now().Unix()
	jwt := mint("ES256", claims(nil))
	with := func(changes map[string]any) http.HandlerFunc { return answerJSON(answerOf(jwt, changes)) }
	raw := func(format string) http.HandlerFunc { return answerJSON(strings.ReplaceAll(format, "JWT", jwt)) }
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"A80 phantom_token", with(nil), codeOK},
		{"A80 jwt", with(map[string]any{"phantom_token": nil, "jwt": jwt}), codeOK},
		{"A80 parameter", reply(200, answerOf(jwt, nil), "Content-Type: application/json;charset=UTF-8"), codeOK},
		{"A80 space around", raw(" \r\n{ \"active\" : true ,\t\"phantom_token\" : \"JWT\" }\n"), codeOK},
		{"A80 escaped names and values", raw(`{"\u0061ctive":true,"phantom\u005ftoken":"JWT"}`), codeOK},
		{"A80 both members", with(map[string]any{"jwt": jwt}), code502A},
		{"A80 both members, one null", with(map[string]any{"jwt": null}), code502A},
		{"A80 the JWT with a line break behind", with(map[string]any{"phantom_token": jwt + "\n"}), code502A},
		{"A81 no JWT", with(map[string]any{"phantom_token": nil}), code502A},
		{"A81 JWT in a member nobody knows", with(map[string]any{"phantom_token": nil, "token": jwt, "access_token": jwt}), code502A},
		{"A81 JWT one level down", with(map[string]any{"phantom_token": nil, "ext": map[string]any{"phantom_token": jwt}}), code502A},
		{`A82 "true"`, with(map[string]any{"active": "true"}), code502A},
		{"A82 1", with(map[string]any{"active": 1}), code502A},
		{"A82 null", with(map[string]any{"active": null}), code502A},
		{"A82 absent", with(map[string]any{"active": nil}), code502A},
		{"A82 an array", with(map[string]any{"active": []bool{true}}), code502A},
		{"A82 other case", with(map[string]any{"active": nil, "Active": true}), code502A},
		{"A82 upper case beside", with(map[string]any{"active": nil, "ACTIVE": true, "phantom_token": jwt}), code502A},
		{"A82 twice", raw(`{"active":true,"phantom_token":"JWT","active":true}`), code502A},
		{"A82 twice, false first", raw(`{"active":false,"phantom_token":"JWT","active":true}`), code502A},
		{"A82 twice, one escaped", raw(`{"active":true,"phantom_token":"JWT","\u0061ctive":false}`), code502A},
		{"A85 kelvin sign", raw(`{"active":true,"phantom_to` + "\u212a" + `en":"JWT"}`), code502A},
		{"A85 escaped kelvin sign", raw(`{"active":true,"phantom_to\u212aen":"JWT"}`), code502A},
		{"A85 other case", raw(`{"active":true,"Phantom_Token":"JWT"}`), code502A},
		{"A86 number", with(map[string]any{"phantom_token": 123}), code502A},
		{"A86 null", with(map[string]any{"phantom_token": null}), code502A},
		{"A86 empty", with(map[string]any{"phantom_token": ""}), code502A},
		{"A86 object", with(map[string]any{"phantom_token": map[string]any{"jwt": jwt}}), code502A},
		{"A86 array", with(map[string]any{"phantom_token": []string{jwt}}), code502A},
		{"A86 twice", raw(`{"active":true,"phantom_token":"x","phantom_token":"JWT"}`), code502A},
		{"A87 a second object behind", raw(`{"active":true,"phantom_token":"JWT"}{"active":false}`), code502A},
		{"A87 a letter behind", raw(`{"active":true,"phantom_token":"JWT"}x`), code502A},
		{"A87 inactive and a second object", raw(`{"active":false}{"active":true,"phantom_token":"JWT"}`), code502A},
		{"A87 cut off", raw(`{"active":true,"phantom_token":"JWT"`), code502A},
		{"A87 trailing comma", raw(`{"active":true,"phantom_token":"JWT",}`), code502A},
		{"A87 comment", raw(`{"active":true,/* */"phantom_token":"JWT"}`), code502A},
		{"A87 byte order mark", raw("\ufeff" + `{"active":true,"phantom_token":"JWT"}`), code502A},
		{"A87 NUL behind", raw(`{"active":true,"phantom_token":"JWT"}` + "\x00"), code502A},
		{"A88 invalid UTF-8 in a value", raw(`{"active":true,"phantom_token":"JWT","username":"` + "\xff" + `"}`), code502A},
		{"A88 invalid UTF-8 in a name", raw(`{"active":true,"phantom_token":"JWT","` + "\xc3\x28" + `":1}`), code502A},
		{"A88 lone surrogate", raw(`{"active":true,"phantom_token":"JWT","username":"\ud800"}`), code502A},
		{"A88 lone surrogate two levels down", raw(`{"active":true,"phantom_token":"JWT","ext":{"a":["\udc00"]}}`), code502A},
		{"A88 lone surrogate while inactive", raw(`{"active":false,"username":"\ud800"}`), code502A},
		{"A89 nested deep in an array", raw(`{"active":true,"phantom_token":"JWT","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`), code502A},
		{"A89 nested deep in objects", raw(`{"active":true,"phantom_token":"JWT","x":` + strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000) + `}`), code502A},
		{"A89 nested deep and never closed", raw(strings.Repeat("[", 60_000)), code502A},
		{"A89 array", raw(`[{"active":true,"phantom_token":"JWT"}]`), code502A},
		{"A89 null", raw(`null`), code502A},
		{"A89 true", raw(`true`), code502A},
		{"A89 a string", raw(`"JWT"`), code502A},
		{"A89 the JWT itself", raw(`JWT`), code502A},
		{"A89 empty", raw(``), code502A},
		{"A95 JSON without Content-Type", reply(200, answerOf(jwt, nil)), code502A},
		{"A95 JSON as text", reply(200, answerOf(jwt, nil), "Content-Type: text/json"), code502A},
		{"A95 another kind of JSON", reply(200, answerOf(jwt, nil), "Content-Type: application/problem+json"), code502A},
		{"A95 UTF-16", reply(200, "\xfe\xff\x00{\x00}", asJSON), code502A},
		{"A112 exp is a string", with(map[string]any{"exp": fmt.Sprint(now + 300)}), code502A},
		{"A112 exp in milliseconds", with(map[string]any{"exp": (now + 300) * 1000}), code502A},
		{"A112 exp negative", with(map[string]any{"exp": -1}), code502A},
		{"A112 exp beyond every number", raw(`{"active":true,"phantom_token":"JWT","exp":1e999999999}`), code502A},
		{"A112 exp null", with(map[string]any{"exp": null}), codeOK},
		{"A112 exp with a fraction", with(map[string]any{"exp": float64(now) + 300.75}), codeOK},
		{"A113 exp long past", with(map[string]any{"exp": now - 3600}), code401T},
		{"A113 exp zero", with(map[string]any{"exp": 0}), code401T},
		{"A114 the same sub and client_id", with(map[string]any{"sub": "alice", "client_id": "app"}), codeOK},
		{"A114 a JWT without client_id", answerJSON(answerOf(mint("ES256", claims(map[string]any{"client_id": nil})), map[string]any{"client_id": "app"})), codeOK},
		{"A82 ACTIVE beside active", with(map[string]any{"ACTIVE": false}), code502A},
		{"A114 SUB for sub", with(map[string]any{"SUB": "mallory"}), code502A},
		{"A114 SUB beside sub", with(map[string]any{"sub": "alice", "SUB": "mallory"}), code502A},
		{"A114 long s", with(map[string]any{"\u017fub": "mallory"}), code502A},
		{"A114 Client_Id for client_id", with(map[string]any{"Client_Id": "evil-app"}), code502A},
		{"A115 Token_Use for token_use", with(map[string]any{"Token_Use": "refresh_token"}), code502A},
		{"A115 TOKEN_TYPE for token_type", with(map[string]any{"TOKEN_TYPE": "refresh_token"}), code502A},
		{"D241 CNF for cnf", with(map[string]any{"CNF": map[string]string{"jkt": "x"}}), code502A},
		{"A114 sub null", with(map[string]any{"sub": null, "client_id": null}), codeOK},
		{"A114 other sub", with(map[string]any{"sub": "mallory"}), code401T},
		{"A114 sub in other case", with(map[string]any{"sub": "Alice"}), code401T},
		{"A114 sub is a number", with(map[string]any{"sub": 1}), code401T},
		{"A114 sub empty", with(map[string]any{"sub": ""}), code401T},
		{"A114 other client_id", with(map[string]any{"client_id": "evil-app"}), code401T},
		{"A115 token_use refresh_token", with(map[string]any{"token_use": "refresh_token"}), code401T},
		{"A115 token_type refresh_token", with(map[string]any{"token_type": "refresh_token"}), code401T},
		{"A115 token_type in other case", with(map[string]any{"token_type": "Refresh_Token"}), code401T},
		{"A115 token_usage refresh_token", with(map[string]any{"token_usage": "refresh_token"}), code401T},
		{"A115 token_use is no string", with(map[string]any{"token_use": []string{"access_token"}}), code401T},
		{"A115 token_type id_token", with(map[string]any{"token_type": "id_token"}), code401T},
		{"A115 token_type refresh", with(map[string]any{"token_type": "refresh"}), code401T},
		{"A115 token_type DPoP", with(map[string]any{"token_type": "DPoP"}), code401T},
		{"A115 token_type pop", with(map[string]any{"token_type": "pop"}), code401T},
		{"A115 token_usage access", with(map[string]any{"token_usage": "access"}), codeOK},
		{"A115 refresh token, and no JWT", with(map[string]any{"token_use": "refresh_token", "phantom_token": nil}), code401T},
		{"A115 token_use access_token", with(map[string]any{"token_use": "access_token", "token_type": "Bearer"}), codeOK},
		{"A115 token_type access_token", with(map[string]any{"token_type": "access_token"}), codeOK},
		{"A115 token_type JWT", with(map[string]any{"token_type": "JWT", "token_use": null}), codeOK},
		{"A116 RFC 9701 in JSON", with(map[string]any{"phantom_token": mintHeader("ES256", `{"alg":"ES256","kid":"k-ES256","typ":"token-introspection+jwt"}`, claims(nil))}), code401T},
	} {
		t.Run(c.name, func(t *testing.T) { thrice(t, c.answer, c.want, c.want == codeOK) })
	}
}

func TestInactiveAnswers(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"A77 no content", reply(204, "")},
		{"A77 no content, with fields", reply(204, "", asJWT, "Cache-Control: max-age=599")},
		{"A78 inactive", answerJSON(`{"active":false}`)},
		{"A78 inactive, claims kept", answerJSON(`{"active":false,"sub":"alice","exp":"not a date","scope":["a"]}`)},
		{"A79 inactive with a JWT", answerJSON(answerOf(jwt, map[string]any{"active": false}))},
		{"A79 inactive with both members", answerJSON(answerOf(jwt, map[string]any{"active": false, "jwt": jwt}))},
		{"A99 unsupported_token_type", reply(400, `{"error":"unsupported_token_type","error_description":"x"}`, asJSON)},
	} {
		t.Run(c.name, func(t *testing.T) {
			thrice(t, c.answer, code401T, true)
			thrice(t, c.answer, code401T, false, phantom.WithNegativeTTL(0))
		})
	}
	t.Run("A77 for its time alone", func(t *testing.T) {
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
	})
}

// With WithJSONResponse the JWT is in that member and nowhere else, but a bare
// JWT is understood: the answer decides, not the question.
func TestConfiguredMember(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	member := phantom.WithJSONResponse("internal_jwt")
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"A80 the member", answerJSON(answerOf(jwt, map[string]any{"phantom_token": nil, "internal_jwt": jwt})), codeOK},
		{"A80 the others are ordinary members", answerJSON(answerOf("junk", map[string]any{"internal_jwt": jwt, "jwt": 7})), codeOK},
		{"A80 bare JWT", reply(200, jwt, asJWT), codeOK},
		{"A81 another member", answerJSON(answerOf(jwt, nil)), code502A},
		{"A77 no content is no JSON answer", reply(204, ""), code502A},
		{"A78 inactive", answerJSON(`{"active":false}`), code401T},
	} {
		t.Run(c.name, func(t *testing.T) { thrice(t, c.answer, c.want, c.want != code502A, member) })
	}
}

// The members that are not the JWT are there for the handler, exactly.
func TestIntrospectionMembers(t *testing.T) {
	as := newAS(t)
	jwt := mint("ES256", claims(nil))
	as.introspect = answerJSON(strings.ReplaceAll(`{"active":true,"jwt":"JWT","uid":9007199254740993,"ext":{"dept":"R&D <ö>"}}`, "JWT", jwt))
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

func TestStatuses(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	big := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"A96 302", reply(302, "", "Location: https://as.test/login", asJWT), code502A},
		{"A96 302 with the JWT in it", reply(302, jwt, "Location: https://as.test/login", asJWT), code502A},
		{"A96 301", reply(301, "", "Location: https://evil.test/"), code502A},
		{"A96 303", reply(303, "", "Location: /login"), code502A},
		{"A96 307", reply(307, "", "Location: https://evil.test/oauth/v2/introspect"), code502A},
		{"A96 308", reply(308, "", "Location: https://evil.test/oauth/v2/introspect"), code502A},
		{"A96 300", reply(300, "", "Location: /a"), code502A},
		{"A96 304", reply(304, ""), code502A},
		{"A96 no Location", reply(302, ""), code502A},
		{"A96 Location that is no URL", reply(302, "", "Location: ://%zz"), code502A},
		{"A96 201", reply(201, jwt, asJWT), code502A},
		{"A96 202", reply(202, jwt, asJWT), code502A},
		{"A96 203", reply(203, jwt, asJWT), code502A},
		{"A96 205", reply(205, ""), code502A},
		{"A96 206", reply(206, jwt, asJWT), code502A},
		{"A98 401", reply(401, `{"error":"invalid_client"}`, asJSON, "WWW-Authenticate: Basic realm=\"as\""), code502A},
		{"A98 401 that names the token", reply(401, `{"error":"invalid_token"}`, asJSON), code502A},
		{"A98 401 with the JWT in it", reply(401, jwt, asJWT), code502A},
		{"A99 400", reply(400, ""), code502A},
		{"A99 400 invalid_request", reply(400, `{"error":"invalid_request"}`, asJSON), code502A},
		{"A99 400 invalid_token", reply(400, `{"error":"invalid_token"}`, asJSON), code502A},
		{"A99 400 inactive", reply(400, `{"active":false}`, asJSON), code502A},
		{"A99 400 the error in other case", reply(400, `{"error":"UNSUPPORTED_TOKEN_TYPE"}`, asJSON), code502A},
		{"A99 400 the error twice", reply(400, `{"error":"invalid_client","error":"unsupported_token_type"}`, asJSON), code502A},
		{"A99 400 the error in an array", reply(400, `[{"error":"unsupported_token_type"}]`, asJSON), code502A},
		{"A99 400 the error as text", reply(400, `unsupported_token_type`, "Content-Type: text/plain"), code502A},
		{"A99 401 unsupported_token_type", reply(401, `{"error":"unsupported_token_type"}`, asJSON), code502A},
		{"A99 402", reply(402, ""), code502A},
		{"A99 403", reply(403, ""), code502A},
		{"A99 404", reply(404, "404 page not found", "Content-Type: text/plain"), code502A},
		{"A99 405", reply(405, "", "Allow: GET"), code502A},
		{"A99 406", reply(406, ""), code502A},
		{"A99 408", reply(408, ""), code502A},
		{"A99 413", reply(413, ""), code502A},
		{"A99 415", reply(415, ""), code502A},
		{"A99 451", reply(451, ""), code502A},
		{"A99 403 with Retry-After", reply(403, "", "Retry-After: 7"), code502A},
		{"A103 500", reply(500, "panic"), code503A},
		{"A103 502", reply(502, "<html>", "Content-Type: text/html"), code503A},
		{"A103 503", reply(503, ""), code503A},
		{"A103 504", reply(504, ""), code503A},
		{"A103 501", reply(501, ""), code503A},
		{"A103 599", reply(599, ""), code503A},
		{"A103 500 with the JWT in it", reply(500, jwt, asJWT), code503A},
		{"A103 500 with a verdict in it", reply(500, `{"active":false}`, asJSON), code503A},
		{"A103 500 with unsupported_token_type in it", reply(500, `{"error":"unsupported_token_type"}`, asJSON), code503A},
		{"A103 429 without Retry-After", reply(429, ""), code503A},
		// What the body is does not matter when the status says it all.
		{"A103 503 with a long page", reply(503, big, "Content-Type: text/html"), code503A},
		{"A103 502 with a compressed page", reply(502, "\x1f\x8b", "Content-Encoding: gzip"), code503A},
		{"A103 429 with a compressed page", reply(429, "\x1f\x8b", "Content-Encoding: gzip"), code503A},
		{"A103 500 with an endless page", reply(500, "", "Content-Length: 10000000000"), code503A},
		{"A99 404 with a long page", reply(404, big), code502A},
	} {
		t.Run(c.name, func(t *testing.T) { thrice(t, c.answer, c.want, false) })
	}
}

// An HTTP answer is never asked for again on one's own account; the next
// request is free to.
func TestNoRetryOfAnswers(t *testing.T) {
	for _, status := range []int{400, 429, 500, 503} {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if as.calls.Load() == 1 {
				reply(status, "")(w, r)
				return
			}
			answerJWT(mint("ES256", claims(nil)))(w, r)
		}
		m := as.middleware()
		want := code503A
		if status == 400 {
			want = code502A
		}
		if got := as.try(m, "tok"); got != want {
			t.Errorf("A104 %d: first request %s", status, got)
		}
		if got := as.calls.Load(); got != 1 {
			t.Errorf("A104 %d: asked %d times for one request", status, got)
		}
		if got := as.try(m, "tok"); got != codeOK || as.calls.Load() != 2 {
			t.Errorf("A104 %d: second request %s, asked %d times", status, got, as.calls.Load())
		}
	}
}

// A redirect leads nowhere, whatever the caller's client would do.
func TestRedirectsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		as := newAS(t)
		as.introspect = reply(status, "", "Location: https://evil.test/collect?x=1")
		followed := false
		client := &http.Client{Transport: as, CheckRedirect: func(*http.Request, []*http.Request) error { followed = true; return nil }}
		m := as.middleware(phantom.WithHTTPClient(client))
		if got := as.try(m, "tok"); got != code502A {
			t.Errorf("A96 %d: %s", status, got)
		}
		if n := len(as.recorded("/collect")); n != 0 || followed || as.calls.Load() != 1 {
			t.Errorf("A96 %d: followed", status)
		}
	}
}

func TestCookiesNotKept(t *testing.T) {
	as := newAS(t)
	as.introspect = reply(200, mint("ES256", claims(nil)), asJWT, "Set-Cookie: as_session=1; Path=/", "Set-Cookie: b=2")
	jar := must(cookiejar.New(nil))
	endpoint := must(url.Parse(issuer + endpointPath))
	jar.SetCookies(endpoint, []*http.Cookie{{Name: "other", Value: "app"}})
	m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: as, Jar: jar}))
	for _, token := range []string{"one", "two"} {
		if got := as.try(m, token); got != codeOK {
			t.Fatal(got)
		}
	}
	for _, r := range append(as.recorded(endpointPath), as.recorded(jwksPath)...) {
		if cookies := r.Header["Cookie"]; cookies != nil {
			t.Errorf("A107 sent %q", cookies)
		}
	}
	if kept := jar.Cookies(endpoint); len(kept) != 1 {
		t.Errorf("A107 stored %v", kept)
	}
}

// A meteredBody counts what is read of it and tells when it is closed.
type meteredBody struct {
	io.Reader
	read   atomic.Int64
	closed atomic.Bool
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read.Add(int64(n))
	return n, err
}

func (b *meteredBody) Close() error { b.closed.Store(true); return nil }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnswerSize(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	padded := func(size int) string {
		empty := answerOf(jwt, map[string]any{"x": ""})
		return answerOf(jwt, map[string]any{"x": strings.Repeat("x", size-len(empty))})
	}
	const limit = 64 << 10
	for _, c := range []struct {
		name, body string
		length     int64
		status     int
		want       string
		read       int64 // at most
	}{
		{"A90 exactly the limit", padded(limit), -1, 200, codeOK, limit},
		{"A90 exactly the limit, announced", padded(limit), limit, 200, codeOK, limit},
		{"A90 one byte more", padded(limit + 1), -1, 200, code502A, limit + 1},
		{"A90 one byte more, announced", padded(limit + 1), limit + 1, 200, code502A, 0},
		{"A90 space behind a good answer", answerOf(jwt, nil) + strings.Repeat(" ", limit), -1, 200, code502A, limit + 1},
		{"A90 5 MiB", strings.Repeat("x", 5<<20), -1, 200, code502A, limit + 1},
		{"A90 a great length announced", answerOf(jwt, nil), 10_000_000_000, 200, code502A, 0},
		{"A90 5 MiB with an outage", strings.Repeat("x", 5<<20), -1, 503, code503A, limit + 1},
		{"A90 5 MiB with a refusal", strings.Repeat("x", 5<<20), -1, 401, code502A, limit + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			body := &meteredBody{Reader: strings.NewReader(c.body)}
			transport := roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path != endpointPath {
					return as.RoundTrip(r)
				}
				return &http.Response{
					StatusCode: c.status, Header: http.Header{"Content-Type": {"application/json"}},
					Body: body, ContentLength: c.length, Request: r,
				}, nil
			})
			m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: transport}))
			if got := as.try(m, "tok"); got != c.want {
				t.Errorf("outcome %s, want %s", got, c.want)
			}
			if n := body.read.Load(); n > c.read {
				t.Errorf("%d bytes read, want at most %d", n, c.read)
			}
			if !body.closed.Load() {
				t.Error("body not closed")
			}
		})
	}
}

// A wireAS speaks raw bytes: each connection is handed to serve, which closes
// it. The client side is the real transport of net/http over pipes, so that it
// works in a synctest bubble.
type wireAS struct {
	serve func(conn net.Conn)
	conns atomic.Int64
	done  sync.WaitGroup
}

func (s *wireAS) transport(t *testing.T) *http.Transport {
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		s.conns.Add(1)
		s.done.Go(func() {
			defer ours.Close()
			s.serve(ours)
		})
		return theirs, nil
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		s.done.Wait()
	})
	return tr
}

// readRequest reads a whole request off the connection.
func readRequest(conn net.Conn) bool {
	buf := make([]byte, 64<<10)
	var got []byte
	for {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if head, body, ok := strings.Cut(string(got), "\r\n\r\n"); ok {
			var length int
			if _, after, ok := strings.Cut(head, "Content-Length: "); ok {
				_, _ = fmt.Sscan(after, &length)
			}
			if len(body) >= length {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

func staticES256() phantom.Option {
	return phantom.WithKeySet(phantom.StaticKeys(p256Key().Public().(*ecdsa.PublicKey)))
}

// wireOptions are the reference configuration with raw bytes as the server.
func wireOptions(t *testing.T, as *fakeAS, wire *wireAS) []phantom.Option {
	opts := as.options(phantom.WithHTTPClient(&http.Client{Transport: wire.transport(t)}), staticES256())
	return slices.Delete(opts, 3, 4) // WithJWKSURL
}

func TestSlowAnswers(t *testing.T) {
	hold := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) } // until the client hangs up
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 1000\r\n\r\n"
	drip := func(conn net.Conn) {
		for {
			time.Sleep(time.Second)
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		want  string
		after time.Duration
	}{
		{"A91 the body drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, head)
			drip(conn)
		}, code503A, 2 * time.Second},
		{"A91 the body of an outage drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\n")
			drip(conn)
		}, code503A, 2 * time.Second},
		{"A91 the header drips", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Long: ")
			drip(conn)
		}, code503A, 2 * time.Second},
		{"A92 nothing is ever sent", func(conn net.Conn) { readRequest(conn); hold(conn) }, code503A, 2 * time.Second},
		{"A92 nothing is ever read", func(conn net.Conn) { time.Sleep(10 * time.Second) }, code503A, 2 * time.Second},
		// The body of a 101 is the connection, which no context ends.
		{"A92 another protocol is switched to", func(conn net.Conn) {
			readRequest(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			hold(conn)
		}, code502A, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, wire := newAS(t), &wireAS{serve: c.serve}
				m := must(phantom.New(wireOptions(t, as, wire)...))
				start := time.Now()
				if got := as.try(m, "tok"); got != c.want {
					t.Errorf("outcome %s, want %s", got, c.want)
				}
				if got := time.Since(start); got != c.after {
					t.Errorf("after %v, want %v", got, c.after)
				}
				time.Sleep(time.Minute) // what is left over would keep the bubble from ending
			})
		})
	}
}

func TestBrokenOffAnswers(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	chunk := answerOf(jwt, nil)
	for _, c := range []struct{ name, bytes, want string }{
		{"A90 shorter than announced", "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 5000\r\n\r\n" + jwt, code503A},
		{"A90 no last chunk", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(chunk), chunk), code503A},
		{"A90 a chunk length that is none", "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + jwt, code503A},
		{"A90 no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", code503A},
		{"A90 two lengths", "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + jwt, code503A},
		{"A90 until the connection closes", "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + jwt, codeOK},
		{"A90 cut short by its length", "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" + jwt, code502A},
		{"A99 a refusal that breaks off", "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n" + `{"error":"unsupported_token_type"}`, code503A},
		{"A96 Location that is no URL", "HTTP/1.1 302 Found\r\nLocation: ://%zz\r\nContent-Length: 0\r\n\r\n", code502A},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			wire := &wireAS{serve: func(conn net.Conn) {
				readRequest(conn)
				_, _ = io.WriteString(conn, c.bytes)
			}}
			m := must(phantom.New(wireOptions(t, as, wire)...))
			if got := as.try(m, "tok"); got != c.want {
				t.Errorf("outcome %s, want %s\n%s", got, c.want, as.logs.String())
			}
			if got := wire.conns.Load(); got != 1 {
				t.Errorf("%d connections", got)
			}
		})
	}
}

// The default transport bounds what it reads before the body, and what it reads
// of the body is not the rest of a long one.
func TestFloods(t *testing.T) {
	for _, c := range []struct {
		name, want string
		write      func(w io.Writer) error // until it fails
	}{
		{"A106 interim answers", code503A, func(w io.Writer) error {
			_, err := io.WriteString(w, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </"+strings.Repeat("x", 200)+">\r\n\r\n", 10))
			return err
		}},
		{"A106 header fields", code503A, func(w io.Writer) error {
			_, err := io.WriteString(w, strings.Repeat("X-Field: "+strings.Repeat("x", 1000)+"\r\n", 10))
			return err
		}},
		{"A90 body without end", code502A, func(w io.Writer) error {
			_, err := io.WriteString(w, "400\r\n"+strings.Repeat("x", 1024)+"\r\n")
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			written := make(chan int64, 10)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				counter := &countingWriter{w: conn}
				defer func() { written <- counter.n }()
				switch {
				case strings.Contains(c.name, "header"):
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
				case strings.Contains(c.name, "body"):
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\nTransfer-Encoding: chunked\r\n\r\n")
				}
				for counter.n < 20<<20 && c.write(counter) == nil {
				}
			}))
			defer server.Close()
			m := must(phantom.New(
				phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithClientAuth(phantom.NoClientAuth()),
				phantom.WithIntrospectionEndpoint(server.URL), staticES256(), phantom.WithTimeout(time.Minute),
			))
			if got := as.try(m, "tok"); got != c.want {
				t.Errorf("outcome %s, want %s", got, c.want)
			}
			// The client hung up long before the end. What is on the way in the
			// buffers of the system is not known, but bounded.
			if n := <-written; n >= 20<<20 {
				t.Errorf("all of %d bytes were taken", n)
			}
			if len(written) > 0 {
				t.Error("asked again after an answer had begun")
			}
		})
	}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func TestManyWaiters(t *testing.T) {
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
				t.Fatalf("A124 %s", got)
			}
		}
		if got := as.calls.Load(); got != 1 {
			t.Errorf("A124 asked %d times", got)
		}
	})
}

// The members of a JSON answer can end a cache entry earlier, never later.
func TestExpiryOfTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct{ jwt, answer, life time.Duration }{
			"A112 the answer ends first": {300 * time.Second, 20 * time.Second, 20 * time.Second},
			"A112 the JWT ends first":    {20 * time.Second, 300 * time.Second, 20 * time.Second},
			"A112 the cap ends first":    {300 * time.Second, 300 * time.Second, 60 * time.Second},
		} {
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // exp is in whole seconds
			as := newAS(t)
			as.introspect = answerJSON(answerOf(
				mint("ES256", claims(map[string]any{"exp": time.Now().Add(c.jwt).Unix()})),
				map[string]any{"exp": time.Now().Add(c.answer).Unix()},
			))
			m := as.middleware(phantom.WithRefreshAhead(0))
			if life := cachedFor(t, as, m); life < c.life*7/8 || life > c.life {
				t.Errorf("%s: kept for %v, want %v or up to an eighth less", name, life, c.life)
			}
		}
		// The leeway is for the JWT. What ends at once is taken, but not kept.
		as := newAS(t)
		as.introspect = answerJSON(answerOf(mint("ES256", claims(nil)), map[string]any{"exp": time.Now().Unix() + 1}))
		m := as.middleware()
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("A113 a second before: %s", got)
		}
		time.Sleep(time.Second)
		for i := range 2 {
			if got := as.try(m, "tok"); got != code401T {
				t.Errorf("A113 at its end: %s", got)
			}
			if got := as.calls.Load(); got != int64(i+2) {
				t.Errorf("A113 at its end: asked %d times", got)
			}
		}
	})
}

// cachedFor returns for how long the answer that the server gives now is used,
// to a tenth of a second; at most 100 s. It needs a synctest bubble.
func cachedFor(t *testing.T, as *fakeAS, m *phantom.Middleware) time.Duration {
	t.Helper()
	const token = "token-to-be-cached"
	before, start := as.calls.Load(), time.Now()
	if got := as.try(m, token); got != codeOK || as.calls.Load() != before+1 {
		t.Fatalf("first request: %s, asked %d times", got, as.calls.Load()-before)
	}
	for time.Since(start) < 100*time.Second {
		if _, err := m.Verify(t.Context(), token); as.calls.Load() != before+1 {
			m.Forget(token)
			return time.Since(start)
		} else if err != nil {
			t.Fatalf("an error without asking: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("kept without end")
	return 0
}

// One line says that the credentials are refused, not one for each request,
// and nothing that the server wrote is in it.
func TestRefusedCredentialsAreLogged(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"A98 401":                     reply(401, `{"error":"invalid_client","error_description":"SECRET-OF-THE-SERVER"}`, asJSON, "X-Trace: SECRET-OF-THE-SERVER"),
		"A98 403":                     reply(403, "SECRET-OF-THE-SERVER"),
		"A98 400 invalid_client":      reply(400, `{"error":"invalid_client","error_description":"SECRET-OF-THE-SERVER"}`, asJSON),
		"A98 400 unauthorized_client": reply(400, `{"error":"unauthorized_client"}`, asJSON),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.secret("SECRET-OF-THE-SERVER")
				as.secret("QUERY-OF-THE-ENDPOINT")
				as.introspect = answer
				m := as.middleware(phantom.WithIntrospectionEndpoint(issuer + endpointPath + "?k=QUERY-OF-THE-ENDPOINT"))
				for range 30 {
					for range 10 {
						if got := as.try(m, "tok"); got != code502A {
							t.Fatal(got)
						}
					}
					time.Sleep(time.Second)
				}
				if got := as.calls.Load(); got != 300 {
					t.Errorf("asked %d times: something was remembered", got)
				}
				lines := strings.Split(strings.TrimSpace(as.logs.String()), "\n")
				if len(lines) != 3 {
					t.Errorf("%d lines in 30 s:\n%s", len(lines), as.logs.String())
				}
				for _, line := range lines {
					if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "reason=as_protocol") ||
						!strings.Contains(line, "credentials") {
						t.Error(line)
					}
				}
				if as.leaks(as.logs.String()) != nil {
					t.Error(as.logs.String())
				}
			})
		})
	}
}

// Whatever goes wrong, neither log nor client sees what the server wrote or
// what the request to it was made of.
func TestNothingOfTheServerIsShown(t *testing.T) {
	const marker = "MARKER-OF-THE-SERVER"
	jwt := mint("ES256", claims(nil))
	for name, answer := range map[string]http.HandlerFunc{
		"A98 problem":           reply(401, marker, "WWW-Authenticate: Basic realm="+marker, "Content-Type: "+marker),
		"A99 error":             reply(400, `{"error":"`+marker+`"}`, asJSON),
		"A103 outage":           reply(500, marker, "Retry-After: "+marker),
		"A95 type":              reply(200, jwt, "Content-Type: text/"+marker),
		"A95 parameter":         reply(200, jwt, "Content-Type: application/jwt; "+marker),
		"A94 encoding":          reply(200, jwt, asJWT, "Content-Encoding: "+marker),
		"A96 redirect":          reply(302, "", "Location: https://as.test/"+marker),
		"A96 broken redirect":   reply(302, "", "Location: ://%zz"+marker),
		"A87 not JSON":          reply(200, marker, asJSON),
		"A76 not a JWT":         reply(200, marker, asJWT),
		"A81 no JWT":            answerJSON(`{"active":true,"` + marker + `":"` + marker + `"}`),
		"A114 other sub":        answerJSON(answerOf(jwt, map[string]any{"sub": marker})),
		"A115 token_use":        answerJSON(answerOf(jwt, map[string]any{"token_use": marker})),
		"A112 exp":              answerJSON(answerOf(jwt, map[string]any{"exp": marker})),
		"A116 alg":              reply(200, mintHeader("ES256", `{"alg":"`+marker+`"}`, claims(nil)), asJWT),
		"A116 iss":              reply(200, mint("ES256", claims(map[string]any{"iss": "https://" + marker})), asJWT),
		"A78 inactive and more": answerJSON(`{"active":false,"reason":"` + marker + `"}`),
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.secret(marker)
			as.introspect = answer
			m := as.middleware()
			if got := as.try(m, "tok-of-alice"); got == codeOK {
				t.Error(got)
			}
			m.Purge()
			_, err := m.Verify(t.Context(), "tok-of-alice")
			if err == nil || as.leaks(err.Error()) != nil {
				t.Errorf("error %v", err)
			}
		})
	}
}
