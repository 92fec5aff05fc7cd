package conformance_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/phantom-token/phantom"
)

// fromCookie is an extractor that takes the token from a cookie.
func fromCookie(r *http.Request) (string, error) {
	cookie, err := r.Cookie("token")
	if err != nil {
		return "", nil
	}
	return cookie.Value, nil
}

// The extractor alone decides whether there is a token. What it returns meets
// the same rules as a token in Authorization. An error that wraps ErrUnavailable
// is an outage, whatever else it says.
//
// Catalogue: Y9.
func TestTokenExtractor(t *testing.T) {
	give := func(token string, err error) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return token, err }
	}
	for _, tc := range []struct {
		name     string
		extract  func(*http.Request) (string, error)
		required string
		optional string // without an Authorization field
	}{
		{"a token", give("good-token", nil), codeOK, codeOK},
		{"a bad token", give("bad-token", nil), code401T, code401T},
		{"no token", give("", nil), code401N, "anonymous"},
		{"ErrNoToken", give("", phantom.ErrNoToken), code401N, "anonymous"},
		{"ErrNoToken, wrapped", give("", fmt.Errorf("no session: %w", phantom.ErrNoToken)), code401N, "anonymous"},
		{"a token beside an error", give("good-token", errors.New("good-token")), code400R, code400R},
		{"any error", give("", errors.New("no such session")), code400R, code400R},
		{"ErrInvalidRequest", give("", phantom.ErrInvalidRequest), code400R, code400R},
		{"ErrInvalidToken", give("", phantom.ErrInvalidToken), code401T, code401T},
		{"ErrUnavailable", give("", phantom.ErrUnavailable), code503A, code503A},
		{"ErrUnavailable, wrapped", give("", fmt.Errorf("session store: %w", phantom.ErrUnavailable)), code503A, code503A},
		{"ErrUnavailable behind ErrNoToken", give("", fmt.Errorf("%w: %w", phantom.ErrNoToken, phantom.ErrUnavailable)), code503A, code503A},
		{"ErrUnavailable and a verdict", give("", errors.Join(phantom.ErrInvalidToken, phantom.ErrUnavailable)), code503A, code503A},
		{"ErrUnavailable in an Error without Reason", give("", &phantom.Error{Err: phantom.ErrUnavailable}), code503A, code503A},
		{"the same, wrapped", give("", fmt.Errorf("store: %w", &phantom.Error{Detail: "store", Err: phantom.ErrUnavailable})), code503A, code503A},
		{"ErrUnavailable in an Error of an unknown Reason", give("", &phantom.Error{Reason: "store_down", Err: phantom.ErrUnavailable}), code503A, code503A},
		{"ErrUnavailable in an Error with a Status", give("", &phantom.Error{Status: 401, Err: phantom.ErrUnavailable}), code503A, code503A},
		{"ErrUnavailable beside an Error that is a verdict", give("", errors.Join(&phantom.Error{Reason: phantom.ReasonInactive}, phantom.ErrUnavailable)), code503A, code503A},
		{"an Error of a Middleware that found the server unavailable", give("", &phantom.Error{Reason: phantom.ReasonUnavailable}), code503A, code503A},
		{"ErrUnavailable beside a token", give("good-token", phantom.ErrUnavailable), code503A, code503A},
		{"an Error", give("", &phantom.Error{Reason: phantom.ReasonInactive}), code401T, code401T},
		{"a typed nil Error", give("good-token", (*phantom.Error)(nil)), code500I, code500I},
		{"a space", give("good-token ", nil), code400R, code400R},
		{"only a space", give(" ", nil), code400R, code400R},
		{"a scheme", give("Bearer good-token", nil), code400R, code400R},
		{"a line feed", give("good-token\n", nil), code400R, code400R},
		{"NUL", give("good\x00token", nil), code400R, code400R},
		{"UTF-8", give("tök", nil), code400R, code400R},
		{"too long", give(longestToken+"t", nil), code400R, code400R},
		{"the longest", give(longestToken, nil), codeOK, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("good-token")
			jwt := mint("ES256", claims(nil))
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				if r.Form.Get("token") == "bad-token" {
					answer(204, "", "")(w, r)
					return
				}
				answerJWT(jwt)(w, r)
			}
			m := as.middleware(phantom.WithTokenExtractor(tc.extract))
			if got := as.send(m.Handler, get()); got != tc.required {
				t.Errorf("Handler: %s, want %s", got, tc.required)
			}
			if got := codeOf(m.Authenticate(get())); got != tc.required {
				t.Errorf("Authenticate: %s, want %s", got, tc.required)
			}
			// A request with the field is not anonymous.
			if got := as.send(m.Optional, get("Basic Zm9v")); got != tc.required {
				t.Errorf("Optional with Authorization: %s, want %s", got, tc.required)
			}
			next := &spy{}
			got := as.outcome(serve(m.Optional(next), get()), next, 0)
			if got == codeOK && next.tokens[0] == nil {
				got = "anonymous"
			}
			if got != tc.optional {
				t.Errorf("Optional: %s, want %s", got, tc.optional)
			}
		})
	}
}

