package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// sourceFaults returns the options that New complains about, in order.
func sourceFaults(opts ...phantom.Option) (options []string) {
	_, err := phantom.New(opts...)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	for _, err := range joined.Unwrap() {
		var fault *phantom.ConfigError
		if errors.As(err, &fault) {
			options = append(options, fault.Option)
		}
	}
	return options
}

// New refuses what contradicts the source of the JWT, and names the option.
//
// Catalogue: S1, S9, S15, W7, B11, C12.
func TestSourcesThatContradictAreRefused(t *testing.T) {
	as := newAS(t)
	exchange := func(endpoint string, form url.Values) phantom.Option {
		return phantom.WithTokenExchange(endpoint, form)
	}
	named := func(name string, keys phantom.KeySet) phantom.Option {
		return phantom.WithMinter(&testMinter{name: name, keys: keys})
	}
	own := phantom.StaticKeys(edKey().Public())
	for _, tc := range []struct {
		name string
		opts []phantom.Option
		want string
	}{
		{"minter and JSON", []phantom.Option{phantom.WithMinter(newMinter()), phantom.WithJSONResponse("x")}, "WithMinter"}, // S1
		{"no JWT and JSON", []phantom.Option{phantom.WithoutJWT(), phantom.WithJSONResponse("x")}, "WithoutJWT"},            // S1
		{"minter and no JWT", []phantom.Option{phantom.WithMinter(newMinter()), phantom.WithoutJWT()}, "WithMinter"},        // S1
		{"minter and exchange", []phantom.Option{phantom.WithMinter(newMinter()), exchange("", nil)}, "WithMinter"},         // S1
		{"exchange and JSON", []phantom.Option{exchange("", nil), phantom.WithJSONResponse("x")}, "WithTokenExchange"},      // S1
		{"empty prefix", []phantom.Option{phantom.WithoutJWT(), phantom.WithClientSubject("")}, "WithClientSubject"},        // S9
		{"nil minter", []phantom.Option{phantom.WithMinter(nil)}, "WithMinter"},                                             // S15
		{"nil pointer as minter", []phantom.Option{phantom.WithMinter((*testMinter)(nil))}, "WithMinter"},                   // S15
		{"name without keys", []phantom.Option{named(mintIssuer, nil)}, "WithMinter"},                                       // S15
		{"keys without name", []phantom.Option{named("", own)}, "WithMinter"},                                               // S15
		{"named like the server", []phantom.Option{named(issuer, own)}, "WithMinter"},
		{"unfit keys", []phantom.Option{named(mintIssuer, phantom.StaticKeys())}, "WithMinter"},
		{"minter and a key set", []phantom.Option{phantom.WithMinter(newMinter()), phantom.WithKeySet(own)}, "WithKeySet"},
		{"minter and a key set's URL", []phantom.Option{phantom.WithMinter(newMinter()), phantom.WithJWKSURL(issuer + "/k")}, "WithJWKSURL"},
		{"RFC 9068 without JWT", []phantom.Option{phantom.WithoutJWT(), phantom.WithRFC9068()}, "WithoutJWT"},                    // W7
		{"algorithms without JWT", []phantom.Option{phantom.WithoutJWT(), phantom.WithAlgorithms("ES256")}, "WithAlgorithms"},    // W7
		{"key set without JWT", []phantom.Option{phantom.WithoutJWT(), phantom.WithKeySet(own)}, "WithKeySet"},                   // W7
		{"JWKS URL without JWT", []phantom.Option{phantom.WithoutJWT(), phantom.WithJWKSURL(issuer + "/k")}, "WithJWKSURL"},      // W7
		{"signed without a source", []phantom.Option{phantom.WithSignedResponse("x")}, "WithSignedResponse"},                     // B11
		{"signed for no audience", []phantom.Option{phantom.WithoutJWT(), phantom.WithSignedResponse("")}, "WithSignedResponse"}, // B11
		{"a subject_token", []phantom.Option{exchange("", url.Values{"subject_token": {"x"}})}, "WithTokenExchange"},             // C12
		{"a client_secret", []phantom.Option{exchange("", url.Values{"client_secret": {"x"}})}, "WithTokenExchange"},             // C12
		{"an empty parameter", []phantom.Option{exchange("", url.Values{"audience": {""}})}, "WithTokenExchange"},                // C12
		{"a relative endpoint", []phantom.Option{exchange("/token", nil)}, "WithTokenExchange"},                                  // C12
		{"plain http", []phantom.Option{exchange("http://as.test/token", nil)}, "WithTokenExchange"},                             // C12
		{"RFC 9068 and client subjects", []phantom.Option{phantom.WithJWKSURL(issuer + jwksPath), phantom.WithRFC9068(),
			phantom.WithClientSubject("client:")}, "WithClientSubject"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := sourceFaults(as.withoutKeys(tc.opts...)...); len(got) != 1 || got[0] != tc.want {
				t.Errorf("%q, want %s", got, tc.want)
			}
		})
	}
	// B11: it is the client of RFC 7662 that asks for signed answers.
	both := []phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithoutJWT(), phantom.WithSignedResponse("x"),
		phantom.WithIntrospector(introspectorFunc(func(context.Context, string) (*phantom.Introspection, error) { return nil, nil })),
	}
	if got := sourceFaults(both...); len(got) != 1 || got[0] != "WithIntrospector" {
		t.Errorf("%q", got)
	}
}

