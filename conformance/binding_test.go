package conformance_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/mtls"
	"github.com/phantom-token/phantom/phantomtest"
)

// Tests of WithBinding. The fixture's parts for them:
//
//   - A client has a key, makes requests with proofs, and its token is bound.
//   - proofs returns the Binding of package dpop for the fixture's service.
//   - boundBy makes claims with a cnf. A recorder makes Bindings of its own.
//   - told is the outcome: the status, and of each challenge the scheme and the
//     error.

const boundToken = "opaque-token-of-a-client-with-a-key"

// A client has a key.
type client struct{ *phantomtest.ProofKey }

func newClient() client { return client{phantomtest.NewProofKey()} }

// proof returns a new proof for the request that get makes.
func (c client) proof() string {
	return c.Sign(phantomtest.Proof{Method: http.MethodGet, URI: "https://rs.test/orders", Token: boundToken})
}

// get makes a request with the bound token and these proofs.
func (c client) get(proofs ...string) *http.Request {
	r := get("DPoP " + boundToken)
	if len(proofs) > 0 {
		r.Header["Dpop"] = proofs
	}
	return r
}

func proofs(opts ...dpop.Option) phantom.Binding {
	return must(dpop.New("https://rs.test", append([]dpop.Option{dpop.WithAlgorithms("ES256")}, opts...)...))
}

// boundBy returns claims with a cnf.
func boundBy(cnf any) map[string]any { return claims(map[string]any{"cnf": cnf}) }

// bound has the server answer with the JWT of a token that is bound to the
// client's key. Neither the token nor the thumbprint may be told.
func (as *fakeAS) bound(c client) {
	as.introspect = answerJWT(mint("ES256", boundBy(map[string]any{"jkt": c.Thumbprint()})))
	as.secret(boundToken)
	as.secret(c.Thumbprint())
}

// errorOf finds the error in a challenge.
var errorOf = regexp.MustCompile(`[ ,]error="([^"]*)"`)

// told returns what the client of a request is told.
func (as *fakeAS) told(h func(http.Handler) http.Handler, r *http.Request) string {
	as.tb.Helper()
	for _, values := range r.Header["Dpop"] {
		as.secret(values)
	}
	next := &spy{}
	rec := serve(h(next), r)
	if next.calls() > 0 {
		if found := next.last().Header["Dpop"]; found != nil {
			as.tb.Errorf("next got DPoP %q", found)
		}
		return as.outcome(rec, next, 0)
	}
	if found := as.leaks(rec.Body.String() + fmt.Sprint(rec.Header())); len(found) > 0 {
		as.tb.Errorf("secrets in the answer: %q", found)
	}
	if rec.Header().Get("Cache-Control") != "no-store" {
		as.tb.Errorf("rejection with header %v", rec.Header())
	}
	told := fmt.Sprint(rec.Code)
	for _, challenge := range rec.Header()["Www-Authenticate"] {
		scheme, _, _ := strings.Cut(challenge, " ")
		told += " " + scheme
		if found := errorOf.FindStringSubmatch(challenge); found != nil {
			told += "=" + found[1]
		}
	}
	return told
}

