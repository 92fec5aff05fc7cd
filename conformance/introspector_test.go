package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// An introspector is an Introspector of the caller's own that counts its calls.
type introspector struct {
	ask   func(ctx context.Context, token string) (*phantom.Introspection, error)
	calls atomic.Int64
}

func (i *introspector) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	i.calls.Add(1)
	return i.ask(ctx, token)
}

// introspected returns a Middleware with the introspector; the fixture's server
// has the keys and the log.
func introspected(as *fakeAS, i *introspector, extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	opts := as.options(append(extra, phantom.WithIntrospector(i))...)
	// Without WithIntrospectionEndpoint and WithClientAuth.
	m, err := phantom.New(append(append(opts[:2:2], opts[3]), opts[5:]...)...)
	if err != nil {
		as.tb.Fatal(err)
	}
	return m
}

// foreignText stands in the errors of an Introspector: for the log alone.
const foreignText = "secret-in-a-text"

// An introspectorCase is what an Introspector returns, and what becomes of it.
type introspectorCase struct {
	name       string
	answer     *phantom.Introspection
	err        error
	want       string
	remembered bool
}

// runIntrospector asks about one token three times. An answer that may be
// remembered is asked for once.
func runIntrospector(t *testing.T, jwt string, cases []introspectorCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret(jwt)
			i := &introspector{ask: func(_ context.Context, token string) (*phantom.Introspection, error) {
				if token != "token-of-alice" {
					t.Errorf("asked about %q", token)
				}
				return tc.answer, tc.err
			}}
			m := introspected(as, i)
			for range 3 {
				if got := as.try(m, "token-of-alice"); got != tc.want {
					t.Fatalf("outcome %s, want %s\n%s", got, tc.want, as.logs.String())
				}
			}
			calls := int64(3)
			if tc.remembered {
				calls = 1
			}
			if got := i.calls.Load(); got != calls {
				t.Errorf("asked %d times, want %d", got, calls)
			}
			_, err := m.Verify(t.Context(), "token-of-alice")
			if as.leaks(fmt.Sprint(err)) != nil || strings.Contains(fmt.Sprint(err), foreignText) {
				t.Errorf("error %v", err)
			}
			if n := len(as.recorded(endpointPath)); n != 0 {
				t.Errorf("the endpoint was asked %d times", n)
			}
		})
	}
}

// An Introspector's answer is judged as that of the endpoint: it needs a good
// JWT, and its claims are strict JSON about the same token.
func TestIntrospectorAnswersAreJudged(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	now := time.Now()
	active := func(change func(*phantom.Introspection)) *phantom.Introspection {
		answer := &phantom.Introspection{Active: true, JWT: jwt}
		if change != nil {
			change(answer)
		}
		return answer
	}
	withClaims := func(text string) *phantom.Introspection {
		return active(func(a *phantom.Introspection) { a.Claims = []byte(text) })
	}
	var typedNil *phantom.Introspection
	runIntrospector(t, jwt, []introspectorCase{
		{"active", active(nil), nil, codeOK, true},
		{"active, not to be kept", active(func(a *phantom.Introspection) { a.MaxAge = -1 }), nil, codeOK, false},
		{"active, kept as long as it is", active(func(a *phantom.Introspection) { a.MaxAge = 1 << 62 }), nil, codeOK, true},
		{"inactive", &phantom.Introspection{}, nil, code401T, true},
		{"inactive with a JWT", active(func(a *phantom.Introspection) { a.Active = false }), nil, code401T, true},
		{"inactive with junk", &phantom.Introspection{Claims: []byte("junk"), Expiry: now.Add(time.Hour)}, nil, code401T, true},
		{"nothing at all", nil, nil, code502A, false},
		{"a typed nil", typedNil, nil, code502A, false},
		{"active without a JWT", active(func(a *phantom.Introspection) { a.JWT = "" }), nil, code502A, false},
		{"active with junk for a JWT", active(func(a *phantom.Introspection) { a.JWT = "junk" }), nil, code502A, false},
		{"the JWT with a line break", active(func(a *phantom.Introspection) { a.JWT += "\n" }), nil, code502A, false},
		{"a JWT of another key", active(func(a *phantom.Introspection) {
			a.JWT = compact("ES256", p384Key(), `{"alg":"ES256","kid":"k-ES256"}`, `{}`)
		}), nil, code401T, false},
		{"expired by the answer", active(func(a *phantom.Introspection) { a.Expiry = now.Add(-time.Hour) }), nil, code401T, false},
		{"expires later", active(func(a *phantom.Introspection) { a.Expiry = now.Add(time.Hour) }), nil, codeOK, true},
		{"claims", withClaims(`{"active":true,"sub":"alice"}`), nil, codeOK, true},
		{"claims, not JSON", withClaims(`junk`), nil, code502A, false},
		{"claims, not an object", withClaims(`[]`), nil, code502A, false},
		{"claims, member twice", withClaims(`{"sub":"alice","sub":"alice"}`), nil, code502A, false},
		{"claims of another subject", withClaims(`{"sub":"mallory"}`), nil, code401T, true},
		{"claims of a refresh token", withClaims(`{"token_use":"refresh_token"}`), nil, code401T, true},
		{"claims of a bound token", withClaims(`{"cnf":{"jkt":"x"}}`), nil, code401T, true},
	})
}

