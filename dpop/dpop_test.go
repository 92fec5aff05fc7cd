package dpop_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/dpop"
	"github.com/phantom-token/phantom/phantomtest"
)

const (
	origin = "https://api.example.com"
	uri    = origin + "/orders"
	opaque = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
)

type claims = map[string]any

func newBinding(t testing.TB, opts ...dpop.Option) phantom.Binding {
	t.Helper()
	b, err := dpop.New(origin, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// good is a proof for the request of get.
func good() phantomtest.Proof {
	return phantomtest.Proof{Method: http.MethodGet, URI: uri, Token: opaque}
}

// get returns a request with the given lines of the field DPoP.
func get(proofs ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/orders?page=2", nil)
	r.Header["Dpop"] = proofs
	return r
}

// outcome names what an error of Check makes of a request, and why.
func outcome(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "OK"
	}
	var e *phantom.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	if e.Scheme != "DPoP" || e.Err != nil || len(e.Params) > 0 || (e.Code != "use_dpop_nonce" && e.Header != nil) {
		t.Fatalf("unfit %#v", e)
	}
	code := map[string]string{
		"binding 401 invalid_dpop_proof": "401D", "binding 401 use_dpop_nonce": "401DN",
		"binding 401 ": "401T", "as_unavailable 503 ": "503A",
	}[fmt.Sprint(e.Reason, " ", e.StatusCode(), " ", e.Code)]
	if code == "" || code != "503A" && !errors.Is(err, phantom.ErrInvalidToken) {
		t.Fatalf("unfit %#v", e)
	}
	return code + " " + strings.TrimPrefix(e.Detail, "dpop ")
}

func TestTheBindingSaysWhatItIsFor(t *testing.T) {
	b := newBinding(t, dpop.WithAlgorithms("ES256", "Ed25519", "EdDSA"))
	if b.Method != "jkt" || b.Scheme != "DPoP" || b.Required || len(b.Fields) != 1 || b.Fields[0] != "DPoP" {
		t.Errorf("%+v", b)
	}
	if got := b.Params["algs"]; got != "ES256 EdDSA" || len(b.Params) != 1 {
		t.Errorf("params %v", b.Params)
	}
	const all = "ES256 ES384 ES512 EdDSA PS256 PS384 PS512 RS256 RS384 RS512"
	if got := newBinding(t).Params["algs"]; got != all {
		t.Errorf("algs %q", got)
	}
}

// Catalogue: E1, E5, E6, E9.
func TestAProofIsForOneRequest(t *testing.T) {
	now := time.Now().Unix()
	foreign := "https://other.example.com/orders"
	for _, tc := range []struct {
		name   string
		claims claims
		want   string
	}{
		{"good", nil, "OK"},
		{"further claims", claims{"nonce": 1, "x": claims{}}, "OK"},
		{"nbf and exp", claims{"nbf": now, "exp": now + 300}, "OK"},

		{"no htm", claims{"htm": nil}, "401D htm"},
		{"htm is a number", claims{"htm": 1}, "401D htm"},
		{"htm in lower case", claims{"htm": "get"}, "401D htm"},
		{"another method", claims{"htm": "POST"}, "401D htm"},

		{"no htu", claims{"htu": nil}, "401D htu"},
		{"htu is an array", claims{"htu": []string{uri}}, "401D htu"},
		{"htu of another path", claims{"htu": origin + "/other"}, "401D htu"},
		{"htu of a longer path", claims{"htu": uri + "/"}, "401D htu"},
		{"htu of another host", claims{"htu": foreign}, "401D htu"},
		{"htu of another scheme", claims{"htu": "http://api.example.com/orders"}, "401D htu"},
		{"htu of another port", claims{"htu": "https://api.example.com:8443/orders"}, "401D htu"},
		{"htu is a path", claims{"htu": "/orders"}, "401D htu"},
		{"htu with userinfo", claims{"htu": "https://u@api.example.com/orders"}, "401D htu"},
		{"htu with the query", claims{"htu": uri + "?page=2"}, "OK"},
		{"htu with another query", claims{"htu": uri + "?page=3"}, "OK"},
		{"htu with a fragment", claims{"htu": uri + "#x"}, "OK"},
		{"htu in upper case", claims{"htu": "HTTPS://API.EXAMPLE.COM/orders"}, "OK"},
		{"htu with the port", claims{"htu": "https://api.example.com:443/orders"}, "OK"},
		{"htu encoded", claims{"htu": origin + "/%6frders"}, "OK"},

		{"no iat", claims{"iat": nil}, "401D iat"},
		{"iat is a string", claims{"iat": fmt.Sprint(now)}, "401D iat"},
		{"iat is too large", claims{"iat": 1e18}, "401D iat"},
		{"iat is negative", claims{"iat": -1}, "401D iat"},
		{"iat an hour ago", claims{"iat": now - 3600}, "401D iat"},
		{"iat in an hour", claims{"iat": now + 3600}, "401D iat"},
		{"iat in milliseconds", claims{"iat": now * 1000}, "401D iat"},
		{"nbf in an hour", claims{"nbf": now + 3600}, "401D nbf"},
		{"nbf is a string", claims{"nbf": "x"}, "401D nbf"},
		{"exp an hour ago", claims{"exp": now - 3600}, "401D exp"},
		{"exp is a string", claims{"exp": "x"}, "401D exp"},
		{"exp is too large", claims{"exp": 1e18}, "401D exp"},

		{"no ath", claims{"ath": nil}, "401D ath"},
		{"ath is a number", claims{"ath": 1}, "401D ath"},
		{"ath of another token", claims{"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEp"}, "401D ath"},
		{"ath padded", claims{"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo="}, "401D ath"},
		{"ath is empty", claims{"ath": ""}, "401D ath"},

		{"no jti", claims{"jti": nil}, "401D jti"},
		{"jti is a number", claims{"jti": 1}, "401D jti"},
		{"jti is empty", claims{"jti": ""}, "401D jti"},
		{"jti of 256 bytes", claims{"jti": strings.Repeat("x", 256)}, "OK"},
		{"jti of 257 bytes", claims{"jti": strings.Repeat("x", 257)}, "401D jti"},
	} {
		key := phantomtest.NewProofKey()
		p := good()
		p.Claims = tc.claims
		err := newBinding(t).Check(get(key.Sign(p)), opaque, key.Thumbprint())
		if got := outcome(t, err); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Catalogue: E2, E3, E4.
func TestOneProofInOneField(t *testing.T) {
	key := phantomtest.NewProofKey()
	b := newBinding(t)
	proof := key.Sign(good())
	spelled := get()
	spelled.Header["dpop"], spelled.Header["DPoP"] = []string{proof}, []string{proof}
	trailer := get()
	trailer.Trailer = http.Header{"Dpop": {proof}}
	for _, tc := range []struct {
		name string
		r    *http.Request
		want string
	}{
		{"none", get(), "401D missing"},
		{"an empty one", get(""), "401D proof"},
		{"two", get(proof, key.Sign(good())), "401D repeated"},
		{"the same twice", get(proof, proof), "401D repeated"},
		{"in two spellings", spelled, "401D repeated"},
		{"two in one line", get(proof + ", " + proof), "401D proof"},
		{"in the trailer", trailer, "401D missing"},
		{"an access token", get(opaque), "401D proof"},
		{"five parts", get(proof + ".a.b"), "401D proof"},
		{"9 KiB", get(proof + strings.Repeat("A", 9<<10)), "401D proof"},
		{"another typ", get(key.Sign(phantomtest.Proof{Header: claims{"typ": "JWT"}})), "401D typ"},
		{"alg none", get(key.Sign(phantomtest.Proof{Header: claims{"alg": "none"}})), "401D alg"},
		{"no jwk", get(key.Sign(phantomtest.Proof{Header: claims{"jwk": nil, "kid": "k"}})), "401D jwk"},
		{"crit", get(key.Sign(phantomtest.Proof{Header: claims{"crit": []string{"x"}}})), "401D header"},
		{"at last", get(proof), "OK"},
	} {
		if got := outcome(t, b.Check(tc.r, opaque, key.Thumbprint())); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	odd := get()
	odd.Header["DPOP"] = []string{key.Sign(good())}
	if got := outcome(t, b.Check(odd, opaque, key.Thumbprint())); got != "OK" {
		t.Errorf("one field in another spelling: %s", got)
	}
}

// Catalogue: E3.
func TestAnAlgorithmThatIsNotListedProvesNothing(t *testing.T) {
	key := phantomtest.NewProofKey() // of ES256
	b := newBinding(t, dpop.WithAlgorithms("ES384", "EdDSA"))
	if got := outcome(t, b.Check(get(key.Sign(good())), opaque, key.Thumbprint())); got != "401D alg" {
		t.Error(got)
	}
}

// The path is the one that the client sent, whatever handlers and proxies made
// of it, and no field of the request says which host.
//
// Catalogue: E6, E8.
func TestTheOriginIsConfigured(t *testing.T) {
	key := phantomtest.NewProofKey()
	prefixed, err := dpop.New("HTTPS://API.example.com:443/v1/")
	if err != nil {
		t.Fatal(err)
	}
	plain := newBinding(t)
	for _, tc := range []struct {
		name    string
		binding phantom.Binding
		line    string // of the request
		htu     string
		want    string
	}{
		{"a prefix that the proxy removed", prefixed, "/orders", origin + "/v1/orders", "OK"},
		{"without that prefix", prefixed, "/orders", origin + "/orders", "401D htu"},
		{"the root below a prefix", prefixed, "/", origin + "/v1/", "OK"},
		{"absolute form", plain, "http://internal:8080/orders?x", uri, "OK"},
		{"absolute form without a path", plain, "http://internal:8080", origin, "OK"},
		{"the server as a whole", plain, "*", origin, "OK"},
		{"two slashes", plain, "//evil.example/orders", origin + "//evil.example/orders", "OK"},
		{"two slashes are no host", plain, "//evil.example/orders", uri, "401D htu"},
		{"encoded slash", plain, "/a%2fb", origin + "/a%2Fb", "OK"},
		{"encoded slash is none", plain, "/a%2fb", origin + "/a/b", "401D htu"},
		{"a hash in the path", plain, "/orders#x", uri, "401D htu"},
		{"of CONNECT", plain, "api.example.com:443", origin, "401D htu"},
		{"empty path", plain, "/", origin, "OK"},
	} {
		r := get(key.Sign(phantomtest.Proof{Method: http.MethodGet, URI: tc.htu, Token: opaque}))
		r.RequestURI = tc.line
		r.Host = "evil.example"
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Prefix", "Forwarded", "X-Original-Url"} {
			r.Header.Set(name, "evil.example")
		}
		if got := outcome(t, tc.binding.Check(r, opaque, key.Thumbprint())); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	for _, evil := range []string{"https://evil.example/orders", "http://evil.example/orders"} {
		r := get(key.Sign(phantomtest.Proof{Method: http.MethodGet, URI: evil, Token: opaque}))
		r.Host = "evil.example"
		r.Header.Set("X-Forwarded-Host", "evil.example")
		if got := outcome(t, plain.Check(r, opaque, key.Thumbprint())); got != "401D htu" {
			t.Errorf("Host is believed: %s", got)
		}
	}
}

// Catalogue: E8.
func TestStripPrefixDoesNotMatter(t *testing.T) {
	key := phantomtest.NewProofKey()
	b := newBinding(t)
	got := ""
	h := http.StripPrefix("/v1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = outcome(t, b.Check(r, opaque, key.Thumbprint()))
	}))
	r := httptest.NewRequest(http.MethodGet, "/v1/orders", nil)
	r.Header.Set("DPoP", key.Sign(phantomtest.Proof{Method: http.MethodGet, URI: origin + "/v1/orders", Token: opaque}))
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got != "OK" {
		t.Error(got)
	}
}

func TestTargetReplacesTheOrigin(t *testing.T) {
	key := phantomtest.NewProofKey()
	outage := &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: "tenants", Scheme: "DPoP"}
	for _, tc := range []struct {
		name   string
		target string
		err    error
		want   string
	}{
		{"its URI", "https://TENANT.example.com:443/orders?x", nil, "OK"},
		{"another", uri, nil, "401D htu"},
		{"none", "", nil, "401D htu"},
		{"no URI", "/orders", nil, "401D htu"},
		{"an error", "https://tenant.example.com/orders", errors.New("secret"), "401D target"},
		{"a context's error", "", context.Canceled, "401D target"},
		{"an error of ours", "", fmt.Errorf("x: %w", outage), "503A tenants"},
	} {
		b, err := dpop.New("", dpop.WithTarget(func(r *http.Request) (string, error) { return tc.target, tc.err }))
		if err != nil {
			t.Fatal(err)
		}
		p := phantomtest.Proof{Method: http.MethodGet, URI: "https://tenant.example.com/orders", Token: opaque}
		if got := outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	for _, sentinel := range []error{phantom.ErrUnavailable, phantom.ErrUpstream} {
		b := newBinding(t, dpop.WithTarget(func(*http.Request) (string, error) { return "", sentinel }))
		if err := b.Check(get(key.Sign(good())), opaque, key.Thumbprint()); !errors.Is(err, sentinel) {
			t.Errorf("%v became %v", sentinel, err)
		}
	}
}

// A thief who has a key of its own can make every proof but the right one. It
// uses up nothing.
//
// Catalogue: E12.
func TestAStolenTokenNeedsItsOwnersKey(t *testing.T) {
	owner, thief := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	store := &recorder{}
	b := newBinding(t, dpop.WithReplayStore(store))
	if got := outcome(t, b.Check(get(thief.Sign(good())), opaque, owner.Thumbprint())); got != "401T jkt" {
		t.Error(got)
	}
	for _, thumbprint := range []string{"", owner.Thumbprint() + "=", strings.ToUpper(owner.Thumbprint()), "x"} {
		if got := outcome(t, b.Check(get(owner.Sign(good())), opaque, thumbprint)); got != "401T jkt" {
			t.Errorf("thumbprint %q: %s", thumbprint, got)
		}
	}
	if len(store.keys) != 0 {
		t.Errorf("%d proofs are used up", len(store.keys))
	}
}

// Each check that fails leaves the proof unused: the same one passes when what
// was wrong about the request is right.
func TestARefusedProofIsNotUsedUp(t *testing.T) {
	key := phantomtest.NewProofKey()
	store := &recorder{}
	b := newBinding(t, dpop.WithReplayStore(store))
	proof := key.Sign(good())
	other := get(proof)
	other.Method = http.MethodPost
	path := get(proof)
	path.RequestURI = "/other"
	for _, err := range []error{
		b.Check(other, opaque, key.Thumbprint()),
		b.Check(path, opaque, key.Thumbprint()),
		b.Check(get(proof), "another-token", key.Thumbprint()),
		b.Check(get(proof), opaque, phantomtest.NewProofKey().Thumbprint()),
	} {
		if err == nil || len(store.keys) != 0 {
			t.Errorf("%v, %d entries", err, len(store.keys))
		}
	}
	if got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint())); got != "OK" || len(store.keys) != 1 {
		t.Errorf("%s, %d entries", got, len(store.keys))
	}
}