// An introspectorFunc is an Introspector.
type introspectorFunc func(ctx context.Context, token string) (*phantom.Introspection, error)

func (f introspectorFunc) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	return f(ctx, token)
}

// An Introspector of the user's is held to the mode as the server is.
//
// Catalogue: S3.
func TestIntrospectorIsHeldToTheMode(t *testing.T) {
	good := []byte(`{"sub":"alice","aud":"` + audience + `"}`)
	for _, tc := range []struct {
		name string
		said *phantom.Introspection
		want string
	}{
		{"claims", &phantom.Introspection{Active: true, Claims: good}, codeOK},                // S3
		{"a JWT", &phantom.Introspection{Active: true, Claims: good, JWT: "x.y.z"}, code502A}, // S3
		{"no claims", &phantom.Introspection{Active: true}, code502A},
		{"not active in its claims", &phantom.Introspection{Active: true, Claims: []byte(`{"active":false,"sub":"alice"}`)}, code502A},
		{"expired beside its claims", &phantom.Introspection{Active: true, Claims: good, Expiry: time.Now().Add(-time.Second)}, code401T},
		{"expired in its claims", &phantom.Introspection{Active: true, Claims: []byte(`{"sub":"alice","exp":1,"aud":"` + audience + `"}`)}, code401T},
		{"inactive", &phantom.Introspection{Claims: good}, code401T},
		{"nil", nil, code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			ask := introspectorFunc(func(context.Context, string) (*phantom.Introspection, error) { return tc.said, nil })
			m := must(phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithoutJWT(),
				phantom.WithIntrospector(ask)))
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	as := newAS(t)
	ask := introspectorFunc(func(context.Context, string) (*phantom.Introspection, error) {
		return &phantom.Introspection{Active: true, Claims: good}, nil
	})
	m := must(phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithIntrospector(ask),
		phantom.WithKeySet(phantom.StaticKeys(edKey().Public()))))
	if got := as.try(m, "opaque-token"); got != code502A { // S3
		t.Errorf("claims alone in JWT mode: %s", got)
	}
}