// A proof is checked on each request, hits too, and what it was is never
// remembered. The proof is not handed on.
//
// Catalogue: E1, E2, E12, E23.
func TestBoundTokenNeedsItsProofOnEachRequest(t *testing.T) {
	as, owner, thief := newAS(t), newClient(), newClient()
	as.bound(owner)
	m := as.middleware(phantom.WithBinding(proofs()))
	const good, bad = "OK", "401 DPoP=invalid_dpop_proof Bearer"
	used := owner.proof()
	for i, tc := range []struct {
		name   string
		proofs []string
		want   string
	}{
		{"no proof, the token is new", nil, bad}, // E2
		{"good", []string{used}, good},           // E1
		{"another one, from the cache", []string{owner.proof()}, good},
		{"the same proof again", []string{used}, bad},
		{"none, from the cache", nil, bad},
		{"two", []string{owner.proof(), owner.proof()}, bad},
		{"no JWT", []string{"x"}, bad},
		{"five parts", []string{"a.b.c.d.e"}, bad},
		{"9 KiB", []string{strings.Repeat("x", 9<<10)}, bad},
		{"a stolen token", []string{thief.proof()}, "401 DPoP=invalid_token Bearer"}, // E12
		{"good after all that", []string{owner.proof()}, good},
	} {
		if got := as.told(m.Handler, owner.get(tc.proofs...)); got != tc.want {
			t.Errorf("%d, %s: %s, want %s", i, tc.name, got, tc.want)
		}
	}
	expect(t, "lookups", as.calls.Load(), 1)
	if strings.Contains(as.logs.String(), "level=INFO") || strings.Contains(as.logs.String(), "level=ERROR") {
		t.Errorf("logged: %s", as.logs.String())
	}
}

// The challenges, to the letter.
//
// Catalogue: E14, E15, E16, E25.
func TestChallengesNameEachScheme(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	required := proofs(dpop.WithNonce(bytes.Repeat([]byte("k"), 32)))
	required.Required = true
	metadata := phantom.WithResourceMetadataURL("https://rs.test/m")
	for _, tc := range []struct {
		name string
		m    *phantom.Middleware
		r    *http.Request
		want []string
	}{
		{"none used", as.middleware(phantom.WithBinding(proofs())), get(), []string{
			`Bearer realm="api"`, `DPoP realm="api", algs="ES256"`,
		}},
		{"bad proof", as.middleware(phantom.WithBinding(proofs()), metadata), owner.get("x"), []string{
			`DPoP realm="api", error="invalid_dpop_proof", algs="ES256", resource_metadata="https://rs.test/m"`,
			`Bearer realm="api", resource_metadata="https://rs.test/m"`,
		}},
		{"required, none used", as.middleware(phantom.WithBinding(required)), get(), []string{
			`DPoP realm="api", algs="ES256"`,
		}},
		{"required, bound under Bearer", as.middleware(phantom.WithBinding(required)), get("Bearer " + boundToken), []string{
			`DPoP realm="api", error="invalid_token", algs="ES256"`,
		}},
		{"no nonce", as.middleware(phantom.WithBinding(required)), owner.get(owner.proof()), []string{
			`DPoP realm="api", error="use_dpop_nonce", algs="ES256"`,
		}},
		{"malformed", as.middleware(phantom.WithBinding(proofs())), get("DPoP !"), []string{
			`DPoP realm="api", error="invalid_request", ` +
				`error_description="The bearer token is malformed or sent more than once.", algs="ES256"`,
			`Bearer realm="api"`,
		}},
	} {
		rec := serve(tc.m.Handler(&spy{}), tc.r)
		if got := rec.Header()["Www-Authenticate"]; !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q", tc.name, got)
		}
		nonce := rec.Header().Get("DPoP-Nonce")
		if want := tc.name == "no nonce"; (nonce != "") != want {
			t.Errorf("%s: DPoP-Nonce %q", tc.name, nonce)
		}
	}
}

