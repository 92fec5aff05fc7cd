package conformance_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mtls"
	"github.com/phantom-token/phantom/phantomtest"
)

// checking returns a Binding for keys whose Check is f.
func checking(f func(r *http.Request) error) phantom.Option {
	return phantom.WithBinding(phantom.Binding{
		Method: "jkt", Scheme: "DPoP", Fields: []string{"DPoP"},
		Check: func(r *http.Request, _, _ string) error { return f(r) },
	})
}

// A proof can be used once, so it is checked once for each request, however many
// handlers of the Middleware it passes.
//
// Catalogue: E22.
func TestCheckRunsOnceForEachRequest(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	ran := 0
	m := as.middleware(checking(func(*http.Request) error { ran++; return nil }))
	asks := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := m.Authenticate(r); err != nil {
				t.Error(err)
			}
			next.ServeHTTP(w, r)
		})
	}
	for i, wrap := range []func(http.Handler) http.Handler{
		m.Handler,
		m.RequireScopes("read"),
		m.Optional,
		func(next http.Handler) http.Handler { return m.Handler(m.RequireScopes("read")(next)) },
		func(next http.Handler) http.Handler { return m.Optional(m.Optional(m.Require()(next))) },
		func(next http.Handler) http.Handler { return m.Handler(asks(next)) },
	} {
		ran = 0
		if got := as.told(wrap, owner.get("x")); got != codeOK || ran != 1 {
			t.Errorf("%d: %s, checked %d times", i, got, ran)
		}
	}
	ran = 0
	if _, err := m.Authenticate(owner.get("x")); err != nil || ran != 1 {
		t.Errorf("Authenticate: %v, checked %d times", err, ran)
	}
}

// Where there is no request, nothing proves that the token is its sender's.
//
// Catalogue: E22.
func TestVerifyRefusesBoundTokens(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	required := proofs()
	required.Required = true
	verify := func(m *phantom.Middleware) string {
		_, err := m.Verify(t.Context(), boundToken)
		var e *phantom.Error
		switch {
		case err == nil:
			return codeOK
		case !errors.As(err, &e) || e.Reason != phantom.ReasonBinding || !errors.Is(err, phantom.ErrInvalidToken):
			t.Errorf("%v", err)
		}
		return fmt.Sprint(e.StatusCode())
	}
	m := as.middleware(phantom.WithBinding(proofs()))
	expect(t, "bound", verify(m), "401")
	expect(t, "then with a proof", as.told(m.Handler, owner.get(owner.proof())), codeOK)
	expect(t, "bound, from the cache", verify(m), "401")
	as.introspect = nil
	expect(t, "unbound", verify(as.middleware(phantom.WithBinding(proofs()))), codeOK)
	expect(t, "unbound, where binding is required", verify(as.middleware(phantom.WithBinding(required))), "401")
}

// Check refuses by its error, and what it says is for this request alone.
//
// Catalogue: E13, E22, E28.
func TestErrorsOfCheck(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	var fails func() error
	m := as.middleware(checking(func(*http.Request) error { return fails() }))
	wrap := func(err error) error { return fmt.Errorf("it says: %w", err) }
	const unproven = "401 DPoP=invalid_token Bearer"
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"any", errors.New(as.secret("the text of an error")), unproven},
		{"an outage", wrap(phantom.ErrUnavailable), "503"}, // E13
		{"unusable", wrap(phantom.ErrUpstream), "502"},
		{"another kind", wrap(phantom.ErrInsufficientScope), unproven},
		{"no token", wrap(phantom.ErrNoToken), unproven},
		{"malformed", wrap(phantom.ErrInvalidRequest), unproven},
		{"the end of a context", wrap(context.Canceled), unproven},
		{"an Error", wrap(&phantom.Error{Reason: phantom.ReasonScope, Scopes: []string{"x"}}), "403 DPoP=insufficient_scope Bearer"},
		{"an Error without a Reason", &phantom.Error{Code: "use_dpop_nonce"}, "401 DPoP=use_dpop_nonce Bearer"},
		{"an Error for another scheme", &phantom.Error{Reason: phantom.ReasonBinding, Scheme: "bearer"}, "401 Bearer=invalid_token DPoP"},
		{"an Error for no scheme of ours", &phantom.Error{Reason: phantom.ReasonBinding, Scheme: "Basic"}, unproven},
		{"an Error of an outage", &phantom.Error{Reason: phantom.ReasonUnavailable}, "503"},
		{"a nil Error", (*phantom.Error)(nil), "500"},
	} {
		fails = func() error { return tc.err }
		for range 2 {
			if got := as.told(m.Handler, owner.get("x")); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	}
	fails = func() error { panic("x") }
	expect(t, "panic", as.told(m.Handler, owner.get("x")), "500") // E22
	fails = func() error { return nil }
	expect(t, "then", as.told(m.Handler, owner.get("x")), codeOK)
	expect(t, "lookups", as.calls.Load(), 1)
}

