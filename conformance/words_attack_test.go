package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// What a hook says in an Error of its own is logged without the token too, and
// so is a token as a URL spells it.
//
// Catalogue: O12.
func TestErrorsOfHooksCarryNoTokenIntoTheLog(t *testing.T) {
	const token, words = "opaque+token/of~alice=", "the tenant is locked"
	for name, spelt := range map[string]string{
		"plain": token, "query": url.QueryEscape(token), "path": url.PathEscape(token),
		"quoted": fmt.Sprintf("%q", token),
	} {
		said := words + ": " + spelt
		for kind, fail := range map[string]error{
			"text":   errors.New(said),
			"Err":    &phantom.Error{Reason: phantom.ReasonUnavailable, Err: &url.Error{Op: "Get", URL: said, Err: context.Canceled}},
			"Detail": &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: said},
			"member": fmt.Errorf("of mine: %w", &phantom.Error{Reason: phantom.ReasonProtocol, Err: errors.New(said)}),
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				as, other := newAS(t), newAS(t)
				as.secret(spelt)
				other.secret(spelt)
				checkWords(t, as, introspected(as, &introspector{
					ask: func(context.Context, string) (*phantom.Introspection, error) { return nil, fail },
				}), token, words)
				checkWords(t, other, must(phantom.New(other.options(phantom.WithTokenExtractor(
					func(*http.Request) (string, error) { return token, fail }))...)), token, words)
			})
		}
	}
}

// A server that writes the opaque token where an address belongs does not get
// it into the log.
//
// Catalogue: O12.
func TestServerCannotEchoTheTokenIntoTheLog(t *testing.T) {
	const token = "opaque-token-of-alice"
	for name, jwt := range map[string]string{
		"iss":         mint("ES256", claims(map[string]any{"iss": token})),
		"path of iss": mint("ES256", claims(map[string]any{"iss": "https://" + token + ".test/" + token})),
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(jwt)
			m := as.middleware()
			_, err := m.Verify(t.Context(), as.secret(token))
			if err == nil || strings.Contains(err.Error(), token) {
				t.Errorf("error %v", err)
			}
			expect(t, "outcome", as.try(m, token), code401T)
			if log := as.logs.String(); !strings.Contains(log, "got=") {
				t.Errorf("log %s", log)
			}
		})
	}
}

// Nor does a Binding's Check, which has the token, or who calls Reject.
//
// Catalogue: O12.
func TestChecksAndRejectCarryNoTokenIntoTheLog(t *testing.T) {
	const token, words = "opaque+token/of~alice=", "the tenant is locked"
	fail := &phantom.Error{Reason: phantom.ReasonBinding, Detail: words + token, Err: errors.New(token)}
	t.Run("Check", func(t *testing.T) {
		as := newAS(t)
		thumbprint := b64(make([]byte, 32))
		as.introspect = answerJWT(mint("ES256", boundBy(map[string]any{"x5t#S256": thumbprint})))
		checkWords(t, as, as.middleware(phantom.WithBinding(phantom.Binding{
			Method: "x5t#S256", Check: func(*http.Request, string, string) error { return fail },
		})), token, words)
	})
	for name, err := range map[string]error{"an Error": fail, "a text": errors.New(words + token)} {
		t.Run("Reject, "+name, func(t *testing.T) {
			as := newAS(t)
			rec := httptest.NewRecorder()
			as.middleware().Reject(rec, get("Bearer "+as.secret(token)), err)
			if log := as.logs.String(); rec.Code < 400 || !strings.Contains(log, words) {
				t.Errorf("%d, log %s", rec.Code, log)
			}
		})
	}
}

// A field of nothing but words costs Reject no search for each of them.
//
// Catalogue: O16.
func TestRejectSearchesForFewWords(t *testing.T) {
	as := newAS(t)
	m := as.middleware(phantom.WithLogger(slog.New(slog.DiscardHandler)))
	allocs := func(words int) float64 {
		r := get("Bearer " + strings.Repeat("%%%%%%%% ", words)) // each is spelt in two ways more
		return testing.AllocsPerRun(10, func() { m.Reject(httptest.NewRecorder(), r, errors.New("the session is gone")) })
	}
	if few, many := allocs(100), allocs(10_000); many > few+10 {
		t.Errorf("%v allocations for 100 words, %v for 10,000", few, many)
	}
}

// What a caller of Reject says is logged without the credentials of the request,
// wherever they are.
//
// Catalogue: O16.
func TestRejectLogsNoCredentials(t *testing.T) {
	const token, other, words = "opaque-token-of-alice", "opaque-token-of-bob", "the session is gone"
	cookie := phantom.WithTokenExtractor(func(r *http.Request) (string, error) {
		c, err := r.Cookie("session")
		switch {
		case err != nil:
			return "", nil
		case c.Value == "panic":
			panic(words)
		}
		return c.Value, nil
	})
	for _, tc := range []struct {
		name          string
		opts          []phantom.Option
		cookie        string
		authorization []string
	}{
		{name: "Bearer", authorization: []string{"Bearer " + token}},
		{name: "another scheme", authorization: []string{"Custom " + token}},
		{name: "malformed", authorization: []string{"Bearer " + token + " " + other}},
		{name: "repeated", authorization: []string{"Bearer " + token, "Bearer " + other}},
		{name: "extracted", opts: []phantom.Option{cookie}, cookie: token},
		{name: "both", opts: []phantom.Option{cookie}, cookie: token, authorization: []string{"Bearer " + other}},
		{name: "the extractor panics", opts: []phantom.Option{cookie}, cookie: "panic", authorization: []string{"Bearer " + token}},
	} {
		for kind, m := range map[string]func(as *fakeAS) *phantom.Middleware{
			"": func(as *fakeAS) *phantom.Middleware { return as.middleware(tc.opts...) },
			", by a dispatcher": func(as *fakeAS) *phantom.Middleware {
				member := as.middleware()
				opts := append(slices.Clone(tc.opts), phantom.WithLogger(slog.New(slog.NewTextHandler(&as.logs, nil))))
				return must(phantom.Dispatch([]*phantom.Middleware{member}, func(string) *phantom.Middleware { return member }, opts...))
			},
		} {
			t.Run(tc.name+kind, func(t *testing.T) {
				as := newAS(t)
				as.secret(token)
				as.secret(other)
				r := get(tc.authorization...)
				said := words
				for _, value := range tc.authorization {
					said += ": " + value
				}
				if tc.cookie != "" {
					r.AddCookie(&http.Cookie{Name: "session", Value: tc.cookie})
					said += ": " + tc.cookie
				}
				rec := httptest.NewRecorder()
				m(as).Reject(rec, r, errors.New(said))
				if rec.Code != 500 || !strings.Contains(as.logs.String(), words) {
					t.Errorf("%d: %s", rec.Code, as.logs.String())
				}
			})
		}
	}
}
