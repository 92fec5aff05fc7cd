package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// 408, 421 and 425 speak of the request, not of the token: the answer is an
// outage, and the next request asks again.
//
// Catalogue: Y5.
func TestTransientStatusesAreOutages(t *testing.T) {
	for _, status := range []int{408, 421, 425} {
		t.Run(fmt.Sprint(status), func(t *testing.T) { thrice(t, reply(status, ""), code503A, false) })
	}
}

// A server that says "inactive" with a status of its own has said it. Every other
// status that is no answer stays unusable.
//
// Catalogue: Y6.
func TestInactiveWithAStatusIsAVerdict(t *testing.T) {
	for _, tc := range []struct {
		name       string
		answer     http.HandlerFunc
		want       string
		remembered bool
	}{
		{"400", reply(400, `{"active":false}`, asJSON), code401T, true},
		{"401", reply(401, `{"active":false,"error":"invalid_token"}`, asJSON), code401T, true},
		{"404", reply(404, `{"active":false}`, asJSON), code401T, true},
		{"without a type", reply(400, `{"active":false}`), code401T, true},
		{"active all the same", reply(400, `{"active":true}`, asJSON), code502A, false},
		{"a text", reply(400, `{"active":"false"}`, asJSON), code502A, false},
		{"null", reply(400, `{"active":null}`, asJSON), code502A, false},
		{"twice", reply(400, `{"active":false,"active":false}`, asJSON), code502A, false},
		{"an array", reply(400, `[{"active":false}]`, asJSON), code502A, false},
		{"a redirect", reply(302, `{"active":false}`, asJSON), code502A, false},
		{"another success", reply(206, `{"active":false}`, asJSON), code502A, false},
		{"an outage", reply(500, `{"active":false}`, asJSON), code503A, false},
		{"too many requests", reply(429, `{"active":false}`, asJSON), code503A, false},
	} {
		t.Run(tc.name, func(t *testing.T) { thrice(t, tc.answer, tc.want, tc.remembered) })
	}
}

// The log blames the credentials for what says so, and for nothing else.
//
// Catalogue: Y6.
func TestCredentialsAreBlamedOnlyIfTheServerDoes(t *testing.T) {
	for _, tc := range []struct {
		answer http.HandlerFunc
		blamed bool
	}{
		{reply(401, ""), true},
		{reply(403, ""), true},
		{reply(400, `{"error":"invalid_client"}`, asJSON), true},
		{reply(400, `{"error":"unauthorized_client"}`, asJSON), true},
		{reply(422, `{"error":"invalid_client"}`, asJSON), true},
		{reply(400, ""), false},
		{reply(404, ""), false},
		{reply(400, `{"error":"invalid_request"}`, asJSON), false},
		{reply(405, `{"error":"invalid_clients"}`, asJSON), false},
	} {
		as := newAS(t)
		as.introspect = tc.answer
		if got := as.try(as.middleware(), "opaque-token"); got != code502A {
			t.Error(got)
		}
		if log := as.logs.String(); strings.Contains(log, "credentials") != tc.blamed {
			t.Error(log)
		}
	}
}

// A JWT that is refused for what it is will be refused again: it is remembered
// like an inactive token, with its own status and one line in the log. What may
// pass is asked about again.
//
// Catalogue: Y7.
func TestLastingRefusalsAreRemembered(t *testing.T) {
	good := claims(nil)
	with := func(name string, value any) string { return mint("ES256", claims(map[string]any{name: value})) }
	header := func(h string) string { return mintHeader("ES256", h, good) }
	for _, tc := range []struct {
		name    string
		jwt     string
		lasting bool
	}{
		{"iss", with("iss", "https://other.test"), true},
		{"aud", with("aud", "https://other.test"), true},
		{"no aud", with("aud", nil), true},
		{"typ", header(`{"alg":"ES256","kid":"k-ES256","typ":"logout+jwt"}`), true},
		{"alg", header(`{"alg":"none","kid":"k-ES256"}`), true},
		{"crit", header(`{"alg":"ES256","kid":"k-ES256","crit":["x"],"x":1}`), true},
		{"sub", with("sub", nil), true},
		{"cnf", with("cnf", map[string]any{"jkt": "x"}), true},
		{"kind", with("token_use", "refresh_token"), true},
		{"client_id", with("client_id", 1), true},
		{"another spelling", with("SUB", "bob"), true},
		{"kid", header(`{"alg":"ES256","kid":"unknown"}`), false},
		{"signature", strings.TrimSuffix(mint("ES256", good), "A") + "B", false},
		{"exp", with("exp", time.Now().Unix()-60), false},
		{"no exp", with("exp", nil), false},
		{"nbf", with("nbf", time.Now().Unix()+600), false},
		{"iat", with("iat", time.Now().Unix()+600), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(tc.jwt)
			m := as.middleware()
			var first, last string
			for i := range 100 {
				got := as.try(m, "opaque-token-of-alice")
				if i == 0 {
					first = got
				}
				last = got
			}
			asked := int64(100)
			if tc.lasting {
				asked = 1
			}
			then := first
			if tc.name == "kid" {
				then = code503A // until the keys may be fetched again: Y2
			}
			if last != then || tc.lasting && first != code401T || as.calls.Load() != asked {
				t.Errorf("%s, then %s, asked %d times", first, last, as.calls.Load())
			}
			if lines := strings.Count(as.logs.String(), "level=WARN"); tc.lasting && lines != 1 {
				t.Errorf("%d lines of WARN", lines)
			}
		})
	}
}

