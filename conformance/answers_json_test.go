package conformance_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// withMembers answers for an active token with the JWT as phantom_token;
// changes add members, or remove them if they are nil.
func withMembers(changes map[string]any) http.HandlerFunc {
	return answerJSON(answerOf(mint("ES256", claims(nil)), changes))
}

// rawJSON answers with the text, in which JWT stands for one.
func rawJSON(text string) http.HandlerFunc {
	return answerJSON(strings.ReplaceAll(text, "JWT", mint("ES256", claims(nil))))
}

// A JSON answer brings the JWT as phantom_token or as jwt, but not as both.
//
// Catalogue: A80.
func TestJSONAnswerBringsTheJWT(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"the member phantom_token", withMembers(nil), codeOK},
		{"the member jwt", withMembers(map[string]any{"phantom_token": nil, "jwt": jwt}), codeOK},
		{"a parameter of the media type", reply(200, answerOf(jwt, nil), "Content-Type: application/json;charset=UTF-8"), codeOK},
		{"space around", rawJSON(" \r\n{ \"active\" : true ,\t\"phantom_token\" : \"JWT\" }\n"), codeOK},
		{"escaped names and values", rawJSON(`{"\u0061ctive":true,"phantom\u005ftoken":"JWT"}`), codeOK},
		{"both members", withMembers(map[string]any{"jwt": jwt}), code502A},
		{"both members, one null", withMembers(map[string]any{"jwt": null}), code502A},
		{"the JWT with a line break behind", withMembers(map[string]any{"phantom_token": jwt + "\n"}), code502A},
	})
}

// An active token without its JWT is a fault of the set-up.
//
// Catalogue: A81.
func TestJSONAnswerWithoutJWTIsRefused(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runLasting(t, []answerCase{
		{"no JWT", withMembers(map[string]any{"phantom_token": nil}), code502A},
		{"JWT in a member that we do not know", withMembers(map[string]any{"phantom_token": nil, "token": jwt, "access_token": jwt}), code502A},
		{"JWT one level down", withMembers(map[string]any{"phantom_token": nil, "ext": map[string]any{"phantom_token": jwt}}), code502A},
	})
}

// Who meets that fault first reads in the log what to do about it.
//
// Catalogue: A81.
func TestMissingJWTNamesTheWaysOut(t *testing.T) {
	as := phantomtest.New(phantomtest.WithKeycloak(),
		phantomtest.WithAnswer(func(members map[string]any) { delete(members, "jwt") }))
	m, err := phantom.New(as.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Verify(t.Context(), as.Issue(nil))
	var e *phantom.Error
	if !errors.As(err, &e) || !errors.Is(err, phantom.ErrUpstream) {
		t.Fatal(err)
	}
	for _, want := range []string{"at the server", "WithMinter", "WithoutJWT", "WithTokenExchange"} {
		if !strings.Contains(e.Detail, want) {
			t.Errorf("no %q in %q", want, e.Detail)
		}
	}
}

// active is true or false, once, under this very name.
//
// Catalogue: A82.
func TestActiveIsABoolean(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{`"true"`, withMembers(map[string]any{"active": "true"}), code502A},
		{"a number", withMembers(map[string]any{"active": 1}), code502A},
		{"null", withMembers(map[string]any{"active": null}), code502A},
		{"absent", withMembers(map[string]any{"active": nil}), code502A},
		{"an array", withMembers(map[string]any{"active": []bool{true}}), code502A},
		{"in other letters", withMembers(map[string]any{"active": nil, "Active": true}), code502A},
		{"in upper case", withMembers(map[string]any{"active": nil, "ACTIVE": true, "phantom_token": jwt}), code502A},
		{"the member twice", rawJSON(`{"active":true,"phantom_token":"JWT","active":true}`), code502A},
		{"twice, false first", rawJSON(`{"active":false,"phantom_token":"JWT","active":true}`), code502A},
		{"twice, one escaped", rawJSON(`{"active":true,"phantom_token":"JWT","\u0061ctive":false}`), code502A},
	})
}

// The name of the member that holds the JWT is compared byte by byte.
//
// Catalogue: A85.
func TestMemberNameIsComparedExactly(t *testing.T) {
	runLasting(t, []answerCase{
		{"kelvin sign", rawJSON(`{"active":true,"phantom_to` + "\u212a" + `en":"JWT"}`), code502A},
		{"escaped kelvin sign", rawJSON(`{"active":true,"phantom_to\u212aen":"JWT"}`), code502A},
		{"in other letters", rawJSON(`{"active":true,"Phantom_Token":"JWT"}`), code502A},
	})
}