// Catalogue: E10.
func TestAProofPassesOnce(t *testing.T) {
	key, other := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	b := newBinding(t)
	p := good()
	p.Claims = claims{"jti": "one"}
	proof := key.Sign(p)
	var admitted, replayed int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			got := outcome(t, b.Check(get(proof), opaque, key.Thumbprint()))
			mu.Lock()
			defer mu.Unlock()
			switch got {
			case "OK":
				admitted++
			case "401D replay":
				replayed++
			}
		})
	}
	all.Wait()
	if admitted != 1 || replayed != 63 {
		t.Errorf("%d were let in, %d refused as replays", admitted, replayed)
	}
	p.Claims["iat"] = time.Now().Unix() - 1
	if got := outcome(t, b.Check(get(key.Sign(p)), opaque, key.Thumbprint())); got != "401D replay" {
		t.Errorf("the same jti in another proof: %s", got)
	}
	if got := outcome(t, b.Check(get(other.Sign(p)), opaque, other.Thumbprint())); got != "OK" {
		t.Errorf("the same jti by another key: %s", got)
	}
}

// The proof of RFC 9449 section 7.1, with its token and its time.
const (
	printedProof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo" +
		"RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJl" +
		"MWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6M" +
		"TU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPTo" +
		"A1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	printedTime       = 1562262618
	printedThumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestTheProofOfTheRFCPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := dpop.New("https://resource.example.org")
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/protectedresource", nil)
		r.Header.Set("DPoP", printedProof)
		time.Sleep(time.Until(time.Unix(printedTime, 0)))
		if got := outcome(t, b.Check(r, opaque, printedThumbprint)); got != "OK" {
			t.Error(got)
		}
		if got := outcome(t, b.Check(r, opaque, printedThumbprint)); got != "401D replay" {
			t.Error(got)
		}
		time.Sleep(time.Hour)
		if got := outcome(t, b.Check(r, opaque, printedThumbprint)); got != "401D iat" {
			t.Error(got)
		}
	})
}

// Catalogue: E23.
func TestNoErrorQuotesTheRequest(t *testing.T) {
	key := phantomtest.NewProofKey()
	b := newBinding(t, dpop.WithNonce(secret('a')))
	p := good()
	p.Nonce = "nonce-of-somebody"
	p.Claims = claims{"jti": "jti-of-somebody"}
	proofs := []string{key.Sign(p)}
	for name, value := range map[string]any{"htm": "PUT", "htu": "https://htu-of-somebody", "ath": "ath-of-somebody"} {
		p.Claims = claims{name: value}
		proofs = append(proofs, key.Sign(p))
	}
	for _, proof := range append(proofs, "proof-of-somebody", opaque) {
		err := b.Check(get(proof), opaque, key.Thumbprint())
		if err == nil {
			t.Fatal("accepted")
		}
		var e *phantom.Error
		errors.As(err, &e)
		e.Header = nil // the new nonce, which is for the client
		text := fmt.Sprintf("%v %+v %#v", err, *e, *e)
		for _, secret := range []string{"somebody", proof, opaque, key.Thumbprint()} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is quoted: %s", secret, text)
			}
		}
	}
}