// A token that no user stands behind gets a subject of its own kind, if the
// server says that it is an access token.
//
// Catalogue: S8, S9, V10.
func TestClientSubjectCannotBeAUsers(t *testing.T) {
	noSub := func(changes map[string]any) map[string]any {
		m := map[string]any{"sub": nil}
		for name, value := range changes {
			m[name] = value
		}
		return m
	}
	for _, tc := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"no sub", nil, "client:app"},                       // S8
		{"null", map[string]any{"sub": null}, "client:app"}, // S8
		{"azp", map[string]any{"client_id": nil, "azp": "other"}, "client:other"},
		{"a sub", map[string]any{"sub": "alice"}, "alice"},
		{"empty", map[string]any{"sub": ""}, ""},
		{"no client", map[string]any{"client_id": nil}, ""}, // S9
		{"no kind", map[string]any{"token_type": nil}, ""},  // S9
		{"token_use", map[string]any{"token_type": nil, "token_use": "access_token"}, "client:app"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerMembers(noSub(tc.changes))
			tok, err := as.claimsOnly(phantom.WithClientSubject("client:")).Verify(t.Context(), "opaque-token")
			if got := subjectOf(tok); got != tc.want {
				t.Errorf("answer: %q, %v", got, err)
			}
			if tok != nil {
				var said struct{ Sub string }
				if err := tok.Decode(&said); err != nil || said.Sub != tc.want {
					t.Errorf("decoded %q, %v", said.Sub, err)
				}
			}
		})
	}
	for _, tc := range []struct {
		name, header string
		changes      map[string]any
		want         string
	}{
		{"at+jwt", `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`, nil, "client:app"},
		{"no typ", `{"alg":"ES256","kid":"k-ES256"}`, nil, ""},
		{"no typ, but a kind", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"typ": "Bearer"}, "client:app"},
		{"an ID token", `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`, map[string]any{"token_use": "id"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(mintHeader("ES256", tc.header, claims(noSub(tc.changes))))
			tok, err := as.middleware(phantom.WithClientSubject("client:")).Verify(t.Context(), "opaque-token")
			if got := subjectOf(tok); got != tc.want {
				t.Errorf("JWT: %q, %v", got, err)
			}
		})
	}
}

func subjectOf(tok *phantom.Token) string {
	if tok == nil {
		return ""
	}
	return tok.Subject()
}

// A crowd with one cold token has it looked up and minted once, and a token that
// is inactive has nothing minted.
//
// Catalogue: S14, S13.
func TestOneLookupMintsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = wait(time.Second, answerMembers(nil))
		minter := newMinter()
		m := as.minting(minter)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := m.Verify(t.Context(), "opaque-token"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if as.calls.Load() != 1 || minter.minted != 1 {
			t.Errorf("%d introspections, %d minted", as.calls.Load(), minter.minted)
		}
		as.introspect = answerMembers(map[string]any{"active": false})
		if got := as.try(m, "inactive-token"); got != code401T || minter.minted != 1 {
			t.Errorf("%s, %d minted", got, minter.minted)
		}
		as.introspect, minter.before = answerMembers(nil), func(ctx context.Context) { <-ctx.Done() } // S13
		start := time.Now()
		if got := as.try(m, "blocked-token"); got != code503A || time.Since(start) != 2*time.Second {
			t.Errorf("a Minter that blocks: %s after %v", got, time.Since(start))
		}
	})
}

// A lookup that fails for a lasting mistake of ours is not repeated with each
// request.
func TestLastingMistakeIsHeldBack(t *testing.T) {
	as := newAS(t)
	as.introspect = answerMembers(nil)
	minter := newMinter()
	minter.err = fmt.Errorf("no client: %w", phantom.ErrUpstream)
	m := as.minting(minter)
	for range 10 {
		if got := as.try(m, "opaque-token"); got != code502A {
			t.Error(got)
		}
	}
	if as.calls.Load() != 1 {
		t.Errorf("%d introspections", as.calls.Load())
	}
}