// An Error's Header reaches the client, except for what a rejection sets itself,
// what belongs to the connection, and what would write other fields.
//
// Catalogue: E25.
func TestErrorsHeaderReachesTheClient(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	said := &phantom.Error{Reason: phantom.ReasonBinding, Header: http.Header{
		"DPoP-Nonce": {"n"}, "x-more": {"1", "2"},
		"Www-Authenticate": {"Basic"}, "cache-control": {"public"}, "Retry-After": {"9"}, "Set-Cookie": {"a=b"},
		"Content-Type": {"text/html"}, "Content-Encoding": {"br"}, "Connection": {"x"}, "Transfer-Encoding": {"x"},
		"Keep-Alive": {"x"}, "Upgrade": {"x"}, "Te": {"x"}, "Trailer": {"x"}, "Proxy-Connection": {"x"},
		"Trailer:Set-Cookie": {"a=b"}, "set-cookie ": {"a=b"}, "": {"x"}, "X\r\nSet-Cookie: a": {"b"},
		"X-Unfit": {"a\r\nSet-Cookie: a=b"}, "X-Also": {"a\x00", "\x7f"}, "X-Half": {"fit", "a\nb"}, "X-None": nil,
	}}
	check := checking(func(*http.Request) error { return said })
	want := http.Header{
		"Dpop-Nonce": {"n"}, "X-More": {"1", "2"}, "X-Half": {"fit"}, "Cache-Control": {"no-store"},
		"Www-Authenticate": {`DPoP realm="api", error="invalid_token"`, `Bearer realm="api"`},
	}
	for _, handler := range []phantom.ErrorHandler{nil, func(w http.ResponseWriter, _ *http.Request, err *phantom.Error) {
		err.Header.Set("X-More", "changed")
		w.Header()["X-More"][0] += ""
		w.WriteHeader(err.StatusCode())
	}} {
		opts := []phantom.Option{check}
		if handler != nil {
			opts = append(opts, phantom.WithErrorHandler(handler))
		}
		h := serve(as.middleware(opts...).Handler(&spy{}), owner.get("x")).Header()
		delete(h, "Content-Type")
		delete(h, "Content-Length")
		if fmt.Sprint(h) != fmt.Sprint(want) {
			t.Errorf("%v", h)
		}
	}
	if len(map[string][]string(said.Header)["x-more"]) != 2 || said.Header.Get("X-More") != "" {
		t.Errorf("the hook's own Error was changed: %v", said.Header)
	}
}

// A thief learns nothing of what a route needs, and a wrong certificate uses up
// no proof.
//
// Catalogue: E29.
func TestWrongCertificateBurnsNoProof(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	as, owner, thief := newAS(t), newClient(), newClient()
	as.introspect = answerJWT(mint("ES256", boundBy(map[string]any{
		"jkt": owner.Thumbprint(), "x5t#S256": phantomtest.CertificateThumbprint(server.Certificate()),
	})))
	m := as.middleware(phantom.WithBinding(proofs()), phantom.WithBinding(mtls.New(nil)),
		phantom.WithRequirements(phantom.AllScopes("admin")))
	proof := owner.proof()
	send := func(proof string, withCertificate bool) string {
		r := owner.get(proof)
		if withCertificate {
			r.TLS = &tls.ConnectionState{PeerCertificates: certsOf(server)}
		}
		return as.told(m.RequireScopes("more"), r)
	}
	const refused = "401 DPoP=invalid_token Bearer"
	expect(t, "no certificate", send(proof, false), refused)
	expect(t, "the thief's key", send(thief.proof(), true), refused)
	expect(t, "right", send(proof, true), "403 DPoP=insufficient_scope Bearer")
	expect(t, "again", send(proof, true), "401 DPoP=invalid_dpop_proof Bearer")
}

