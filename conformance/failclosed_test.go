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

type introspectorFunc func(context.Context, string) (*phantom.Introspection, error)

func (f introspectorFunc) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	return f(ctx, token)
}

func withIntrospector(ask introspectorFunc, extra ...phantom.Option) *phantom.Middleware {
	return must(phantom.New(append([]phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithIntrospector(ask),
		phantom.WithKeySet(phantom.StaticKeys(keyFor("ES256").Public())),
	}, extra...)...))
}

// A program may permit panic(nil), of which recover says nothing.
func TestPanicOfNil(t *testing.T) {
	t.Setenv("GODEBUG", "panicnil=1")
	as := newAS(t)
	refuse := func(*phantom.Token) error { panic(nil) }
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"Introspector": withIntrospector(func(context.Context, string) (*phantom.Introspection, error) { panic(nil) }).Handler,
		"Requirement":  as.middleware().Require(refuse),
		"extractor":    as.middleware(phantom.WithTokenExtractor(func(*http.Request) (string, error) { panic(nil) })).Handler,
	} {
		if got := as.send(wrap, get("Bearer opaque")); got != code500I {
			t.Errorf("%s: %s", name, got)
		}
	}
	if tok, err := as.middleware(phantom.WithRequirements(refuse)).Verify(t.Context(), "opaque"); tok != nil || err == nil {
		t.Errorf("Verify: %v, %v", tok, err)
	}
}

// What an Introspector says of a token does not make the request one without.
func TestOptionalIsDecidedByTheExtractor(t *testing.T) {
	as := newAS(t)
	m := withIntrospector(func(context.Context, string) (*phantom.Introspection, error) {
		return nil, fmt.Errorf("no claims: %w", phantom.ErrNoToken)
	}, phantom.WithTokenExtractor(func(*http.Request) (string, error) { return "from-a-cookie", nil }))
	if got := as.send(m.Optional, get()); got == codeOK {
		t.Error("anonymous")
	}
}

// A refusal of any kind ends what was known before.
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
		for authorization, want := range map[string]string{"Bearer bob": codeOK, "Basic Zm9v": code401N} {
			inner := &spy{}
			sub := get(authorization).WithContext(r.Context())
			if got := as.outcome(serve(m.Handler(inner), sub), inner, 0); got != want {
				t.Errorf("%s: %s", authorization, got)
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