// An extractor's token may have any visible ASCII character but three, and the
// server is asked about exactly that token. Verify follows the same grammar;
// without an extractor it wants a b64token.
//
// Catalogue: Q8.
func TestTokenExtractorMayFindAnyVisibleASCII(t *testing.T) {
	const special = `,"\`
	for c := range 256 {
		token := "tok" + string([]byte{byte(c)}) + "en"
		want, plain := code400R, code400R
		if c > ' ' && c <= '~' && !strings.ContainsRune(special, rune(c)) {
			want = codeOK
		}
		if strings.ContainsRune("-._~+/", rune(c)) || c < 128 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c))) {
			plain = codeOK
		}
		as := newAS(t)
		m := as.middleware(phantom.WithTokenExtractor(func(*http.Request) (string, error) { return token, nil }))
		if got := as.send(m.Handler, get()); got != want {
			t.Errorf("byte %#x: %s, want %s", c, got, want)
		}
		if got := codeOf(m.Verify(t.Context(), token)); got != want {
			t.Errorf("byte %#x: Verify: %s, want %s", c, got, want)
		}
		if asked := as.asked(); want == codeOK && !slices.Equal(asked, []string{token}) || want != codeOK && asked != nil {
			t.Errorf("byte %#x: asked about %q", c, asked)
		}
		if got := codeOf(as.middleware().Verify(t.Context(), token)); got != plain {
			t.Errorf("byte %#x: Verify without an extractor: %s, want %s", c, got, plain)
		}
	}
}

// Such tokens are like any other: first, last or alone, they are cached and
// forgotten under their own name.
//
// Catalogue: Q8.
func TestTokenExtractorTokensAreCached(t *testing.T) {
	as := newAS(t)
	m := as.middleware(phantom.WithTokenExtractor(fromCookie))
	for _, token := range []string{"12|abc!def", "|", "=a=b", "!", "%7C", "a:b;c", "(a)", "{", "12|abc", "[]^`<>"} {
		before := as.calls.Load()
		for range 2 {
			if got := codeOf(m.Verify(t.Context(), token)); got != codeOK {
				t.Errorf("%q: %s", token, got)
			}
		}
		if n := as.calls.Load() - before; n != 1 {
			t.Errorf("%q: the server was asked %d times", token, n)
		}
		m.Forget(token)
		if got := codeOf(m.Verify(t.Context(), token)); got != codeOK || as.calls.Load()-before != 2 {
			t.Errorf("%q: %s after it was forgotten", token, got)
		}
	}
}

