package interop

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// asked is a transport that counts the requests to one authorization server.
type asked struct{ atomic.Int32 }

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

// A party is an issuer as a member of Dispatch.
type party struct {
	issuer  string
	member  *phantom.Middleware
	asked   *asked
	good    string // a token of alice
	another string // one more, for later
	stop    func()
}

func newParty(t *testing.T, s *source, good, another string, options ...phantom.Option) *party {
	t.Helper()
	p := &party{issuer: s.issuer, asked: new(asked), good: good, another: another, stop: s.stop}
	options = append([]phantom.Option{
		phantom.WithIssuer(s.issuer),
		phantom.WithAudience(api),
		phantom.WithTimeout(time.Minute),
		phantom.WithHTTPClient(&http.Client{Transport: p.asked}),
	}, options...)
	m, err := phantom.New(options...)
	if err != nil {
		t.Fatal(err)
	}
	p.member = m
	return p
}

// pairings are the two servers, each in both roles.
var pairings = map[string]func(t *testing.T) (opaque, jwt *party, isOpaque func(token string) bool){
	"zitadel opaque, oidc-provider JWT": func(t *testing.T) (opaque, jwt *party, isOpaque func(string) bool) {
		z, o := newServer(t, plain).source(), newOIDCProvider(t, false)
		good, _ := z.issue(t)
		another, _ := z.issue(t)
		opaque = newParty(t, z, good, another, append(z.options, phantom.WithoutJWT())...)
		good, _ = o.tokens(t, "jwt")
		another, _ = o.tokens(t, "jwt")
		jwt = newParty(t, &o.source, good, another, phantom.WithoutIntrospection(), phantom.WithRFC9068())
		// Its opaque tokens are JWEs, which begin like JWTs: five parts and a
		// header that is always the same.
		const header = "eyJhbGciOiJBMjU2R0NNS1ci"
		return opaque, jwt, func(token string) bool { return strings.HasPrefix(token, header) }
	},
	"oidc-provider opaque, zitadel JWT": func(t *testing.T) (opaque, jwt *party, isOpaque func(string) bool) {
		z, o := newServer(t, plain), newOIDCProvider(t, false)
		good, _ := o.issue(t)
		another, _ := o.issue(t)
		opaque = newParty(t, &o.source, good, another, append(o.options, phantom.WithoutJWT())...)
		jwt = newParty(t, z.source(), z.issueJWT(t), z.issueJWT(t), phantom.WithoutIntrospection())
		return opaque, jwt, func(token string) bool { return len(token) == 43 && !strings.Contains(token, ".") }
	},
}

// TestTwoIssuersOnOneRoute has each token verified by the member for its
// issuer, and no token shown to the other's server.
//
// Catalogue: D1, D2, D3, D5, D9.
func TestTwoIssuersOnOneRoute(t *testing.T) {
	for name, pair := range pairings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opaque, jwt, isOpaque := pair(t)
			byIssuer := map[string]*phantom.Middleware{jwt.issuer: jwt.member}
			m, err := phantom.Dispatch([]*phantom.Middleware{opaque.member, jwt.member}, func(token string) *phantom.Middleware {
				if issuer, ok := phantom.UnverifiedIssuer(token); ok {
					return byIssuer[issuer]
				}
				if isOpaque(token) {
					return opaque.member
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			gw := front(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				credentials := "no credentials"
				if r.Header.Get("Authorization") == "Bearer "+jwt.good || r.Header.Get("Authorization") == "Bearer "+jwt.another {
					credentials = "its JWT"
				}
				fmt.Fprintf(w, "%s of %s by %s with %s", r.Header.Get("Subject"), r.Header.Get("Client"), r.Header.Get("Issuer"), credentials)
			}))
			stranger := newServer(t, plain)

			for _, tc := range []struct {
				what, token string
				before      func()
				want        string
				may         *party // whose server may be asked
			}{
				{what: "opaque", token: opaque.good, want: "alice of app by " + opaque.issuer + " with no credentials", may: opaque},
				{what: "JWT", token: jwt.good, want: "alice of app by " + jwt.issuer + " with its JWT", may: jwt},
				{what: "opaque once more", token: opaque.good, want: "alice of app by " + opaque.issuer + " with no credentials"},
				{what: "JWT once more", token: jwt.good, want: "alice of app by " + jwt.issuer + " with its JWT"},
				{what: "a JWT of an issuer that is no member", token: stranger.issueJWT(t), want: "401"},
				{what: "the issuer's name with a slash", token: renamed(t, jwt.good, jwt.issuer+"/"), want: "401"},
				{what: "the name of the opaque tokens' issuer", token: renamed(t, jwt.good, opaque.issuer), want: "401"},
				{what: "the issuer's name, a stranger's signature", token: renamed(t, stranger.issueJWT(t), jwt.issuer), want: "401", may: jwt},
				{what: "what no issuer makes", token: "unknown", want: "401"},
				{what: "opaque, its server down", token: opaque.another, want: "503", may: opaque, before: opaque.stop},
				{what: "JWT, the other server down", token: jwt.another, want: "alice of app by " + jwt.issuer + " with its JWT"},
			} {
				if tc.before != nil {
					tc.before()
				}
				before := [...]int32{opaque.asked.Load(), jwt.asked.Load()}
				if got := call(t, gw, "GET", tc.token); got != tc.want {
					t.Errorf("%s: %s, want %s", tc.what, got, tc.want)
				}
				for i, p := range []*party{opaque, jwt} {
					if n := p.asked.Load() - before[i]; n != 0 && p != tc.may {
						t.Errorf("%s: %d requests to %s", tc.what, n, p.issuer)
					}
				}
			}
		})
	}
}

// renamed is the JWT with another iss, and so with a signature that is wrong.
func renamed(t *testing.T, jwt, issuer string) string {
	t.Helper()
	parts := strings.Split(jwt, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	claims["iss"] = issuer
	if payload, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(payload)
	return strings.Join(parts, ".")
}
