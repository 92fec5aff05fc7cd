package conformance_test

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// twoServers returns a dispatcher over two authorization servers: tokens that
// begin with "a" belong to the first.
func twoServers(t *testing.T, optsA, optsB []phantom.Option) (d, ma, mb *phantom.Middleware, a, b *fakeAS) {
	t.Helper()
	a, b = newAS(t), newAS(t)
	ma, mb = a.middleware(optsA...), b.middleware(optsB...)
	d = must(phantom.Dispatch([]*phantom.Middleware{ma, mb}, func(token string) *phantom.Middleware {
		if strings.HasPrefix(token, "a") {
			return ma
		}
		return mb
	}))
	return d, ma, mb, a, b
}

// A dead server is its member's trouble alone, and nobody else is asked about
// its tokens.
//
// Catalogue: D9, D16.
func TestDeadMemberDoesNotTouchTheOther(t *testing.T) {
	d, _, _, a, b := twoServers(t, nil, nil)
	a.introspect = answer(503, "", "")
	for range 20 {
		if got := a.try(d, "a-token"); got != code503A {
			t.Error(got)
		}
		if got := b.try(d, "b-token"); got != codeOK {
			t.Error(got)
		}
	}
	for _, r := range b.recorded(endpointPath) {
		if r.Form.Get("token") != "b-token" {
			t.Errorf("the other server saw %q", r.Form.Get("token"))
		}
	}
	d.Forget("b-token") // D16
	if got := b.try(d, "b-token"); got != codeOK || b.calls.Load() != 2 {
		t.Errorf("%s, %d introspections", got, b.calls.Load())
	}
	d.Purge()
	if got := b.try(d, "b-token"); got != codeOK || b.calls.Load() != 3 {
		t.Errorf("%s, %d introspections", got, b.calls.Load())
	}
	a.jwks = answer(500, "", "")
	var e *phantom.Error
	if err := d.Warm(t.Context()); !errors.As(err, &e) || e.StatusCode() != 503 {
		t.Errorf("Warm: %v", err)
	}
	if b.fetches.Load() == 0 {
		t.Error("Warm left the other member cold")
	}
}

// The requirements of the member, of the dispatcher and of the route all apply,
// in this order.
//
// Catalogue: D10.
func TestMembersRequirementsApply(t *testing.T) {
	d, ma, mb, a, b := twoServers(t, []phantom.Option{phantom.WithRequirements(phantom.AllScopes("a"))}, nil)
	next := &spy{}
	rec := serve(d.RequireScopes("b")(next), get("Bearer a-token"))
	const want = `Bearer realm="api", error="insufficient_scope", scope="a b"`
	if rec.Code != 403 || rec.Header().Get("Www-Authenticate") != want || next.calls() > 0 {
		t.Errorf("%d %q", rec.Code, rec.Header()["Www-Authenticate"])
	}
	// A token is good inside the dispatcher's handlers and its own member's.
	for _, tc := range []struct {
		name string
		wrap func(http.Handler) http.Handler
	}{
		{"member inside", func(next http.Handler) http.Handler { return d.Handler(mb.Handler(next)) }},
		{"dispatcher inside", func(next http.Handler) http.Handler { return mb.Handler(d.Handler(next)) }},
		{"dispatcher twice", func(next http.Handler) http.Handler { return d.Handler(d.Require()(next)) }},
	} {
		calls := b.calls.Load()
		b.secret("b-" + tc.name)
		if got := b.send(tc.wrap, get("Bearer b-"+strings.ReplaceAll(tc.name, " ", "-"))); got != codeOK || b.calls.Load() != calls+1 {
			t.Errorf("%s: %s, %d introspections", tc.name, got, b.calls.Load()-calls)
		}
	}
	_, _ = ma, a
}

// Members whose JWTs carry one issuer must speak of one server's users.
//
// Catalogue: D12.
func TestMembersOfOneMintSpeakOfOneServer(t *testing.T) {
	as := newAS(t)
	minting := func(from string) *phantom.Middleware {
		return must(phantom.New(append(as.withoutKeys(phantom.WithMinter(newMinter())), phantom.WithIssuer(from))...))
	}
	choose := func(string) *phantom.Middleware { return nil }
	if _, err := phantom.Dispatch([]*phantom.Middleware{minting(issuer), minting("https://other.test")}, choose); err == nil {
		t.Error("two servers behind one mint")
	}
	if _, err := phantom.Dispatch([]*phantom.Middleware{minting(issuer), minting(issuer)}, choose); err != nil {
		t.Error(err)
	}
	accepts := must(phantom.New(phantom.WithIssuer(mintIssuer), phantom.WithoutAudienceCheck(), phantom.WithoutIntrospection(),
		phantom.WithKeySet(phantom.StaticKeys(edKey().Public()))))
	if _, err := phantom.Dispatch([]*phantom.Middleware{minting(issuer), accepts}, choose); err != nil {
		t.Error(err)
	}
}