// The member that holds the JWT is a string, and comes once.
//
// Catalogue: A86.
func TestMemberWithTheJWTIsAString(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"a number", withMembers(map[string]any{"phantom_token": 123}), code502A},
		{"null", withMembers(map[string]any{"phantom_token": null}), code502A},
		{"empty", withMembers(map[string]any{"phantom_token": ""}), code502A},
		{"an object", withMembers(map[string]any{"phantom_token": map[string]any{"jwt": jwt}}), code502A},
		{"an array", withMembers(map[string]any{"phantom_token": []string{jwt}}), code502A},
		{"the member twice", rawJSON(`{"active":true,"phantom_token":"x","phantom_token":"JWT"}`), code502A},
	})
}

// The answer is one JSON object by the letter of RFC 8259, in UTF-8, with
// nothing behind it.
//
// Catalogue: A87, A88, A89.
func TestJSONAnswerIsStrict(t *testing.T) {
	runAnswers(t, []answerCase{
		{"a second object behind", rawJSON(`{"active":true,"phantom_token":"JWT"}{"active":false}`), code502A},
		{"a letter behind", rawJSON(`{"active":true,"phantom_token":"JWT"}x`), code502A},
		{"inactive and a second object", rawJSON(`{"active":false}{"active":true,"phantom_token":"JWT"}`), code502A},
		{"cut off", rawJSON(`{"active":true,"phantom_token":"JWT"`), code502A},
		{"trailing comma", rawJSON(`{"active":true,"phantom_token":"JWT",}`), code502A},
		{"comment", rawJSON(`{"active":true,/* */"phantom_token":"JWT"}`), code502A},
		{"byte order mark", rawJSON("\ufeff" + `{"active":true,"phantom_token":"JWT"}`), code502A},
		{"NUL behind", rawJSON(`{"active":true,"phantom_token":"JWT"}` + "\x00"), code502A},
		{"invalid UTF-8 in a value", rawJSON(`{"active":true,"phantom_token":"JWT","username":"` + "\xff" + `"}`), code502A},
		{"invalid UTF-8 in a name", rawJSON(`{"active":true,"phantom_token":"JWT","` + "\xc3\x28" + `":1}`), code502A},
		{"lone surrogate", rawJSON(`{"active":true,"phantom_token":"JWT","username":"\ud800"}`), code502A},
		{"lone surrogate two levels down", rawJSON(`{"active":true,"phantom_token":"JWT","ext":{"a":["\udc00"]}}`), code502A},
		{"lone surrogate while inactive", rawJSON(`{"active":false,"username":"\ud800"}`), code502A},
		{"nested deep in an array", rawJSON(`{"active":true,"phantom_token":"JWT","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`), code502A},
		{"nested deep in objects", rawJSON(`{"active":true,"phantom_token":"JWT","x":` + strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000) + `}`), code502A},
		{"nested deep and never closed", rawJSON(strings.Repeat("[", 60_000)), code502A},
		{"an array", rawJSON(`[{"active":true,"phantom_token":"JWT"}]`), code502A},
		{"null", rawJSON(`null`), code502A},
		{"true", rawJSON(`true`), code502A},
		{"a string", rawJSON(`"JWT"`), code502A},
		{"the JWT itself", rawJSON(`JWT`), code502A},
		{"empty", rawJSON(``), code502A},
	})
}

// A member in other letters is refused: a reader that folds case would take it
// for the one that we judged.
func TestMemberInOtherLettersIsRefused(t *testing.T) {
	runAnswers(t, []answerCase{
		{"ACTIVE beside active", withMembers(map[string]any{"ACTIVE": false}), code502A},                    // A82
		{"SUB for sub", withMembers(map[string]any{"SUB": "mallory"}), code502A},                            // A114
		{"SUB beside sub", withMembers(map[string]any{"sub": "alice", "SUB": "mallory"}), code502A},         // A114
		{"long s", withMembers(map[string]any{"\u017fub": "mallory"}), code502A},                            // A114
		{"Client_Id for client_id", withMembers(map[string]any{"Client_Id": "evil-app"}), code502A},         // A114
		{"Token_Use for token_use", withMembers(map[string]any{"Token_Use": "refresh_token"}), code502A},    // A115
		{"TOKEN_TYPE for token_type", withMembers(map[string]any{"TOKEN_TYPE": "refresh_token"}), code502A}, // A115
		{"CNF for cnf", withMembers(map[string]any{"CNF": map[string]string{"jkt": "x"}}), code502A},        // D241
	})
}

// exp of the answer is a date. A token that is past it is refused, although the
// answer calls it active.
//
// Catalogue: A112, A113.
func TestExpOfTheAnswerIsADateAhead(t *testing.T) {
	now := time.Now().Unix()
	runPassing(t, []answerCase{
		{"exp is a string", withMembers(map[string]any{"exp": fmt.Sprint(now + 300)}), code502A},
		{"exp in milliseconds", withMembers(map[string]any{"exp": (now + 300) * 1000}), code502A},
		{"exp negative", withMembers(map[string]any{"exp": -1}), code502A},
		{"exp beyond every number", rawJSON(`{"active":true,"phantom_token":"JWT","exp":1e999999999}`), code502A},
		{"exp null", withMembers(map[string]any{"exp": null}), codeOK},
		{"exp with a fraction", withMembers(map[string]any{"exp": float64(now) + 300.75}), codeOK},
		{"exp long past", withMembers(map[string]any{"exp": now - 3600}), code401T},
		{"exp zero", withMembers(map[string]any{"exp": 0}), code401T},
	})
}