// Without a JWT, next and an upstream behind it get no Authorization at all, and
// the Token speaks of the answer.
//
// Catalogue: W1, W4, W5, A7.
func TestWithoutAJWTNextGetsNoAuthorization(t *testing.T) {
	as := newAS(t)
	as.introspect = answerMembers(map[string]any{"big": json.RawMessage("1152921504606846977"), "token": "opaque-token", "in": []any{"opaque-token"}})
	m := as.claimsOnly()
	var upstream http.Header
	back := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { upstream = r.Header }))
	defer back.Close()
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(back.URL)))
	next := &spy{serve: proxy.ServeHTTP}
	r := get("Bearer " + as.secret("opaque-token"))
	r.Header["authorization"] = nil
	r.Header["Connection"] = []string{"Authorization, X-Custom"}
	if got := as.outcome(serve(m.Handler(m.Optional(m.Require()(next))), r), next, 0); got != codeOK {
		t.Fatal(got)
	}
	for name := range upstream {
		if strings.EqualFold(name, "Authorization") {
			t.Errorf("upstream got %v", upstream)
		}
	}
	for name := range next.last().Header {
		if strings.EqualFold(name, "Authorization") {
			t.Errorf("next got %v", next.last().Header)
		}
	}
	tok := next.tokens[0]
	if tok.Subject() != "alice" || tok.ClientID() != "app" || !tok.HasScope("read") || tok.Issuer() != issuer || tok.JWT() != "" {
		t.Errorf("%v", tok)
	}
	out := get("Bearer x")
	if tok.SetAuthHeader(out); len(out.Header["Authorization"]) != 0 { // W4
		t.Errorf("%v", out.Header)
	}
	var decoded, said map[string]any
	if err := errors.Join(tok.Decode(&decoded), tok.Introspection(&said)); err != nil { // W5
		t.Fatal(err)
	}
	for _, all := range []map[string]any{decoded, said} {
		if fmt.Sprint(all["big"]) != "1152921504606846977" || all["token"] != nil || all["in"] != nil || all["sub"] != "alice" {
			t.Errorf("%v", all)
		}
	}
	if as.calls.Load() != 1 || as.fetches.Load() != 0 {
		t.Errorf("%d introspections, %d fetches of keys", as.calls.Load(), as.fetches.Load())
	}
}

// A token without exp, and one with an exp of its own, serve for as long as they
// may and no longer.
//
// Catalogue: S10.
func TestAnswersLifeBoundsTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) { answerMembers(map[string]any{"exp": nil})(w, r) }
		m := as.claimsOnly(phantom.WithMaxTTL(time.Minute), phantom.WithRefreshAhead(0))
		for _, pause := range []time.Duration{0, 50 * time.Second, 20 * time.Second} {
			time.Sleep(pause)
			tok, err := m.Verify(t.Context(), "opaque-token")
			if err != nil || !tok.Expiry().IsZero() {
				t.Fatal(err)
			}
			if tok.String() == "" || tok.LogValue().Group() == nil {
				t.Error("prints badly")
			}
		}
		if as.calls.Load() != 2 {
			t.Errorf("%d introspections", as.calls.Load())
		}
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			answerMembers(map[string]any{"exp": time.Now().Unix() + 10})(w, r)
		}
		for range 2 {
			if got := as.try(m, "short-token"); got != codeOK {
				t.Fatal(got)
			}
		}
		time.Sleep(10 * time.Second)
		as.introspect = answer(204, "", "")
		if got := as.try(m, "short-token"); got != code502A { // a 204 is no answer here
			t.Error(got)
		}
	})
}

// Claims alone meet the same outcomes as JWTs when the server is down or refuses
// us.
//
// Catalogue: W6.
func TestClaimsOnlyKeepsVerdictsAndOutagesApart(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"inactive", answerJSON(`{"active":false,"sub":"alice"}`), code401T},
		{"down", answer(500, "", ""), code503A},
		{"bad secret", answer(401, "application/json", `{"error":"invalid_client"}`), code502A},
		{"a JWT", answerJWT(mint("ES256", claims(nil))), code502A},
		{"204", answer(204, "", ""), code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = tc.answer
			if got := as.try(as.claimsOnly(), "opaque-token"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}