// A JWT is judged with the keys of the member of its issuer, and of no other.
//
// Catalogue: D3.
func TestKeysBelongToOneMember(t *testing.T) {
	as := newAS(t)
	a := as.direct()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := must(phantom.New(phantom.WithIssuer("https://b.test"), phantom.WithAudience(audience), phantom.WithoutIntrospection(),
		phantom.WithKeySet(phantom.StaticKeys(private.Public()))))
	byIssuer := map[string]*phantom.Middleware{issuer: a, "https://b.test": b}
	d := must(phantom.Dispatch([]*phantom.Middleware{a, b}, func(token string) *phantom.Middleware {
		iss, _ := phantom.UnverifiedIssuer(token)
		return byIssuer[iss]
	}))
	header := `{"alg":"EdDSA","kid":"k-EdDSA","typ":"at+jwt"}`
	sign := func(iss string, key ed25519.PrivateKey) string {
		return compact("EdDSA", key, header, `{"iss":"`+iss+`","aud":"`+audience+`","sub":"alice","exp":4000000000}`)
	}
	for _, tc := range []struct{ name, token, want string }{
		{"a by a", sign(issuer, edKey()), codeOK},
		{"b by b", sign("https://b.test", private), codeOK},
		{"a by b", sign(issuer, private), code401T}, // D3
		{"b by a", sign("https://b.test", edKey()), code401T},
	} {
		if got := as.try(d, tc.token); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Missing keys are an outage, not a verdict, and a flood of unknown key IDs has
// the keys fetched no oftener than ever.
//
// Catalogue: D14.
func TestKeysOfDirectJWTsAreFetchedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.jwks = answer(500, "", "")
		m := as.direct()
		if got := as.try(m, mint("ES256", claims(nil))); got != code503A {
			t.Errorf("no keys: %s", got)
		}
		as.jwks = nil
		time.Sleep(30 * time.Second)
		if got := as.try(m, mint("ES256", claims(nil))); got != codeOK {
			t.Errorf("keys again: %s", got)
		}
		before := as.fetches.Load()
		for range 100 {
			as.try(m, mintHeader("ES256", `{"alg":"ES256","kid":"unknown","typ":"at+jwt"}`, claims(map[string]any{"jti": time.Now().String()})))
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.fetches.Load() - before; n > 5 { // after 1, 2, 4, 8 and 10 s
			t.Errorf("%d fetches in 10 s", n)
		}
	})
}

// UnverifiedIssuer reads strict JWTs and nothing else.
//
// Catalogue: D5.
func TestUnverifiedIssuerReadsStrictJWTsAlone(t *testing.T) {
	part := func(s string) string { return b64([]byte(s)) }
	sig := part("signature")
	for _, tc := range []struct{ name, token, want string }{
		{"JWT", mint("ES256", claims(nil)), issuer},
		{"unsigned garbage behind it", part(`{"alg":"ES256"}`) + "." + part(`{"iss":"x"}`) + "." + sig, "x"},
		{"five parts", "eyJhbGciOiJBMjU2R0NNS1ci.a.b.c.d", ""}, // D5
		{"opaque", "opaque-token", ""},
		{"two dots", "a.b.c", ""},
		{"no iss", part(`{"alg":"ES256"}`) + "." + part(`{}`) + "." + sig, ""},
		{"iss a number", part(`{"alg":"ES256"}`) + "." + part(`{"iss":1}`) + "." + sig, ""},
		{"iss twice", part(`{"alg":"ES256"}`) + "." + part(`{"iss":"x","iss":"y"}`) + "." + sig, ""},
		{"alg none", part(`{"alg":"none"}`) + "." + part(`{"iss":"x"}`) + "." + sig, ""},
		{"alg HS256", part(`{"alg":"HS256"}`) + "." + part(`{"iss":"x"}`) + "." + sig, ""},
		{"padding", part(`{"alg":"ES256"}`) + "=." + part(`{"iss":"x"}`) + "." + sig, ""},
	} {
		iss, ok := phantom.UnverifiedIssuer(tc.token)
		if iss != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %v", tc.name, iss, ok)
		}
	}
}

// Inside the dispatcher, another member's handler refuses the JWT that stands in
// for a token. Its server never sees it.
func TestMemberRefusesTheJWTOfAnother(t *testing.T) {
	d, ma, mb, a, b := twoServers(t, nil, nil)
	chain := func(next http.Handler) http.Handler { return d.Handler(mb.Handler(next)) }
	if got := a.send(chain, get("Bearer a-token")); got != code401T || b.calls.Load() != 0 {
		t.Errorf("%s, %d introspections at the other server", got, b.calls.Load())
	}
	if got := a.send(chain, get("Bearer b-token")); got != codeOK {
		t.Errorf("its own: %s", got)
	}
	if got := a.send(func(next http.Handler) http.Handler { return d.Handler(ma.Handler(next)) }, get("Bearer a-token")); got != codeOK {
		t.Errorf("the right member: %s", got)
	}
}

// A log line names the issuer of the member.
func TestLogNamesTheMembersIssuer(t *testing.T) {
	a, b := newAS(t), newAS(t)
	ma := a.middleware()
	mb := must(phantom.New(append(b.options(), phantom.WithIssuer("https://b.test"))...))
	d := must(phantom.Dispatch([]*phantom.Middleware{ma, mb}, func(token string) *phantom.Middleware {
		if strings.HasPrefix(token, "a") {
			return ma
		}
		return mb
	}, phantom.WithLogger(slog.New(slog.NewTextHandler(&a.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))))
	b.introspect = answer(500, "", "")
	if got := a.try(d, "a-token") + a.try(d, "b-token"); got != codeOK+code503A {
		t.Fatal(got)
	}
	lines := strings.Split(strings.TrimSpace(a.logs.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "issuer="+issuer+" ") || !strings.Contains(lines[1], "issuer=https://b.test") {
		t.Errorf("%q", lines)
	}
}