// An inner handler's refusal goes into the challenge of the scheme that the
// client used, although the request now has a JWT under Bearer, or nothing. So
// does that of Reject.
//
// Catalogue: E25.
func TestInnerRefusalsNameTheClientsScheme(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	jwt := as.middleware(phantom.WithBinding(proofs()))
	other := newAS(t)
	other.introspect = answerMembers(map[string]any{"cnf": map[string]any{"jkt": owner.Thumbprint()}})
	bare := other.claimsOnly(phantom.WithBinding(proofs()))
	for name, m := range map[string]*phantom.Middleware{"JWT": jwt, "no JWT": bare} {
		inner := func(next http.Handler) http.Handler { return m.Handler(m.RequireScopes("admin")(next)) }
		expect(t, name, as.told(inner, owner.get(owner.proof())), "403 DPoP=insufficient_scope Bearer")
		rejects := func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tok, err := m.Authenticate(r)
				if err != nil {
					m.Reject(w, r, err)
					return
				}
				r = r.WithContext(phantom.NewContext(r.Context(), tok))
				tok.SetAuthHeader(r)
				m.Reject(w, r, phantom.ErrInsufficientScope)
			})
		}
		expect(t, name+", Reject", as.told(rejects, owner.get(owner.proof())), "403 DPoP=insufficient_scope Bearer")
		expect(t, name+", Reject a proof", as.told(rejects, owner.get()), "401 DPoP=invalid_dpop_proof Bearer")
		expect(t, name+", Reject anything", as.told(rejects, get("Bearer "+boundToken)), "401 Bearer=invalid_token DPoP")
	}
}

// A proof reaches next in no spelling, in no trailer, and not by the name of an
// option of the connection; also where no token came with it.
//
// Catalogue: E26.
func TestProofsAreNotHandedOn(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	m := as.middleware(checking(func(*http.Request) error { return nil }))
	for name, authorization := range map[string][]string{
		"bound": {"DPoP " + boundToken}, "anonymous": nil,
	} {
		for _, length := range []int64{-1, 1} {
			r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders", io.NopCloser(strings.NewReader("x")))
			r.ContentLength = length
			r.Header = http.Header{
				"Dpop": {"a"}, "DPoP": {"b"}, "dpop": {"c"}, "DPOP": {"d"}, "Dpop-Nonce": {"kept"},
				"Connection": {"keep-alive, dPoP", "DPoP"},
			}
			if authorization != nil {
				r.Header["Authorization"] = authorization
			}
			r.Trailer = http.Header{"Dpop": {"t"}, "dpop": {"t"}, "X-Kept": {"t"}}
			next := &spy{serve: func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }}
			serve(m.Optional(next), r)
			got := next.last()
			delete(got.Header, "Authorization")
			want := http.Header{"Dpop-Nonce": {"kept"}, "Connection": {"keep-alive"}}
			if fmt.Sprint(got.Header) != fmt.Sprint(want) || fmt.Sprint(got.Trailer) != fmt.Sprint(http.Header{"X-Kept": {"t"}}) {
				t.Errorf("%s: next got %v and the trailer %v", name, got.Header, got.Trailer)
			}
			if len(map[string][]string(r.Header)["DPoP"]) != 1 || len(r.Trailer) != 3 {
				t.Errorf("%s: the outer request lost %v, %v", name, r.Header, r.Trailer)
			}
		}
	}
}