// An Introspector's error has its meaning by the sentinel in it. Any other is
// an outage, and one beside an answer counts.
func TestIntrospectorErrorsAreSorted(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	answer := &phantom.Introspection{Active: true, JWT: jwt}
	runIntrospector(t, jwt, []introspectorCase{
		{"ErrUpstream", nil, phantom.ErrUpstream, code502A, false},
		{"ErrUpstream, wrapped", nil, fmt.Errorf(foreignText+": %w", phantom.ErrUpstream), code502A, false},
		{"ErrInvalidToken", nil, phantom.ErrInvalidToken, code401T, true},
		{"ErrInvalidToken, wrapped", nil, fmt.Errorf(foreignText+": %w", phantom.ErrInvalidToken), code401T, true},
		{"ErrInvalidToken, joined", nil, errors.Join(errors.New(foreignText), phantom.ErrInvalidToken), code401T, true},
		{"ErrUnavailable", nil, fmt.Errorf(foreignText+": %w", phantom.ErrUnavailable), code503A, false},
		{"an Error, inactive", nil, &phantom.Error{Reason: phantom.ReasonInactive}, code401T, true},
		{"an Error, refused JWT", nil, &phantom.Error{Reason: phantom.ReasonJWTRejected}, code401T, false},
		{"an Error, unavailable", nil, &phantom.Error{Reason: phantom.ReasonUnavailable}, code503A, false},
		{"plain error", nil, errors.New(foreignText), code503A, false},
		{"deadline", nil, context.DeadlineExceeded, code503A, false},
		{"cancelled", nil, fmt.Errorf(foreignText+": %w", context.Canceled), code503A, false},
		{"an answer and a plain error", answer, errors.New(foreignText), code503A, false},
		{"an answer and ErrUpstream", answer, phantom.ErrUpstream, code502A, false},
		{"inactive and a plain error", &phantom.Introspection{}, errors.New(foreignText), code503A, false},
		{"a configuration error of ours", nil, &phantom.ConfigError{Option: "x", Reason: foreignText}, code503A, false},
	})
}

// A panic of an Introspector is an internal error for all who wait, and the
// next request works. Its value is not shown: it could hold anything.
func TestIntrospectorThatPanicsHarmsNoOthers(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func()
	}{
		{"text", func() { panic(foreignText) }},
		{"error", func() { panic(errors.New(foreignText)) }},
		{"runtime", func() { s := []string{}; _ = s[len(s)] }},
		{"nil", func() { panic(nil) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.secret(foreignText)
				failing := true
				i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
					time.Sleep(time.Millisecond)
					if failing {
						tc.fail()
					}
					return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil))}, nil
				}}
				m := introspected(as, i)
				outcomes := make(chan string, 100)
				for range cap(outcomes) {
					go func() { outcomes <- as.try(m, "tok") }()
				}
				for range cap(outcomes) {
					if got := <-outcomes; got != code500I {
						t.Fatal(got)
					}
				}
				failing = false
				if got := as.try(m, "tok"); got != codeOK || i.calls.Load() != 2 {
					t.Errorf("afterwards %s, asked %d times", got, i.calls.Load())
				}
				if log := as.logs.String(); !strings.Contains(log, "reason=internal") || !strings.Contains(log, "stack=") {
					t.Error(log)
				}
			})
		})
	}
}

// An Introspector gets the deadline of the lookup and no value of a request's
// context. Its first caller may leave, and one that does not listen holds up no
// request for longer.
func TestIntrospectorHasTheTimeOfALookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		as := newAS(t)
		i := &introspector{ask: func(ctx context.Context, _ string) (*phantom.Introspection, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 2*time.Second {
				t.Errorf("deadline %v, %v", deadline, ok)
			}
			if ctx.Value(key{}) != nil {
				t.Error("the lookup sees values of a request")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		m := introspected(as, i)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		if _, err := m.Verify(ctx, "tok"); !errors.Is(err, phantom.ErrUnavailable) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// The lookup goes on without its first caller, to its own end.
		_, err := m.Verify(context.WithValue(t.Context(), key{}, "value"), "tok")
		if !errors.Is(err, phantom.ErrUnavailable) || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := i.calls.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
		// One that does not listen to its context keeps no request waiting.
		i.ask = func(context.Context, string) (*phantom.Introspection, error) {
			time.Sleep(time.Minute)
			return &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil))}, nil
		}
		start = time.Now()
		if got := as.try(m, "other"); got != code503A || time.Since(start) != 2*time.Second {
			t.Errorf("%s after %v", got, time.Since(start))
		}
		time.Sleep(time.Minute)
	})
}