// A token that is too long is rejected in words of its own, wherever it is.
//
// Catalogue: Q7.
func TestTokenTooLong(t *testing.T) {
	as := newAS(t)
	long := longestToken + "t"
	for _, tc := range []struct {
		name          string
		options       []phantom.Option
		authorization string
	}{
		{"Authorization", nil, "Bearer " + long},
		{"malformed as well", nil, "Bearer " + longestToken + "|"},
		{"extractor", []phantom.Option{
			phantom.WithTokenExtractor(func(*http.Request) (string, error) { return long, nil }),
		}, ""},
	} {
		m := as.middleware(tc.options...)
		rec := serve(m.Handler(&spy{}), get(tc.authorization))
		const body = `{"type":"about:blank","title":"Bad Request","status":400,"detail":"The bearer token is too long."}`
		if rec.Code != 400 || rec.Header().Get("Www-Authenticate") != challengeTooLong || rec.Body.String() != body {
			t.Errorf("%s: %d %v %s", tc.name, rec.Code, rec.Header(), rec.Body)
		}
		_, err := m.Verify(t.Context(), long)
		var rejected *phantom.Error
		if !errors.As(err, &rejected) || rejected.Detail != "token too long" || !errors.Is(err, phantom.ErrInvalidRequest) {
			t.Errorf("%s: Verify: %v", tc.name, err)
		}
	}
	if n := as.calls.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}

// A token in a cookie counts and the one in Authorization does not.
func TestTokenExtractorOfACookie(t *testing.T) {
	as := newAS(t)
	calls := 0
	m := as.middleware(phantom.WithTokenExtractor(func(r *http.Request) (string, error) {
		calls++
		return fromCookie(r)
	}))
	r := get("Bearer other-token") // the extractor alone decides
	r.AddCookie(&http.Cookie{Name: "token", Value: "good-token"})
	next := &spy{}
	if got := as.outcome(serve(m.Handler(m.RequireScopes("read")(next)), r), next, 0); got != codeOK {
		t.Fatalf("%s", got)
	}
	if got := as.asked(); !slices.Equal(got, []string{"good-token"}) || calls != 2 {
		t.Errorf("asked about %q after %d calls", got, calls)
	}
}

// A request made with the context of another one may bring a token of its own
// where the extractor looks. Then the other one's token does not let it in.
func TestTokenExtractorAndAnInheritedContext(t *testing.T) {
	as := newAS(t)
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if token := r.Form.Get("token"); token != "revoked" {
			answerJWT(mint("ES256", claims(map[string]any{"sub": token})))(w, r)
			return
		}
		answer(204, "", "")(w, r)
	}
	m := as.middleware(phantom.WithTokenExtractor(func(r *http.Request) (string, error) {
		switch token := r.Header.Get("X-Token"); token {
		case "broken":
			return "", errors.New("broken")
		case "none":
			return "", phantom.ErrNoToken
		default:
			return token, nil
		}
	}))
	inners := []struct {
		how  string
		made func(*http.Request) *http.Request
	}{
		{"a new request", func(r *http.Request) *http.Request { return get().WithContext(r.Context()) }},
		{"a clone", func(r *http.Request) *http.Request { return r.Clone(r.Context()) }},
	}
	for _, tc := range []struct{ token, want string }{
		{"alice", "alice"}, {"", "alice"}, {"none", "alice"}, {"bob", "bob"},
		{"revoked", code401T}, {"broken", code400R}, {"not a b64token", code400R},
	} {
		for _, inner := range inners {
			got := ""
			outer := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				r = inner.made(r)
				r.Header.Set("X-Token", tc.token)
				next := &spy{}
				if got = as.outcome(serve(m.Handler(next), r), next, 0); got == codeOK {
					got = next.tokens[0].Subject()
				}
				tok, err := m.Authenticate(r)
				if err == nil && tok.Subject() != tc.want || err != nil && codeOf(tok, err) != tc.want {
					t.Errorf("%s with %q: Authenticate: %v", inner.how, tc.token, err)
				}
			}))
			r := get()
			r.Header.Set("X-Token", "alice")
			if serve(outer, r); got != tc.want {
				t.Errorf("%s with %q: %s, want %s", inner.how, tc.token, got, tc.want)
			}
		}
	}
}