// A dispatcher reads the schemes of all its members, and the member's own
// Bindings check.
//
// Catalogue: E27.
func TestDispatcherReadsTheSchemesOfItsMembers(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	required := proofs()
	required.Required = true
	plain, optional := newAS(t).middleware(), as.middleware(phantom.WithBinding(proofs()))
	strict, strict2 := as.middleware(phantom.WithBinding(required)), as.middleware(phantom.WithBinding(required))
	dispatch := func(members ...*phantom.Middleware) func(http.Handler) http.Handler {
		m, err := phantom.Dispatch(members, func(token string) *phantom.Middleware {
			if token == boundToken {
				return members[0]
			}
			return members[1]
		})
		if err != nil {
			t.Fatal(err)
		}
		return func(next http.Handler) http.Handler {
			return m.Handler(m.RequireScopes("read")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if len(r.Header["Dpop"]) > 0 {
					t.Errorf("handed on: %v", r.Header)
				}
				next.ServeHTTP(w, r)
			})))
		}
	}
	with := func(authorization ...string) *http.Request {
		r := owner.get(owner.proof())
		r.Header["Authorization"] = authorization
		return r
	}
	bound, other := "DPoP "+boundToken, " opaque-token-of-another"
	for _, tc := range []struct {
		name    string
		members []*phantom.Middleware
		r       *http.Request
		want    string
	}{
		{"bound", []*phantom.Middleware{optional, plain}, with(bound), "OK"},
		{"bound, strict", []*phantom.Middleware{strict, plain}, with(bound), "OK"},
		{"bound, no proof", []*phantom.Middleware{strict, plain}, owner.get(), "401 DPoP=invalid_dpop_proof Bearer"},
		{"plain", []*phantom.Middleware{strict, plain}, with("Bearer" + other), "OK"},
		{"plain, under DPoP", []*phantom.Middleware{strict, plain}, with("DPoP" + other), "401 DPoP=invalid_token Bearer"},
		{"none", []*phantom.Middleware{strict, plain}, get(), "401 Bearer DPoP"},
		{"none, all are strict", []*phantom.Middleware{strict, strict2}, get(), "401 DPoP"},
		{"plain, all are strict", []*phantom.Middleware{strict, strict2}, with("Bearer" + other), "401 DPoP=invalid_token"},
		{"no member has one", []*phantom.Middleware{plain, newAS(t).middleware()}, get(bound), "401 Bearer"},
	} {
		if got := as.told(dispatch(tc.members...), tc.r); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	extractor := phantom.WithTokenExtractor(func(*http.Request) (string, error) { return "", nil })
	choose := func(string) *phantom.Middleware { return plain }
	for _, opt := range []phantom.Option{extractor, phantom.WithBinding(proofs())} {
		if _, err := phantom.Dispatch([]*phantom.Middleware{plain, strict}, choose, opt); err == nil {
			t.Error("Dispatch took it")
		}
	}
}

// The case of a scheme does not matter, neither in a request nor in a Binding.
//
// Catalogue: E15, E27.
func TestBindingsSpellTheirSchemeAsTheyLike(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	binding := func(method, scheme string) phantom.Option {
		return phantom.WithBinding(phantom.Binding{
			Method: method, Scheme: scheme, Check: func(*http.Request, string, string) error { return nil },
		})
	}
	upper, lower := as.middleware(binding("jkt", "DPoP")), as.middleware(binding("jkt", "dpop"))
	members := []*phantom.Middleware{upper, lower}
	for name, m := range map[string]*phantom.Middleware{
		"beside another": as.middleware(binding("x5t#S256", "DPoP"), binding("jkt", "dpop")),
		"of a member":    must(phantom.Dispatch(members, func(string) *phantom.Middleware { return lower })),
	} {
		expect(t, name, as.told(m.Handler, owner.get()), codeOK)
		expect(t, name+", inside", as.told(func(next http.Handler) http.Handler {
			return m.Handler(m.RequireScopes("admin")(next))
		}, owner.get()), "403 DPoP=insufficient_scope Bearer")
		expect(t, name+", under Bearer", as.told(m.Handler, get("Bearer "+boundToken)), "401 Bearer=invalid_token DPoP")
	}
}

// CGI and its heirs do not tell an underscore from a hyphen.
//
// Catalogue: E20, E26.
func TestUnderscoresHideNoField(t *testing.T) {
	as := newAS(t)
	other := checking(func(*http.Request) error { return nil })
	next := &spy{}
	r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders", strings.NewReader("x"))
	r.Header = http.Header{
		"Client_Cert": {"a"}, "client_cert-Chain": {"b"}, "Client_Cert_Chain": {"c"}, "Client_Certs": {"kept"},
		"Connection": {"client_cert, keep-alive"},
	}
	r.Trailer = http.Header{"Client_Cert": {"t"}}
	serve(as.middleware(other, phantom.WithBinding(mtls.New(nil))).Optional(next), r)
	want := http.Header{"Client_Certs": {"kept"}, "Connection": {"keep-alive"}}
	if got := next.last(); fmt.Sprint(got.Header) != fmt.Sprint(want) || len(got.Trailer) > 0 {
		t.Errorf("next got %v and the trailer %v", got.Header, got.Trailer)
	}
	odd := phantom.Binding{
		Method: "jkt", Fields: []string{"X_Proof"}, Check: func(*http.Request, string, string) error { return nil },
	}
	for _, name := range []string{"X_Proof", "x-proof"} {
		r := get()
		r.Header[name] = []string{"x"}
		serve(as.middleware(phantom.WithBinding(odd)).Optional(next), r)
		if got := next.last().Header; len(got) > 0 {
			t.Errorf("next got %v", got)
		}
	}
}