// A token comes under its own scheme and no other. Neither is a bearer token
// taken under another scheme.
//
// Catalogue: E15.
func TestTokensComeUnderTheirOwnScheme(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	for _, isBound := range []bool{true, false} {
		if !isBound {
			as.introspect = nil
		}
		m := as.middleware(phantom.WithBinding(proofs()))
		for range 2 { // from the server, and from the cache
			for _, tc := range []struct {
				authorization  []string
				bound, unbound string
			}{
				{[]string{"DPoP " + boundToken}, "OK", "401 DPoP=invalid_token Bearer"},
				{[]string{"dpop  " + boundToken}, "OK", "401 DPoP=invalid_token Bearer"},
				{[]string{"Bearer " + boundToken}, "401 Bearer=invalid_token DPoP", "OK"},
				{[]string{"bearer " + boundToken}, "401 Bearer=invalid_token DPoP", "OK"},
				{[]string{"DPoP"}, "400 DPoP=invalid_request Bearer", "400 DPoP=invalid_request Bearer"},
				{[]string{"DPoP "}, "400 DPoP=invalid_request Bearer", "400 DPoP=invalid_request Bearer"},
				{[]string{"DPoPx " + boundToken}, "401 Bearer DPoP", "401 Bearer DPoP"},
				{[]string{"Basic YTpi"}, "401 Bearer DPoP", "401 Bearer DPoP"},
				{[]string{"DPoP " + boundToken, "Bearer " + boundToken}, "400 Bearer=invalid_request DPoP", "400 Bearer=invalid_request DPoP"},
			} {
				want := tc.unbound
				if isBound {
					want = tc.bound
				}
				r := owner.get(owner.proof())
				r.Header["Authorization"] = tc.authorization
				if got := as.told(m.Handler, r); got != want {
					t.Errorf("bound %v, %q: %s, want %s", isBound, tc.authorization, got, want)
				}
			}
		}
	}
}

// A Required Binding refuses tokens that are not bound by it, and its scheme
// is the only one that is offered.
//
// Catalogue: E16.
func TestRequiredBindingRefusesOtherTokens(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	required := proofs()
	required.Required = true
	cert := mtls.New(nil)
	cert.Required = true
	for _, tc := range []struct {
		name    string
		binding phantom.Binding
		cnf     any
		scheme  string
		want    string
	}{
		{"good", required, map[string]any{"jkt": owner.Thumbprint()}, "DPoP", "OK"},
		{"bound, under Bearer", required, map[string]any{"jkt": owner.Thumbprint()}, "Bearer", "401 DPoP=invalid_token"},
		{"unbound", required, nil, "Bearer", "401 DPoP=invalid_token"},
		{"unbound, under DPoP", required, nil, "DPoP", "401 DPoP=invalid_token"},
		{"null", required, null, "Bearer", "401 DPoP=invalid_token"},
		{"a foreign scheme", required, nil, "Basic", "401 DPoP"},
		{"certificate: unbound", cert, nil, "Bearer", "401 Bearer=invalid_token"},
		{"not required: text", proofs(), "x", "Bearer", "401 Bearer=invalid_token DPoP"},
		{"not required: nothing in it", proofs(), map[string]any{}, "DPoP", "401 DPoP=invalid_token Bearer"},
		{"not required: null", proofs(), null, "Bearer", "OK"},
	} {
		as.introspect = answerJWT(mint("ES256", boundBy(tc.cnf)))
		r := owner.get(owner.proof())
		r.Header.Set("Authorization", tc.scheme+" "+boundToken)
		if got := as.told(as.middleware(phantom.WithBinding(tc.binding)).Handler, r); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// However many send one proof at once, one of them gets in.
//
// Catalogue: E10.
func TestOneProofLetsOneRequestIn(t *testing.T) {
	as, owner := newAS(t), newClient()
	as.bound(owner)
	next := &spy{}
	h := as.middleware(phantom.WithBinding(proofs())).Handler(next)
	proof := owner.proof()
	var wg sync.WaitGroup
	codes := make([]int, 64)
	for i := range codes {
		wg.Go(func() { codes[i] = serve(h, owner.get(proof)).Code })
	}
	wg.Wait()
	slices.Sort(codes)
	if codes[0] != 200 || codes[1] != 401 || codes[63] != 401 || next.calls() != 1 {
		t.Errorf("%v, next ran %d times", codes, next.calls())
	}
}

// A certificate is compared on each request. What a client writes into the field
// of a proxy is neither believed nor handed on.
//
// Catalogue: E19, E20.
func TestCertificateBoundTokenNeedsItsCertificate(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	own, other := server.Certificate(), &x509.Certificate{Raw: []byte("another")}
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", boundBy(map[string]any{
		"x5t#S256": as.secret(phantomtest.CertificateThumbprint(own)),
	})))
	m := as.middleware(phantom.WithBinding(mtls.New(nil)))
	for _, tc := range []struct {
		name string
		tls  *tls.ConnectionState
		want string
	}{
		{"right", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own}}, codeOK},
		{"other", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{other}}, "401 Bearer=invalid_token"},
		{"none", &tls.ConnectionState{}, "401 Bearer=invalid_token"},
		{"no TLS", nil, "401 Bearer=invalid_token"},
		{"right again", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own, other}}, codeOK},
	} {
		r := get("Bearer " + as.secret(boundToken))
		r.TLS = tc.tls
		r.Header["Client-Cert"] = []string{":" + b64(own.Raw) + ":"} // E20
		r.Header["client-cert-chain"] = []string{"x"}
		if got := as.told(func(next http.Handler) http.Handler {
			return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if len(r.Header) != 1 {
					t.Errorf("next got %v", r.Header)
				}
				next.ServeHTTP(w, r)
			}))
		}, r); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	expect(t, "lookups", as.calls.Load(), 1)
}

