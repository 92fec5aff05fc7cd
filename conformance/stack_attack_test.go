package conformance_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// A layer is a Middleware of a stack: who verifies its tokens, and whether they
// come in a cookie.
type layer struct {
	name, accepts string // the first letters of the opaque tokens
	m             *phantom.Middleware
	cookie        bool
}

// A presented is what a request brings to a layer.
type presented struct {
	fields []string
	cookie string
	token  *phantom.Token // of the context
}

// layersOf returns all kinds of Middlewares.
func layersOf(t *testing.T) []layer {
	t.Helper()
	cookies := phantom.WithTokenExtractor(cookieNamed("session"))
	made := map[string]*phantom.Middleware{}
	for letter, extra := range map[string][]phantom.Option{
		"a": nil, "b": nil, "w": {phantom.WithoutJWT()}, "c": {cookies}, "v": {phantom.WithoutJWT(), cookies},
	} {
		iss := "https://" + letter + ".test"
		o := &oracle{}
		o.ask = func(_ context.Context, token string) (*phantom.Introspection, error) {
			if !strings.HasPrefix(token, letter+"-") {
				return inactive, nil
			}
			sub := strings.Replace(token, "-", "/", 1) // it must not hold the token
			answer := unsigned(map[string]any{"iss": iss, "sub": sub})
			if letter == "w" || letter == "v" {
				answer.JWT, answer.Claims = "", []byte(fmt.Sprintf(`{"active":true,"aud":%q,"sub":%q}`, audience, sub))
			}
			return answer, nil
		}
		opts := append([]phantom.Option{
			phantom.WithIssuer(iss), phantom.WithAudience(audience), phantom.WithIntrospector(o),
		}, extra...)
		if letter != "w" && letter != "v" {
			opts = append(opts, phantom.WithKeySet(o))
		}
		made[letter] = must(phantom.New(opts...))
	}
	choose := func(token string) *phantom.Middleware { return made[token[:1]] }
	members := []*phantom.Middleware{made["a"], made["b"], made["w"]}
	return []layer{
		{"a", "a", made["a"], false},
		{"b", "b", made["b"], false},
		{"w", "w", made["w"], false},
		{"c", "c", made["c"], true},
		{"v", "v", made["v"], true},
		{"dispatcher", "abw", must(phantom.Dispatch(members, choose)), false},
		{"dispatcher of cookies", "abw", must(phantom.Dispatch(members, choose, cookies)), true},
	}
}

// cookieNamed extracts a cookie's value.
func cookieNamed(name string) func(*http.Request) (string, error) {
	return func(r *http.Request) (string, error) {
		c, err := r.Cookie(name)
		if err != nil {
			return "", nil //nolint:nilerr // that is how an extractor says that there is none
		}
		return c.Value, nil
	}
}

// opaqueOf returns the opaque token that a subject stands for.
func opaqueOf(tok *phantom.Token) string { return strings.Replace(tok.Subject(), "/", "-", 1) }

// field returns what Authorization must be for the token.
func field(tok *phantom.Token) []string {
	if tok == nil || tok.JWT() == "" {
		return nil
	}
	return []string{"Bearer " + tok.JWT()}
}

// vouches reports whether the layer takes the context's token for what the
// request brings.
func (l layer) vouches(p presented) bool {
	tok := p.token
	if tok == nil || !strings.Contains(l.accepts, tok.Subject()[:1]) {
		return false
	}
	return (len(p.fields) == 0 || slices.Equal(p.fields, field(tok))) &&
		(!l.cookie || p.cookie == "" || p.cookie == opaqueOf(tok) || p.cookie == tok.JWT())
}

// own returns the opaque token that the layer must verify, if it is good.
func (l layer) own(p presented) string {
	token := p.cookie
	if !l.cookie {
		if len(p.fields) != 1 {
			return ""
		}
		token, _ = strings.CutPrefix(p.fields[0], "Bearer ")
	}
	if token == "" || !strings.Contains(l.accepts, token[:1]) || !strings.Contains(token, "-") || strings.Contains(token, ".") {
		return ""
	}
	return token
}