// What an Introspector does with its answer afterwards changes nothing.
func TestIntrospectorMayReuseItsAnswer(t *testing.T) {
	as := newAS(t)
	answer := &phantom.Introspection{}
	i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
		*answer = phantom.Introspection{
			Active: true, JWT: mint("ES256", claims(nil)), Claims: []byte(`{"dept":"r&d"}`), MaxAge: -1,
		}
		return answer, nil
	}}
	m := introspected(as, i)
	tok, err := m.Verify(t.Context(), "tok")
	if err != nil {
		t.Fatal(err)
	}
	copy(answer.Claims, `{"dept":"x&x"}`)
	answer.JWT, answer.Active = "", false
	for range 2 {
		var got struct{ Dept string }
		if err := tok.Introspection(&got); err != nil || got.Dept != "r&d" || tok.JWT() == "" {
			t.Errorf("%+v, %v", got, err)
		}
		if tok, err = m.Verify(t.Context(), "tok"); err != nil {
			t.Fatal(err)
		}
	}
}

// The bounds on how long to keep an answer hold for an Introspector's too.
func TestIntrospectorAnswersAreKeptWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct{ maxAge, expiry, life time.Duration }{
			{0, 0, 60 * time.Second},
			{5 * time.Second, 0, 5 * time.Second},
			{time.Hour, 0, 60 * time.Second},
			{time.Hour, 20 * time.Second, 20 * time.Second},
			{10 * time.Second, 20 * time.Second, 10 * time.Second},
		} {
			as := newAS(t)
			i := &introspector{}
			i.ask = func(context.Context, string) (*phantom.Introspection, error) {
				as.calls.Add(1)
				answer := &phantom.Introspection{Active: true, JWT: mint("ES256", claims(nil)), MaxAge: tc.maxAge}
				if tc.expiry > 0 {
					answer.Expiry = time.Now().Add(tc.expiry)
				}
				return answer, nil
			}
			m := introspected(as, i, phantom.WithRefreshAhead(0))
			if life := cachedFor(t, as, m); life < tc.life*7/8 || life > tc.life {
				t.Errorf("max-age %v, exp in %v: kept for %v, want %v or up to an eighth less",
					tc.maxAge, tc.expiry, life, tc.life)
			}
		}
	})
}

// WithIntrospector takes the place of the endpoint and of all options about it.
// New names each one that is there beside it.
func TestIntrospectorExcludesTheEndpoint(t *testing.T) {
	i := &introspector{}
	var none *introspector
	for _, tc := range []struct {
		name string
		opts []phantom.Option
		want []string // the mistakes, as "option: reason"
	}{
		{"alone", []phantom.Option{phantom.WithIntrospector(i)}, nil},
		{"nil", []phantom.Option{phantom.WithIntrospector(nil)}, []string{"WithIntrospector: nil: leave the option out for the default"}},
		{"typed nil", []phantom.Option{phantom.WithIntrospector(none)}, []string{"WithIntrospector: nil: leave the option out for the default"}},
		{"endpoint", []phantom.Option{
			phantom.WithIntrospector(i), phantom.WithIntrospectionEndpoint(issuer + "/i"),
		}, []string{"WithIntrospector: excludes WithIntrospectionEndpoint"}},
		{"the other order", []phantom.Option{
			phantom.WithIntrospectionEndpoint(issuer + "/i"), phantom.WithIntrospector(i),
		}, []string{"WithIntrospector: excludes WithIntrospectionEndpoint"}},
		{"all four", []phantom.Option{
			phantom.WithIntrospector(i), phantom.WithIntrospectionEndpoint(issuer + "/i"),
			phantom.WithClientAuth(phantom.NoClientAuth()), phantom.WithJSONResponse("jwt"), phantom.WithStrictCacheControl(),
		}, []string{
			"WithIntrospector: excludes WithIntrospectionEndpoint", "WithIntrospector: excludes WithClientAuth",
			"WithIntrospector: excludes WithJSONResponse", "WithIntrospector: excludes WithStrictCacheControl",
		}},
		{"neither", nil, []string{
			"WithClientAuth: is required: ClientSecretBasic, PrivateKeyJWT or another; " +
				"NoClientAuth is for an endpoint that wants no credentials",
		}},
	} {
		_, err := phantom.New(append(tc.opts, phantom.WithIssuer(issuer), phantom.WithAudience(audience))...)
		var got []string
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, one := range joined.Unwrap() {
				var config *phantom.ConfigError
				if errors.As(one, &config) {
					got = append(got, config.Option+": "+config.Reason)
				}
			}
		}
		if string(must(json.Marshal(got))) != string(must(json.Marshal(tc.want))) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// An Introspector can ask for a pause as a server does with Retry-After: one
// lookup a second finds out whether it is over.
//
// Catalogue: X4.
func TestIntrospectorMayAskForAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
			return nil, &phantom.Error{Reason: phantom.ReasonUnavailable, RetryAfter: 7 * time.Second}
		}}
		as := newAS(t)
		m := introspected(as, i)
		for range 70 {
			if got := as.try(m, "token-of-alice"); got != code503A {
				t.Error(got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := i.calls.Load(); got != 7 {
			t.Errorf("asked %d times in 7 s", got)
		}
	})
}