// The answer and the JWT are about the same subject and the same client.
//
// Catalogue: A114.
func TestAnswerAboutAnotherIsRefused(t *testing.T) {
	runAnswers(t, []answerCase{
		{"the same sub and client_id", withMembers(map[string]any{"sub": "alice", "client_id": "app"}), codeOK},
		{"a JWT without client_id", answerJSON(answerOf(mint("ES256", claims(map[string]any{"client_id": nil})), map[string]any{"client_id": "app"})), codeOK},
		{"sub null", withMembers(map[string]any{"sub": null, "client_id": null}), codeOK},
		{"other sub", withMembers(map[string]any{"sub": "mallory"}), code401T},
		{"sub in other case", withMembers(map[string]any{"sub": "Alice"}), code401T},
		{"sub is a number", withMembers(map[string]any{"sub": 1}), code401T},
		{"sub empty", withMembers(map[string]any{"sub": ""}), code401T},
		{"other client_id", withMembers(map[string]any{"client_id": "evil-app"}), code401T},
	})
}

// A token that the answer calls a refresh token, an ID token or a bound token
// is no access token.
//
// Catalogue: A115.
func TestAnswerAboutAnotherKindIsRefused(t *testing.T) {
	runAnswers(t, []answerCase{
		{"token_use refresh_token", withMembers(map[string]any{"token_use": "refresh_token"}), code401T},
		{"token_type refresh_token", withMembers(map[string]any{"token_type": "refresh_token"}), code401T},
		{"token_type in other case", withMembers(map[string]any{"token_type": "Refresh_Token"}), code401T},
		{"token_usage refresh_token", withMembers(map[string]any{"token_usage": "refresh_token"}), code401T},
		{"token_use is no string", withMembers(map[string]any{"token_use": []string{"access_token"}}), code401T},
		{"token_type id_token", withMembers(map[string]any{"token_type": "id_token"}), code401T},
		{"token_type refresh", withMembers(map[string]any{"token_type": "refresh"}), code401T},
		{"token_type DPoP", withMembers(map[string]any{"token_type": "DPoP"}), code401T},
		{"token_type pop", withMembers(map[string]any{"token_type": "pop"}), code401T},
		{"token_usage access", withMembers(map[string]any{"token_usage": "access"}), codeOK},
		{"refresh token, and no JWT", withMembers(map[string]any{"token_use": "refresh_token", "phantom_token": nil}), code401T},
		{"token_use access_token", withMembers(map[string]any{"token_use": "access_token", "token_type": "Bearer"}), codeOK},
		{"token_type access_token", withMembers(map[string]any{"token_type": "access_token"}), codeOK},
		{"token_type JWT", withMembers(map[string]any{"token_type": "JWT", "token_use": null}), codeOK},
	})
}

// The answer can end a cache entry earlier than the JWT or the cap, never
// later.
//
// Catalogue: A112.
func TestEarliestExpiryEndsTheCacheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name              string
			jwt, answer, life time.Duration
		}{
			{"the answer ends first", 300 * time.Second, 20 * time.Second, 20 * time.Second},
			{"the JWT ends first", 20 * time.Second, 300 * time.Second, 20 * time.Second},
			{"the cap ends first", 300 * time.Second, 300 * time.Second, 60 * time.Second},
		} {
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // exp is in whole seconds
			as := newAS(t)
			as.introspect = answerJSON(answerOf(
				mint("ES256", claims(map[string]any{"exp": time.Now().Add(tc.jwt).Unix()})),
				map[string]any{"exp": time.Now().Add(tc.answer).Unix()},
			))
			m := as.middleware(phantom.WithRefreshAhead(0))
			if life := cachedFor(t, as, m); life < tc.life*7/8 || life > tc.life {
				t.Errorf("%s: kept for %v, want %v or up to an eighth less", tc.name, life, tc.life)
			}
		}
	})
}

// The leeway is for the JWT. What ends at once by the answer is taken, but not
// kept.
//
// Catalogue: A113.
func TestNoLeewayForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJSON(answerOf(mint("ES256", claims(nil)), map[string]any{"exp": time.Now().Unix() + 1}))
		m := as.middleware()
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("a second before: %s", got)
		}
		time.Sleep(time.Second)
		for i := range 2 {
			if got := as.try(m, "tok"); got != code401T {
				t.Errorf("at its end: %s", got)
			}
			if got := as.calls.Load(); got != int64(i+2) {
				t.Errorf("at its end: asked %d times", got)
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
