package conformance_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// withIntrospector returns a Middleware that asks ask about tokens, without any
// server.
func withIntrospector(ask introspectFunc, extra ...phantom.Option) *phantom.Middleware {
	return must(phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithIntrospector(ask),
		phantom.WithKeySet(phantom.StaticKeys(keyFor("ES256").Public())),
	}, extra...)...))
}

// A program may permit panic(nil), which recover does not report. It is a 500
// all the same.
func TestPanicOfNil(t *testing.T) {
	t.Setenv("GODEBUG", "panicnil=1")
	as := newAS(t)
	refuse := func(*phantom.Token) error { panic(nil) }
	ask := func(context.Context, string) (*phantom.Introspection, error) { panic(nil) }
	extract := func(*http.Request) (string, error) { panic(nil) }
	for _, mounting := range []mounting{
		{"Introspector", withIntrospector(ask).Handler},
		{"Requirement", as.middleware().Require(refuse)},
		{"extractor", as.middleware(phantom.WithTokenExtractor(extract)).Handler},
	} {
		if got := as.send(mounting.wrap, get("Bearer opaque")); got != code500I {
			t.Errorf("%s: %s", mounting.name, got)
		}
	}
	tok, err := as.middleware(phantom.WithRequirements(refuse)).Verify(t.Context(), "opaque")
	if got := codeOf(tok, err); got != code500I {
		t.Errorf("Verify: %s", got)
	}
}

// An Introspector that reports ErrNoToken does not make a request anonymous:
// the extractor has found a token.
func TestOptionalIsDecidedByTheExtractor(t *testing.T) {
	as := newAS(t)
	m := withIntrospector(func(context.Context, string) (*phantom.Introspection, error) {
		return nil, fmt.Errorf("no claims: %w", phantom.ErrNoToken)
	}, phantom.WithTokenExtractor(func(*http.Request) (string, error) { return "from-a-cookie", nil }))
	if got := as.send(m.Optional, get()); got == codeOK {
		t.Error("anonymous")
	}
}

// A refusal of any kind ends what was known before. Not even stale-if-error
// brings it back.
func TestRefusalEndsTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		m := as.middleware(phantom.WithStaleIfError(time.Hour), phantom.WithRefreshAhead(0))
		if got := as.try(m, "opaque"); got != codeOK {
			t.Fatal(got)
		}
		time.Sleep(61 * time.Second)
		as.introspect = answerJSON(`{"active":true,"token_use":"refresh_token"}`)
		if got := as.try(m, "opaque"); got != code401T {
			t.Error(got)
		}
		as.introspect = answer(503, "", "")
		time.Sleep(6 * time.Second) // the refusal is not remembered any more
		if got := as.try(m, "opaque"); got != code503A {
			t.Errorf("refused, then served: %s", got)
		}
	})
}

// A request made with the context of another one is judged by its own
// credentials.
func TestContextOfAnotherRequest(t *testing.T) {
	as := newAS(t)
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		answerJWT(mint("ES256", claims(map[string]any{"sub": r.Form.Get("token")})))(w, r)
	}
	m := as.middleware()
	outer := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		for _, tc := range []struct{ authorization, want string }{
			{"Bearer bob", codeOK}, {"Basic Zm9v", code401N},
		} {
			inner := &spy{}
			sub := get(tc.authorization).WithContext(r.Context())
			if got := as.outcome(serve(m.Handler(inner), sub), inner, 0); got != tc.want {
				t.Errorf("%s: %s", tc.authorization, got)
			} else if got == codeOK && inner.tokens[0].Subject() != "bob" {
				t.Errorf("served as %s", inner.tokens[0].Subject())
			}
		}
	}}
	serve(m.Handler(outer), get("Bearer alice"))
	if outer.calls() != 1 {
		t.Error("the outer request was refused")
	}
}