// New refuses what is no Binding, and names the option.
//
// Catalogue: E22.
func TestUnfitBindingsAreRefused(t *testing.T) {
	pass := func(*http.Request, string, string) error { return nil }
	fit := phantom.Binding{Method: "jkt", Scheme: "DPoP", Check: pass}
	change := func(f func(b *phantom.Binding)) phantom.Option {
		b := fit
		f(&b)
		return phantom.WithBinding(b)
	}
	extractor := phantom.WithTokenExtractor(func(*http.Request) (string, error) { return "", nil })
	as := newAS(t)
	for _, tc := range []struct {
		name string
		opts []phantom.Option
		want string // in the error; empty: none
	}{
		{"fit", []phantom.Option{phantom.WithBinding(fit)}, ""},
		{"two", []phantom.Option{phantom.WithBinding(fit), phantom.WithBinding(mtls.New(nil))}, ""},
		{"an extractor and no Scheme", []phantom.Option{phantom.WithBinding(mtls.New(nil)), extractor}, ""},
		{"twice", []phantom.Option{phantom.WithBinding(fit), phantom.WithBinding(fit)}, `"jkt" twice`},
		{"no Method", []phantom.Option{phantom.WithBinding(phantom.Binding{Check: pass})}, `Method ""`},
		{"another Method", []phantom.Option{change(func(b *phantom.Binding) { b.Method = "jwk" })}, `Method "jwk"`},
		{"no Check", []phantom.Option{change(func(b *phantom.Binding) { b.Check = nil })}, "nil Check"},
		{"Scheme with a space", []phantom.Option{change(func(b *phantom.Binding) { b.Scheme = "D PoP" })}, `Scheme "D PoP"`},
		{"Bearer", []phantom.Option{change(func(b *phantom.Binding) { b.Scheme = "bearer" })}, `Scheme "bearer"`},
		{"unfit Field", []phantom.Option{change(func(b *phantom.Binding) { b.Fields = []string{"DPoP "} })}, `Field "DPoP "`},
		{"an extractor", []phantom.Option{phantom.WithBinding(fit), extractor}, "excludes WithTokenExtractor"},
	} {
		_, err := phantom.New(as.options(tc.opts...)...)
		var fault *phantom.ConfigError
		switch {
		case tc.want == "" && err == nil:
		case tc.want == "" || err == nil || !strings.Contains(err.Error(), tc.want):
			t.Errorf("%s: %v", tc.name, err)
		case !errors.As(err, &fault) || fault.Option != "WithBinding":
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// cnfJSON returns the text of a cnf.
func cnfJSON(cnf any) string { return string(must(json.Marshal(cnf))) }

// certsOf returns the certificate of a server, as a client's.
func certsOf(server *httptest.Server) []*x509.Certificate {
	return []*x509.Certificate{server.Certificate()}
}