// In any stack of Middlewares, whatever stands between them does with the
// fields, the cookie and the context, next gets the token that its request
// brought to the last one, or that of the context if it brought none; and in
// Authorization that token's JWT or nothing.
//
// Catalogue: P74.
func TestStacksMixUpNoTokens(t *testing.T) {
	layers := layersOf(t)
	for seed := range 3000 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		letters := []string{"a", "b", "w", "c", "v", "x"}
		opaque := func() string { return fmt.Sprintf("%s-%d", letters[rnd.IntN(len(letters))], rnd.IntN(3)) }
		var others []context.Context // of requests that were handed on
		var jwts []string
		var story []string
		change := func(r *http.Request) *http.Request {
			h := r.Header
			for range rnd.IntN(3) {
				what := rnd.IntN(11)
				story = append(story, fmt.Sprint("change ", what))
				switch what {
				case 0:
					h.Del("Authorization")
				case 1:
					h.Set("Authorization", "Bearer "+opaque())
				case 2:
					h["authorization"] = []string{"Bearer " + opaque()}
				case 3:
					h.Del("Cookie")
				case 4:
					h.Set("Cookie", "session="+opaque())
				case 5:
					if len(jwts) > 0 {
						h.Set("Authorization", "Bearer "+jwts[rnd.IntN(len(jwts))])
					}
				case 6:
					if len(jwts) > 0 {
						h.Set("Cookie", "session="+jwts[rnd.IntN(len(jwts))])
					}
				case 7, 8:
					if len(others) > 0 {
						r = r.WithContext(others[rnd.IntN(len(others))])
					}
				case 9:
					r = r.WithContext(phantom.NewContext(r.Context(), nil))
				case 10:
					if len(others) > 0 {
						tok, _ := phantom.FromContext(others[rnd.IntN(len(others))])
						r = r.WithContext(phantom.NewContext(r.Context(), tok))
					}
				}
			}
			return r
		}
		for range 4 {
			story = nil
			var h http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { others = append(others, r.Context()) })
			for range 1 + rnd.IntN(3) {
				l, optional, inner := layers[rnd.IntN(len(layers))], rnd.IntN(2) == 0, h
				var came presented
				reached := false
				check := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					reached = true
					tok, ok := phantom.FromContext(r.Context())
					var got []string
					for name, values := range r.Header {
						if strings.EqualFold(name, "Authorization") {
							got = append(got, values...)
						}
					}
					switch {
					case !slices.Equal(got, field(tok)):
						t.Errorf("seed %d, %v: Authorization %.20q", seed, story, got)
					case !ok && (!optional || len(came.fields) > 0 || l.cookie && came.cookie != ""):
						t.Errorf("seed %d, %v: an anonymous request with %+v", seed, story, came)
					case ok && opaqueOf(tok) != l.own(came) && (!l.vouches(came) || tok != came.token):
						t.Errorf("seed %d, %v: %q for %+v", seed, story, tok.Subject(), came)
					}
					if ok && tok.JWT() != "" {
						jwts = append(jwts, tok.JWT())
					}
					others = append(others, r.Context())
					inner.ServeHTTP(w, change(r))
				})
				wrap := l.m.Handler
				if optional {
					wrap = l.m.Optional
				}
				protected := wrap(check)
				h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					story = append(story, fmt.Sprint(l.name, " ", optional))
					came = presented{}
					for name, values := range r.Header {
						if strings.EqualFold(name, "Authorization") {
							came.fields = append(came.fields, values...)
						}
					}
					came.cookie, _ = cookieNamed("session")(r)
					came.token, _ = phantom.FromContext(r.Context())
					protected.ServeHTTP(w, r)
					good := l.own(came) != "" || l.vouches(came) && !optional
					if good && !reached {
						t.Errorf("seed %d, %v: %+v is refused", seed, story, came)
					}
				})
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			if rnd.IntN(3) > 0 {
				r.Header.Set("Authorization", "Bearer "+opaque())
			}
			if rnd.IntN(3) == 0 {
				r.Header.Set("Cookie", "session="+opaque())
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			if t.Failed() {
				return
			}
		}
	}
}