// A lasting refusal ends with the time of the word "inactive", and with Forget.
//
// Catalogue: Y7.
func TestLastingRefusalEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		foreign := func(w http.ResponseWriter, r *http.Request) {
			answerJWT(mint("ES256", claims(map[string]any{"aud": "https://other.test"})))(w, r)
		}
		as.introspect = foreign
		m := as.middleware()
		if got := as.try(m, "tok"); got != code401T {
			t.Error(got)
		}
		as.introspect = nil
		time.Sleep(4999 * time.Millisecond)
		if got := as.try(m, "tok"); got != code401T {
			t.Errorf("just before 5 s: %s", got)
		}
		time.Sleep(time.Millisecond)
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("after 5 s: %s", got)
		}
		as.introspect = foreign
		as.try(m, "tok2")
		as.introspect = nil
		m.Forget("tok2")
		if got := as.try(m, "tok2"); got != codeOK {
			t.Errorf("after Forget: %s", got)
		}
		if off := as.middleware(phantom.WithNegativeTTL(0)); true {
			as.introspect = foreign
			before := as.calls.Load()
			as.try(off, "tok")
			as.try(off, "tok")
			if asked := as.calls.Load() - before; asked != 2 {
				t.Errorf("without a negative TTL asked %d times", asked)
			}
		}
	})
}

// An active answer without a JWT is unusable. It is remembered like an inactive
// token, and leaves one line in ten seconds.
//
// Catalogue: Y8.
func TestActiveAnswerWithoutJWTIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJSON(`{"active":true,"sub":"alice","scope":"read"}`)
		m := as.middleware()
		for range 100 {
			if got := as.try(m, "refresh-token"); got != code502A {
				t.Error(got)
			}
			time.Sleep(40 * time.Millisecond)
		}
		if lines := strings.Count(as.logs.String(), "level=ERROR"); lines != 1 || as.calls.Load() != 1 {
			t.Errorf("%d lines, asked %d times", lines, as.calls.Load())
		}
	})
}

// An active answer without a JWT is no verdict: a refresh that gets one leaves the
// entry to its end, and an entry past its life to the next outage.
//
// Catalogue: Y8, C230.
func TestActiveAnswerWithoutJWTEndsNoEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(time.Hour))
		if got := as.try(m, "tok"); got != codeOK {
			t.Fatal(got)
		}
		time.Sleep(50 * time.Second) // due for refresh
		as.introspect = answerJSON(`{"active":true,"sub":"alice"}`)
		for range 10 {
			if got := as.try(m, "tok"); got != codeOK {
				t.Errorf("during its life: %s", got)
			}
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		if got := as.try(m, "tok"); got != code502A {
			t.Errorf("after its life: %s", got)
		}
		as.introspect = reply(503, "")
		if got := as.try(m, "tok"); got != codeOK {
			t.Errorf("in an outage: %s", got)
		}
	})
}

// What an Introspector's error does not say is no verdict.
//
// Catalogue: Y9.
func TestVagueErrorsOfAnIntrospectorAreOutages(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"no Reason", &phantom.Error{}, code503A},
		{"no Reason, a Detail", &phantom.Error{Detail: "backend down"}, code503A},
		{"a Reason that we do not know", &phantom.Error{Reason: "backend"}, code503A},
		{"wrapped", fmt.Errorf("x: %w", &phantom.Error{}), code503A},
		{"a plain error", errors.New("backend down"), code503A},
		{"a typed nil", (*phantom.Error)(nil), code500I},
		{"a joined error", errors.Join(errors.New("a"), errors.New("b")), code503A},
		{"unavailable", fmt.Errorf("x: %w", phantom.ErrUnavailable), code503A},
		{"upstream", fmt.Errorf("x: %w", phantom.ErrUpstream), code502A},
		{"invalid", fmt.Errorf("x: %w", phantom.ErrInvalidToken), code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			m := introspected(as, &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
				return nil, tc.err
			}})
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Error(got)
			}
			if log := as.logs.String(); strings.Contains(log, `reason=""`) || !strings.Contains(log, "reason=") {
				t.Error(log)
			}
		})
	}
}

// An Introspection that says nothing of MaxAge is kept, a negative one is not.
//
// Catalogue: Y10.
func TestIntrospectionIsKeptUnlessItMayNot(t *testing.T) {
	for _, tc := range []struct {
		maxAge time.Duration
		calls  int64
	}{{0, 1}, {-1, 3}, {-time.Hour, 3}, {time.Minute, 1}} {
		as := newAS(t)
		i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
			return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil)), MaxAge: tc.maxAge}, nil
		}}
		m := introspected(as, i)
		for range 3 {
			if got := as.try(m, "tok"); got != codeOK {
				t.Error(got)
			}
		}
		if got := i.calls.Load(); got != tc.calls {
			t.Errorf("MaxAge %v: asked %d times, want %d", tc.maxAge, got, tc.calls)
		}
	}
}

// What cannot be read in Cache-Control counts as 0: it may hide a max-age.
//
// Catalogue: Y11.
func TestUnreadableCacheControlIsNotKept(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	for _, tc := range []struct {
		lines      []string
		remembered bool
	}{
		{[]string{`x="`, "max-age=5"}, false},
		{[]string{"max-age=5", `x="`}, false},
		{[]string{`x="a`, `max-age=5, y="b`}, false},
		{[]string{`private="x", max-age=5`}, true},
	} {
		fields := []string{asJWT}
		for _, line := range tc.lines {
			fields = append(fields, "Cache-Control: "+line)
		}
		t.Run(fmt.Sprint(tc.lines), func(t *testing.T) { thrice(t, reply(200, jwt, fields...), codeOK, tc.remembered) })
	}
}
