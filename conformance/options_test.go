package conformance_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// basics are the smallest configuration, without the options of the given
// names.
func basics(without ...string) []phantom.Option {
	all := map[string]phantom.Option{
		"WithIssuer":     phantom.WithIssuer(issuer),
		"WithAudience":   phantom.WithAudience(audience),
		"WithClientAuth": phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret)),
	}
	for _, name := range without {
		delete(all, name)
	}
	return slices.Collect(maps.Values(all))
}

// faultsOf returns the names of the options that New finds fault with, sorted.
func faultsOf(t *testing.T, opts ...phantom.Option) (names []string) {
	t.Helper()
	m, err := phantom.New(opts...)
	if err == nil {
		if m == nil {
			t.Error("neither a Middleware nor an error")
		}
		return nil
	}
	if m != nil {
		t.Error("a Middleware beside an error")
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("a %T: %v", err, err)
	}
	for _, one := range joined.Unwrap() {
		fault, ok := one.(*phantom.ConfigError)
		if !ok {
			t.Fatalf("a %T: %v", one, one)
		}
		if fault.Reason == "" || one.Error() != "phantom: "+fault.Option+": "+fault.Reason || !strings.Contains(err.Error(), one.Error()) {
			t.Errorf("%#v reads %q", fault, one)
		}
		names = append(names, fault.Option)
	}
	if found := (&fakeAS{secrets: map[string]bool{clientSecret: true, "hunter2": true}}).leaks(err.Error()); found != nil {
		t.Errorf("the error shows %q: %v", found, err)
	}
	slices.Sort(names)
	return names
}

// Hooks of pointer and of function type, to be nil in an interface.
type (
	pointerHook struct{}
	askHook     func(context.Context, string) (*phantom.Introspection, error)
	authHook    func(*http.Request, url.Values) error
)

func (*pointerHook) Introspect(context.Context, string) (*phantom.Introspection, error) {
	return nil, nil
}
func (*pointerHook) VerifySignature(context.Context, string) ([]byte, error) { return nil, nil }
func (*pointerHook) Authenticate(*http.Request, url.Values) error            { return nil }

func (f askHook) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	return f(ctx, token)
}
func (f authHook) Authenticate(r *http.Request, form url.Values) error { return f(r, form) }

// TestConfigErrors makes each mistake alone: New names the option, and nothing
// else.
func TestConfigErrors(t *testing.T) {
	type opts = []phantom.Option
	ecKey := p256Key()
	smallRSA := &rsa.PublicKey{N: must(rand.Prime(rand.Reader, 1024)), E: 65537}
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	introspector := askHook(func(context.Context, string) (*phantom.Introspection, error) { return nil, nil })
	for _, c := range []struct {
		name    string
		without string // the one of basics that this replaces
		options opts
		want    []string
	}{
		{"nothing wrong", "", nil, nil},

		{"nil option", "", opts{nil}, []string{"Option"}},
		{"two nil options", "", opts{nil, nil}, []string{"Option", "Option"}},

		{"no issuer", "WithIssuer", nil, []string{"WithIssuer"}},
		{"empty issuer", "", opts{phantom.WithIssuer("")}, []string{"WithIssuer"}},
		{"issuer without scheme", "", opts{phantom.WithIssuer("as.test")}, []string{"WithIssuer"}},
		{"issuer without host", "", opts{phantom.WithIssuer("https:///path")}, []string{"WithIssuer"}},
		{"issuer with a port only", "", opts{phantom.WithIssuer("https://:443")}, []string{"WithIssuer"}},
		{"issuer over http", "", opts{phantom.WithIssuer("http://as.test")}, []string{"WithIssuer"}},
		{"issuer of another scheme", "", opts{phantom.WithIssuer("ftp://as.test")}, []string{"WithIssuer"}},
		{"issuer that is a file", "", opts{phantom.WithIssuer("file:///etc/passwd")}, []string{"WithIssuer"}},
		{"issuer with a query", "", opts{phantom.WithIssuer("https://as.test?key=hunter2")}, []string{"WithIssuer"}},
		{"issuer with an empty query", "", opts{phantom.WithIssuer("https://as.test?")}, []string{"WithIssuer"}},
		{"issuer with a fragment", "", opts{phantom.WithIssuer("https://as.test#hunter2")}, []string{"WithIssuer"}},
		{"issuer with an empty fragment", "", opts{phantom.WithIssuer("https://as.test#")}, []string{"WithIssuer"}},
		{"issuer with credentials", "", opts{phantom.WithIssuer("https://gateway:hunter2@as.test")}, []string{"WithIssuer"}},
		{"issuer with spaces", "", opts{phantom.WithIssuer(" https://as.test")}, []string{"WithIssuer"}},
		{"issuer that does not parse", "", opts{phantom.WithIssuer("https://as.test/%zz?key=hunter2")}, []string{"WithIssuer"}},
		{"issuer with a line feed", "", opts{phantom.WithIssuer("https://as.test\n")}, []string{"WithIssuer"}},
		{"almost loopback", "", opts{phantom.WithIssuer("http://localhost.as.test")}, []string{"WithIssuer"}},
		{"loopback as a label", "", opts{phantom.WithIssuer("http://127.0.0.1.as.test")}, []string{"WithIssuer"}},
		{"loopback, then credentials", "", opts{phantom.WithIssuer("http://127.0.0.1:hunter2@as.test")}, []string{"WithIssuer"}},

		{"no audience", "WithAudience", nil, []string{"WithAudience"}},
		{"audience of none", "WithAudience", opts{phantom.WithAudience()}, []string{"WithAudience"}},
		{"empty audience", "WithAudience", opts{phantom.WithAudience("")}, []string{"WithAudience"}},
		{"one empty audience", "WithAudience", opts{phantom.WithAudience(audience, "")}, []string{"WithAudience"}},
		{"audience and none", "", opts{phantom.WithoutAudienceCheck()}, []string{"WithAudience"}},

		{"endpoint over http", "", opts{phantom.WithIntrospectionEndpoint("http://as.test/introspect")}, []string{"WithIntrospectionEndpoint"}},
		{"empty endpoint", "", opts{phantom.WithIntrospectionEndpoint("")}, []string{"WithIntrospectionEndpoint"}},
		{"relative endpoint", "", opts{phantom.WithIntrospectionEndpoint("/introspect")}, []string{"WithIntrospectionEndpoint"}},
		{"endpoint with credentials", "", opts{phantom.WithIntrospectionEndpoint("https://gateway:hunter2@as.test/introspect")}, []string{"WithIntrospectionEndpoint"}},
		{"endpoint with credentials and no scheme", "", opts{phantom.WithIntrospectionEndpoint("gateway:hunter2@as.test/introspect")}, []string{"WithIntrospectionEndpoint"}},
		{"endpoint with credentials and one slash", "", opts{phantom.WithIntrospectionEndpoint("https:/gateway:hunter2@as.test/introspect")}, []string{"WithIntrospectionEndpoint"}},
		{"endpoint over http with a secret", "", opts{phantom.WithIntrospectionEndpoint("http://as.test/introspect?key=hunter2")}, []string{"WithIntrospectionEndpoint"}},

		{"empty key set URL", "", opts{phantom.WithJWKSURL("")}, []string{"WithJWKSURL"}},
		{"key set over http", "", opts{phantom.WithJWKSURL("http://as.test/jwks?key=hunter2")}, []string{"WithJWKSURL"}},
		{"nil key set", "", opts{phantom.WithKeySet(nil)}, []string{"WithKeySet"}},
		{"typed nil key set", "", opts{phantom.WithKeySet((*pointerHook)(nil))}, []string{"WithKeySet"}},
		{"nil key set function", "", opts{phantom.WithKeySet(keySetHook(nil))}, []string{"WithKeySet"}},
		{"static keys of none", "", opts{phantom.WithKeySet(phantom.StaticKeys())}, []string{"WithKeySet"}},
		{"static nil key", "", opts{phantom.WithKeySet(phantom.StaticKeys(nil))}, []string{"WithKeySet"}},
		{"static typed nil RSA key", "", opts{phantom.WithKeySet(phantom.StaticKeys((*rsa.PublicKey)(nil)))}, []string{"WithKeySet"}},
		{"static typed nil EC key", "", opts{phantom.WithKeySet(phantom.StaticKeys((*ecdsa.PublicKey)(nil)))}, []string{"WithKeySet"}},
		{"static empty Ed25519 key", "", opts{phantom.WithKeySet(phantom.StaticKeys(ed25519.PublicKey{}))}, []string{"WithKeySet"}},
		{"static empty RSA key", "", opts{phantom.WithKeySet(phantom.StaticKeys(&rsa.PublicKey{}))}, []string{"WithKeySet"}},
		{"static empty EC key", "", opts{phantom.WithKeySet(phantom.StaticKeys(&ecdsa.PublicKey{}))}, []string{"WithKeySet"}},
		{"static small RSA key", "", opts{phantom.WithKeySet(phantom.StaticKeys(smallRSA))}, []string{"WithKeySet"}},
		{"static key on another curve", "", opts{phantom.WithKeySet(phantom.StaticKeys(p224.Public()))}, []string{"WithKeySet"}},
		{"static private key", "", opts{phantom.WithKeySet(phantom.StaticKeys(ecKey))}, []string{"WithKeySet"}},
		{"static shared secret", "", opts{phantom.WithKeySet(phantom.StaticKeys([]byte("hunter2")))}, []string{"WithKeySet"}},
		{"one unfit static key", "", opts{phantom.WithKeySet(phantom.StaticKeys(ecKey.Public(), "hunter2"))}, []string{"WithKeySet"}},
		{"two sources of keys", "", opts{
			phantom.WithKeySet(phantom.StaticKeys(ecKey.Public())), phantom.WithJWKSURL("https://as.test/jwks"),
		}, []string{"WithKeySet"}},

		{"no client authentication", "WithClientAuth", nil, []string{"WithClientAuth"}},
		{"nil client authentication", "", opts{phantom.WithClientAuth(nil)}, []string{"WithClientAuth"}},
		{"typed nil client authentication", "", opts{phantom.WithClientAuth((*pointerHook)(nil))}, []string{"WithClientAuth"}},
		{"nil client authentication function", "", opts{phantom.WithClientAuth(authHook(nil))}, []string{"WithClientAuth"}},
		{"basic without id", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic("", "hunter2"))}, []string{"WithClientAuth"}},
		{"basic without secret", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, ""))}, []string{"WithClientAuth"}},
		{"basic without both", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic("", ""))}, []string{"WithClientAuth"}},
		{"post without id", "", opts{phantom.WithClientAuth(phantom.ClientSecretPost("", "hunter2"))}, []string{"WithClientAuth"}},
		{"post without secret", "", opts{phantom.WithClientAuth(phantom.ClientSecretPost(clientID, ""))}, []string{"WithClientAuth"}},
		{"assertion without id", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT("", "k", "ES256", ecKey))}, []string{"WithClientAuth"}},
		{"assertion without key", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "ES256", nil))}, []string{"WithClientAuth"}},
		{"assertion without algorithm", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "", ecKey))}, []string{"WithClientAuth"}},
		{"assertion of another algorithm", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "RS256", ecKey))}, []string{"WithClientAuth"}},
		{"assertion by shared secret", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "HS256", ecKey))}, []string{"WithClientAuth"}},
		{"assertion by nobody", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "none", ecKey))}, []string{"WithClientAuth"}},
		{"certificate without id", "", opts{
			phantom.WithClientAuth(phantom.TLSClientAuth("")), phantom.WithHTTPClient(&http.Client{Transport: &http.Transport{}}),
		}, []string{"WithClientAuth"}},
		{"certificate without client", "", opts{phantom.WithClientAuth(phantom.TLSClientAuth(clientID))}, []string{"WithClientAuth"}},
		{"certificate without transport", "", opts{
			phantom.WithClientAuth(phantom.TLSClientAuth(clientID)), phantom.WithHTTPClient(&http.Client{}),
		}, []string{"WithClientAuth"}},
		{"bearer without source", "", opts{phantom.WithClientAuth(phantom.BearerToken(nil))}, []string{"WithClientAuth"}},

		{"nil introspector", "WithClientAuth", opts{phantom.WithIntrospector(nil)}, []string{"WithIntrospector"}},
		{"typed nil introspector", "WithClientAuth", opts{phantom.WithIntrospector((*pointerHook)(nil))}, []string{"WithIntrospector"}},
		{"nil introspector function", "WithClientAuth", opts{phantom.WithIntrospector(askHook(nil))}, []string{"WithIntrospector"}},
		{"introspector and client authentication", "", opts{phantom.WithIntrospector(introspector)}, []string{"WithIntrospector"}},
		{"introspector and endpoint", "WithClientAuth", opts{
			phantom.WithIntrospector(introspector), phantom.WithIntrospectionEndpoint("https://as.test/introspect"),
		}, []string{"WithIntrospector"}},
		{"introspector and JSON", "WithClientAuth", opts{
			phantom.WithIntrospector(introspector), phantom.WithJSONResponse("phantom_token"),
		}, []string{"WithIntrospector"}},
		{"introspector and Cache-Control", "WithClientAuth", opts{
			phantom.WithIntrospector(introspector), phantom.WithStrictCacheControl(),
		}, []string{"WithIntrospector"}},
		{"introspector and everything", "", opts{
			phantom.WithIntrospector(introspector), phantom.WithIntrospectionEndpoint("https://as.test/introspect"),
			phantom.WithJSONResponse("phantom_token"), phantom.WithStrictCacheControl(),
		}, []string{"WithIntrospector", "WithIntrospector", "WithIntrospector", "WithIntrospector"}},

		{"empty member", "", opts{phantom.WithJSONResponse("")}, []string{"WithJSONResponse"}},
		{"member that is the verdict", "", opts{phantom.WithJSONResponse("active")}, []string{"WithJSONResponse"}},

		{"no algorithms", "", opts{phantom.WithAlgorithms()}, []string{"WithAlgorithms"}},
		{"none", "", opts{phantom.WithAlgorithms("none")}, []string{"WithAlgorithms"}},
		{"HMAC", "", opts{phantom.WithAlgorithms("RS256", "HS256")}, []string{"WithAlgorithms"}},
		{"lower case", "", opts{phantom.WithAlgorithms("rs256")}, []string{"WithAlgorithms"}},
		{"empty algorithm", "", opts{phantom.WithAlgorithms("")}, []string{"WithAlgorithms"}},
		{"other algorithms", "", opts{phantom.WithAlgorithms("ES256K", "RS1", "dir")}, []string{"WithAlgorithms", "WithAlgorithms", "WithAlgorithms"}},

		{"negative leeway", "", opts{phantom.WithLeeway(-1)}, []string{"WithLeeway"}},
		{"too much leeway", "", opts{phantom.WithLeeway(5*time.Minute + 1)}, []string{"WithLeeway"}},
		{"C222 negative cache", "", opts{phantom.WithCacheSize(-1)}, []string{"WithCacheSize"}},
		{"C222 negative TTL", "", opts{phantom.WithMaxTTL(-1)}, []string{"WithMaxTTL"}},
		{"negative NegTTL", "", opts{phantom.WithNegativeTTL(-1)}, []string{"WithNegativeTTL"}},
		{"negative staleness", "", opts{phantom.WithStaleIfError(-1)}, []string{"WithStaleIfError"}},
		{"refresh before the start", "", opts{phantom.WithRefreshAhead(-0.1)}, []string{"WithRefreshAhead"}},
		{"refresh at the end", "", opts{phantom.WithRefreshAhead(1)}, []string{"WithRefreshAhead"}},
		{"refresh never", "", opts{phantom.WithRefreshAhead(math.NaN())}, []string{"WithRefreshAhead"}},
		{"refresh in infinity", "", opts{phantom.WithRefreshAhead(math.Inf(1))}, []string{"WithRefreshAhead"}},
		{"no time", "", opts{phantom.WithTimeout(0)}, []string{"WithTimeout"}},
		{"less than no time", "", opts{phantom.WithTimeout(-1)}, []string{"WithTimeout"}},
		{"none in flight", "", opts{phantom.WithMaxInFlight(0)}, []string{"WithMaxInFlight"}},
		{"less than none in flight", "", opts{phantom.WithMaxInFlight(-1)}, []string{"WithMaxInFlight"}},

		{"nil client", "", opts{phantom.WithHTTPClient(nil)}, []string{"WithHTTPClient"}},
		{"nil extractor", "", opts{phantom.WithTokenExtractor(nil)}, []string{"WithTokenExtractor"}},
		{"nil error handler", "", opts{phantom.WithErrorHandler(nil)}, []string{"WithErrorHandler"}},
		{"nil logger", "", opts{phantom.WithLogger(nil)}, []string{"WithLogger"}},
		{"no requirements", "", opts{phantom.WithRequirements()}, []string{"WithRequirements"}},
		{"nil requirement", "", opts{phantom.WithRequirements(nil)}, []string{"WithRequirements"}},
		{"nil requirement beside another", "", opts{phantom.WithRequirements(phantom.AllScopes("a"), nil)}, []string{"WithRequirements"}},

		{"empty realm", "", opts{phantom.WithRealm("")}, []string{"WithRealm"}},
		{"realm with a second field", "", opts{phantom.WithRealm("a\"b\r\nX: y")}, []string{"WithRealm"}},
		{"realm with a line feed", "", opts{phantom.WithRealm("a\n")}, []string{"WithRealm"}},
		{"realm with a tab", "", opts{phantom.WithRealm("a\tb")}, []string{"WithRealm"}},
		{"realm with NUL", "", opts{phantom.WithRealm("\x00")}, []string{"WithRealm"}},
		{"realm with DEL", "", opts{phantom.WithRealm("\x7f")}, []string{"WithRealm"}},
		{"realm beyond ASCII", "", opts{phantom.WithRealm("ö")}, []string{"WithRealm"}},

		{"empty metadata URL", "", opts{phantom.WithResourceMetadataURL("")}, []string{"WithResourceMetadataURL"}},
		{"relative metadata URL", "", opts{phantom.WithResourceMetadataURL("/.well-known/x")}, []string{"WithResourceMetadataURL"}},
		{"metadata URL over http", "", opts{phantom.WithResourceMetadataURL("http://rs.test/x")}, []string{"WithResourceMetadataURL"}},
		{"metadata URL with a quote", "", opts{phantom.WithResourceMetadataURL(`https://rs.test/"x"`)}, []string{"WithResourceMetadataURL"}},
		{"metadata URL with a backslash", "", opts{phantom.WithResourceMetadataURL(`https://rs.test/\x`)}, []string{"WithResourceMetadataURL"}},
		{"metadata URL beyond ASCII", "", opts{phantom.WithResourceMetadataURL("https://rs.test/ö")}, []string{"WithResourceMetadataURL"}},
		{"metadata URL with a fragment", "", opts{phantom.WithResourceMetadataURL("https://rs.test/#x")}, []string{"WithResourceMetadataURL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := faultsOf(t, append(basics(c.without), c.options...)...); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A nil or half a key in an interface is found when New runs, neither where the
// option is written nor when the first token is looked up.
func TestConfigErrorsOfUnfitKeys(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"RSA": (*rsa.PrivateKey)(nil), "EC": (*ecdsa.PrivateKey)(nil), "Ed25519": ed25519.PrivateKey(nil),
		"short Ed25519": make(ed25519.PrivateKey, 5), "a seed for an Ed25519": make(ed25519.PrivateKey, ed25519.SeedSize), "empty RSA": &rsa.PrivateKey{}, "empty EC": &ecdsa.PrivateKey{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			alg := map[bool]string{true: "RS256", false: "ES256"}[strings.HasSuffix(name, "RSA")]
			if strings.HasSuffix(name, "Ed25519") {
				alg = "EdDSA"
			}
			option := phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", alg, key))
			if got := faultsOf(t, append(basics("WithClientAuth"), option)...); !slices.Equal(got, []string{"WithClientAuth"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

// All mistakes are told at once, and in the same order each time.
func TestConfigErrorsTogether(t *testing.T) {
	opts := []phantom.Option{
		phantom.WithIssuer("http://as.test?key=hunter2"), phantom.WithAudience(), phantom.WithoutAudienceCheck(),
		phantom.WithIntrospectionEndpoint("gateway:hunter2@as.test"), phantom.WithJWKSURL(""), phantom.WithKeySet(nil),
		phantom.WithClientAuth(phantom.ClientSecretBasic("", "hunter2")), nil,
		phantom.WithJSONResponse(""), phantom.WithAlgorithms("none"), phantom.WithLeeway(-1), phantom.WithCacheSize(-1),
		phantom.WithMaxTTL(-1), phantom.WithNegativeTTL(-1), phantom.WithStaleIfError(-1), phantom.WithRefreshAhead(2),
		phantom.WithTimeout(0), phantom.WithMaxInFlight(0), phantom.WithHTTPClient(nil), phantom.WithTokenExtractor(nil),
		phantom.WithErrorHandler(nil), phantom.WithRealm(""), phantom.WithResourceMetadataURL(""),
		phantom.WithRequirements(nil), phantom.WithLogger(nil),
	}
	want := []string{
		"Option", "WithAlgorithms", "WithAudience", "WithAudience", "WithCacheSize", "WithClientAuth", "WithErrorHandler",
		"WithHTTPClient", "WithIntrospectionEndpoint", "WithIssuer", "WithIssuer", "WithJSONResponse", "WithJWKSURL",
		"WithKeySet", "WithKeySet", "WithLeeway", "WithLogger", "WithMaxInFlight", "WithMaxTTL", "WithNegativeTTL",
		"WithRealm", "WithRefreshAhead", "WithRequirements", "WithResourceMetadataURL", "WithStaleIfError", "WithTimeout",
		"WithTokenExtractor",
	}
	if got := faultsOf(t, opts...); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	_, first := phantom.New(opts...)
	for range 20 {
		if _, err := phantom.New(opts...); err.Error() != first.Error() {
			t.Fatalf("%v\nwas %v", err, first)
		}
	}
	if got := faultsOf(t); !slices.Equal(got, []string{"WithAudience", "WithClientAuth", "WithIssuer"}) {
		t.Errorf("without options: %q", got)
	}
	var fault *phantom.ConfigError
	if _, err := phantom.New(nil); !errors.As(err, &fault) || fault.Option != "Option" || fault.Reason != "argument 1 is nil" {
		t.Errorf("%v", err)
	}
}

// What New accepts works: a request gets through.
func TestConfigurations(t *testing.T) {
	type opts = []phantom.Option
	for name, o := range map[string]opts{
		"defaults":            nil,
		"all audiences":       {phantom.WithAudience("https://other.test", audience)},
		"leeway 0":            {phantom.WithLeeway(0)},
		"leeway 5 min":        {phantom.WithLeeway(5 * time.Minute)},
		"C222 cache 0":        {phantom.WithCacheSize(0)},
		"cache 1":             {phantom.WithCacheSize(1)},
		"largest cache":       {phantom.WithCacheSize(math.MaxInt)},
		"C222 TTL 0":          {phantom.WithMaxTTL(0)},
		"C222 NegTTL 0":       {phantom.WithNegativeTTL(0)},
		"longest times":       {phantom.WithMaxTTL(math.MaxInt64), phantom.WithNegativeTTL(math.MaxInt64), phantom.WithStaleIfError(math.MaxInt64), phantom.WithTimeout(math.MaxInt64)},
		"shortest TTL":        {phantom.WithMaxTTL(1), phantom.WithNegativeTTL(1)},
		"refresh off":         {phantom.WithRefreshAhead(0)},
		"refresh early":       {phantom.WithRefreshAhead(math.SmallestNonzeroFloat64)},
		"one in flight":       {phantom.WithMaxInFlight(1)},
		"most in flight":      {phantom.WithMaxInFlight(math.MaxInt)},
		"algorithms":          {phantom.WithAlgorithms("ES256", "ES256")},
		"Cache-Control":       {phantom.WithStrictCacheControl()},
		"strict":              {phantom.WithRFC9068()},
		"requirements":        {phantom.WithRequirements(phantom.AllScopes("read"))},
		"insecure":            {phantom.WithInsecureHTTP()},
		"the last one counts": {phantom.WithRealm(""), phantom.WithRealm("b"), phantom.WithTimeout(0), phantom.WithTimeout(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(o...)
			for range 2 {
				if got := as.try(m, "opaque-token"); got != codeOK {
					t.Errorf("%s", got)
				}
			}
		})
	}
	key := p256Key()
	for name, o := range map[string]opts{
		"loopback name":    {phantom.WithIssuer("http://localhost:8443/realm")},
		"loopback address": {phantom.WithIssuer("http://127.0.0.1:8443")},
		"loopback IPv6":    {phantom.WithIssuer("http://[::1]:8443")},
		"insecure":         {phantom.WithIssuer("http://as.test"), phantom.WithInsecureHTTP(), phantom.WithJWKSURL("http://as.test/jwks")},
		"@ in a path":      {phantom.WithIssuer("https://as.test/@tenant"), phantom.WithJWKSURL("https://as.test/@tenant/jwks")},
		"upper-case URL":   {phantom.WithIssuer("HTTPS://AS.test/Path/")},
		"query":            {phantom.WithIntrospectionEndpoint("https://as.test/introspect?tenant=1")},
		"static keys":      {phantom.WithKeySet(phantom.StaticKeys(key.Public(), rsaKey().Public(), edKey().Public()))},
		"assertion":        {phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "", "ES256", key))},
		"certificate":      {phantom.WithClientAuth(phantom.TLSClientAuth(clientID)), phantom.WithHTTPClient(&http.Client{Transport: &http.Transport{}})},
		"no credentials":   {phantom.WithClientAuth(phantom.NoClientAuth())},
		"own credentials":  {phantom.WithClientAuth(&pointerHook{})},
		"member":           {phantom.WithJSONResponse("jwt")},
		"metadata URL":     {phantom.WithResourceMetadataURL("https://rs.test/.well-known/oauth-protected-resource")},
		"local metadata":   {phantom.WithResourceMetadataURL("http://localhost:8080/.well-known/oauth-protected-resource")},
	} {
		if got := faultsOf(t, append(basics(), o...)...); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := faultsOf(t, append(basics("WithClientAuth"), phantom.WithIntrospector(&pointerHook{}))...); got != nil {
		t.Errorf("introspector: %q", got)
	}
	if got := faultsOf(t, append(basics("WithAudience"), phantom.WithoutAudienceCheck())...); got != nil {
		t.Errorf("no audience check: %q", got)
	}
}

// An Option is a value: it can be used again, and later changes of what it was
// made of do not reach it.
func TestOptionsAreValues(t *testing.T) {
	as := newAS(t)
	ran := 0
	opts := as.options(phantom.WithRequirements(func(*phantom.Token) error { ran++; return nil }))
	first, second := must(phantom.New(opts...)), must(phantom.New(opts...))
	for _, m := range []*phantom.Middleware{first, second} {
		if got := as.try(m, "opaque-token"); got != codeOK {
			t.Errorf("%s", got)
		}
	}
	if ran != 2 {
		t.Errorf("the requirement ran %d times", ran)
	}
	audiences, algorithms := []string{audience}, []string{"ES256"}
	m := as.middleware(phantom.WithAudience(audiences...), phantom.WithAlgorithms(algorithms...))
	again := append(as.options(), phantom.WithAudience(audiences...))
	audiences[0], algorithms[0] = "https://other.test", "RS256"
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s", got)
	}
	if got := as.try(must(phantom.New(again...)), "opaque-token"); got != codeOK {
		t.Errorf("%s", got)
	}
}

func TestNewDoesNoIO(t *testing.T) {
	as := newAS(t)
	must(phantom.New(append(basics(), phantom.WithHTTPClient(&http.Client{Transport: as}))...))
	as.middleware()
	if n := len(as.requests); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// Nothing that is passed around shows a credential when it is printed.
func TestPrintedConfiguration(t *testing.T) {
	as := newAS(t)
	auths := []phantom.ClientAuth{
		phantom.ClientSecretBasic(clientID, clientSecret), phantom.ClientSecretPost(clientID, clientSecret),
		phantom.BearerToken(func(context.Context) (string, error) { return clientSecret, nil }),
	}
	for _, auth := range auths {
		option := phantom.WithClientAuth(auth)
		m := as.middleware(option)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			for _, v := range []any{auth, option, []any{auth, option}, m} {
				if found := as.leaks(fmt.Sprintf(verb, v)); found != nil {
					t.Errorf("%s of %T shows a secret", verb, v)
				}
			}
		}
	}
}

// The parameters that the configuration puts into challenges: on each of them,
// and on nothing else.
func TestChallengeParameters(t *testing.T) {
	const metadata = "https://rs.test/.well-known/oauth-protected-resource"
	for _, c := range []struct {
		name         string
		options      []phantom.Option
		first, after string
	}{
		{"realm", []phantom.Option{phantom.WithRealm("orders")}, `realm="orders"`, ""},
		{"realm to be escaped", []phantom.Option{phantom.WithRealm(` a "b" \c, d=e `)}, `realm=" a \"b\" \\c, d=e "`, ""},
		{"metadata", []phantom.Option{phantom.WithResourceMetadataURL(metadata)}, `realm="api"`, `, resource_metadata="` + metadata + `"`},
		{"both", []phantom.Option{phantom.WithResourceMetadataURL(metadata), phantom.WithRealm("r")}, `realm="r"`, `, resource_metadata="` + metadata + `"`},
	} {
		for _, s := range rejectedSetups {
			t.Run(c.name+"/"+s.code, func(t *testing.T) {
				as := newAS(t)
				as.introspect = s.introspect
				r := get(s.authorization...)
				r.Host = "evil.test" // nothing is made of what the client says
				r.Header.Set("X-Forwarded-Host", "evil.test")
				rec := serve(as.middleware(append(s.options, c.options...)...).Handler(&spy{}), r)
				want := ""
				if rest, ok := strings.CutPrefix(rejections[s.code].challenge, `Bearer realm="api"`); ok {
					want = "Bearer " + c.first + rest + c.after
				}
				if got := strings.Join(rec.Header()["Www-Authenticate"], "; "); got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
			})
		}
	}
}

func fromCookie(r *http.Request) (string, error) {
	cookie, err := r.Cookie("token")
	if err != nil {
		return "", nil
	}
	return cookie.Value, nil
}

func TestTokenExtractor(t *testing.T) {
	give := func(token string, err error) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return token, err }
	}
	for _, c := range []struct {
		name     string
		extract  func(*http.Request) (string, error)
		required string
		optional string // without an Authorization field
	}{
		{"a token", give("good-token", nil), codeOK, codeOK},
		{"a bad token", give("bad-token", nil), code401T, code401T},
		{"no token", give("", nil), code401N, "anonymous"},
		{"ErrNoToken", give("", phantom.ErrNoToken), code401N, "anonymous"},
		{"ErrNoToken, wrapped", give("", fmt.Errorf("good-token: %w", phantom.ErrNoToken)), code401N, "anonymous"},
		{"a token beside an error", give("good-token", errors.New("good-token")), code400R, code400R},
		{"any error", give("", errors.New("good-token")), code400R, code400R},
		{"ErrInvalidRequest", give("", phantom.ErrInvalidRequest), code400R, code400R},
		{"ErrInvalidToken", give("", phantom.ErrInvalidToken), code401T, code401T},
		{"ErrUnavailable", give("", phantom.ErrUnavailable), code503A, code503A},
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
		t.Run(c.name, func(t *testing.T) {
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
			m := as.middleware(phantom.WithTokenExtractor(c.extract))
			if got := as.send(m.Handler, get()); got != c.required {
				t.Errorf("Handler: %s, want %s", got, c.required)
			}
			if got := codeOf(m.Authenticate(get())); got != c.required {
				t.Errorf("Authenticate: %s, want %s", got, c.required)
			}
			// With the field nobody is anonymous.
			if got := as.send(m.Optional, get("Basic Zm9v")); got != c.required {
				t.Errorf("Optional with Authorization: %s, want %s", got, c.required)
			}
			next := &spy{}
			got := as.outcome(serve(m.Optional(next), get()), next, 0)
			if got == codeOK && next.tokens[0] == nil {
				got = "anonymous"
			}
			if got != c.optional {
				t.Errorf("Optional: %s, want %s", got, c.optional)
			}
		})
	}
}

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

// A request that is made with the context of another one, and that brings a
// token of its own where the extractor looks, is not let in by the other's.
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
	for token, want := range map[string]string{
		"alice": "alice", "": "alice", "none": "alice",
		"bob": "bob", "revoked": code401T, "broken": code400R, "not a b64token": code400R,
	} {
		for how, inner := range map[string]func(*http.Request) *http.Request{
			"a new request": func(r *http.Request) *http.Request { return get().WithContext(r.Context()) },
			"a clone":       func(r *http.Request) *http.Request { return r.Clone(r.Context()) },
		} {
			got := ""
			outer := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				r = inner(r)
				r.Header.Set("X-Token", token)
				next := &spy{}
				if got = as.outcome(serve(m.Handler(next), r), next, 0); got == codeOK {
					got = next.tokens[0].Subject()
				}
				tok, err := m.Authenticate(r)
				if err == nil && tok.Subject() != want || err != nil && codeOf(tok, err) != want {
					t.Errorf("%s with %q: Authenticate: %v", how, token, err)
				}
			}))
			r := get()
			r.Header.Set("X-Token", "alice")
			if serve(outer, r); got != want {
				t.Errorf("%s with %q: %s, want %s", how, token, got, want)
			}
		}
	}
}

// TestErrorHandler has what a handler can do. Whatever it is, the client is
// told that the request was rejected.
func TestErrorHandler(t *testing.T) {
	type handler = phantom.ErrorHandler
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	for _, c := range []struct {
		name    string
		handler handler
		status  int // 0: that of the rejection
		body    string
		header  http.Header // beside what each rejection has
	}{
		{"nothing", func(http.ResponseWriter, *http.Request, *phantom.Error) {}, 0, "default", problem},
		{"header only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Content-Length", "3")
			w.Header().Set("X-Own", "1")
		}, 0, "default", http.Header{"Content-Type": {"application/problem+json"}, "X-Own": {"1"}}},
		{"header lost, nothing written", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { clear(w.Header()) }, 0, "default", problem},
		{"body only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			io.WriteString(w, "go ")
			io.WriteString(w, "away")
		}, 0, "go away", nil},
		{"empty body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.Write(nil) }, 0, "", nil},
		{"copied body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			io.Copy(w, strings.NewReader("go away"))
		}, 0, "go away", nil},
		{"its status", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) { w.WriteHeader(e.StatusCode()) }, 0, "", nil},
		{"status and body", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(e.StatusCode())
			io.WriteString(w, "go away")
		}, 0, "go away", http.Header{"Content-Type": {"text/plain"}}},
		{"http.Error", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			http.Error(w, "go away", e.StatusCode())
		}, 0, "go away\n",
			http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}}},
		{"status of its own", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(418) }, 418, "", nil},
		{"200", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(200)
			io.WriteString(w, `{"errors":[]}`)
		}, 0, `{"errors":[]}`, nil},
		{"a page", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Range", "bytes=0-1")
			http.ServeContent(w, r, "401.txt", time.Time{}, strings.NewReader("go away"))
		}, 0, "go", http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Accept-Ranges": {"bytes"}, "Content-Range": {"bytes 0-1/7"}}},
		{"101", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(101) }, 0, "", nil},
		{"to be kept", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			w.Header().Set("Cache-Control", "public, max-age=60")
			w.WriteHeader(e.StatusCode())
		}, 0, "", nil},
		{"an empty challenge", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			if len(w.Header()["Www-Authenticate"]) > 0 {
				w.Header().Set("WWW-Authenticate", "")
			}
			w.WriteHeader(e.StatusCode())
		}, 0, "", nil},
		{"304", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(304) }, 0, "", nil},
		{"a redirection", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.Header().Set("Location", "/login")
			w.WriteHeader(303)
		}, 303, "", http.Header{"Location": {"/login"}}},
		{"header lost", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			clear(w.Header())
			w.WriteHeader(e.StatusCode())
		}, 0, "", nil},
		{"header lost, body only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			clear(w.Header())
			io.WriteString(w, "go away")
		}, 0, "go away", nil},
		{"two statuses", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(418)
			w.WriteHeader(200)
		}, 418, "", nil},
		{"flush, then a body", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			http.NewResponseController(w).Flush()
			io.WriteString(w, "go away")
		}, 0, "go away", nil},
		{"flush only", func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { http.NewResponseController(w).Flush() }, 0, "", nil},
		{"a field of its own", func(w http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			w.Header().Set("X-Own", "1")
			w.WriteHeader(e.StatusCode())
		}, 0, "", http.Header{"X-Own": {"1"}}},
		{"a changed error", func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) {
			*e = phantom.Error{Reason: phantom.ReasonInternal}
		}, 0, "default", problem},
		{"another time to come again", func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) { e.RetryAfter = time.Hour }, 0, "default", problem},
	} {
		for _, s := range rejectedSetups {
			t.Run(c.name+"/"+s.code, func(t *testing.T) {
				as := newAS(t)
				as.introspect = s.introspect
				want := rejections[s.code]
				next := &spy{}
				h := as.middleware(append(s.options, phantom.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, e *phantom.Error) {
					if got := w.Header(); got.Get("Cache-Control") != "no-store" || got.Get("Www-Authenticate") != want.challenge || got.Get("Retry-After") != want.retryAfter {
						t.Errorf("the handler was given %v", got)
					}
					if fmt.Sprint(e.StatusCode()) != s.code[:3] || r.URL.Path != "/orders" {
						t.Errorf("the handler was given %v for %v", e, r.URL)
					}
					c.handler(w, r, e)
				}))...).Handler(next)
				rec := serve(h, get(s.authorization...))
				if next.calls() != 0 {
					t.Error("next ran")
				}
				wantHeader := http.Header{"Cache-Control": {"no-store"}}
				maps.Copy(wantHeader, c.header)
				if want.challenge != "" {
					wantHeader["Www-Authenticate"] = []string{want.challenge}
				}
				if want.retryAfter != "" {
					wantHeader["Retry-After"] = []string{want.retryAfter}
				}
				body, status := c.body, fmt.Sprint(c.status)
				if body == "default" {
					body = fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%s,"detail":%q}`, want.title, s.code[:3], want.detail)
					wantHeader["Content-Length"] = []string{fmt.Sprint(len(body))}
				}
				if c.status == 0 {
					status = s.code[:3]
				}
				got := rec.Result()
				delete(got.Header, "Content-Length")
				if body != c.body {
					got.Header = rec.Header()
				}
				if got.Header.Get("Content-Type") == "text/plain; charset=utf-8" && wantHeader["Content-Type"] == nil {
					delete(got.Header, "Content-Type") // sniffed by the recorder
				}
				if fmt.Sprint(rec.Code) != status || fmt.Sprint(got.Header) != fmt.Sprint(wantHeader) || rec.Body.String() != body {
					t.Errorf("got  %d %v %q\nwant %s %v %q", rec.Code, got.Header, rec.Body, status, wantHeader, body)
				}
			})
		}
	}
}

// What an outer handler said of the length of the answer that it expected is
// not true of what the error handler writes.
func TestErrorHandlerBehindALength(t *testing.T) {
	as := newAS(t)
	h := as.middleware(phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
		io.WriteString(w, "go away")
	})).Handler(&spy{})
	rec := exchange(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		h.ServeHTTP(w, r)
	}), "GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n")
	if rec.Code != http.StatusUnauthorized || rec.Body.String() != "go away" {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
}

// Over a socket, where a flush or an early hint is sent at once.
func TestErrorHandlerOverASocket(t *testing.T) {
	for name, handler := range map[string]phantom.ErrorHandler{
		"nothing": func(http.ResponseWriter, *http.Request, *phantom.Error) {},
		"flush, then a body": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "go away")
		},
		"deadline, then a body": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "go away")
		},
		"early hints only": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) { w.WriteHeader(103) },
		"early hints, then a body": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(103)
			io.WriteString(w, "go away")
		},
		"copied file": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			io.Copy(w, io.LimitReader(neverEnding('x'), 1<<16))
		},
		"panic": func(http.ResponseWriter, *http.Request, *phantom.Error) { panic("handler") },
		"early hints, then a panic": func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
			w.WriteHeader(103)
			panic("handler")
		},
	} {
		as := newAS(t)
		conn, in := dial(t, as.middleware(phantom.WithErrorHandler(handler)).Handler(&spy{}))
		must(io.WriteString(conn, "GET / HTTP/1.1\r\nHost: rs.test\r\nConnection: close\r\n\r\n"))
		resp := must(http.ReadResponse(in, nil))
		for resp.StatusCode < 200 {
			resp = must(http.ReadResponse(in, nil))
		}
		want := http.StatusUnauthorized
		if strings.HasSuffix(name, "panic") {
			want = http.StatusInternalServerError
		}
		if resp.StatusCode != want || resp.Header.Get("Cache-Control") != "no-store" || (resp.Header.Get("Www-Authenticate") != "") != (want == 401) {
			t.Errorf("%s: %d %v", name, resp.StatusCode, resp.Header)
		}
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

func TestErrorHandlerThatPanics(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(http.ResponseWriter)
		value  any
		passes bool
	}{
		{"at once", func(http.ResponseWriter) {}, "a secret value", false},
		{"with an error", func(http.ResponseWriter) {}, errors.New("a secret value"), false},
		{"with nil", func(http.ResponseWriter) {}, nil, false},
		{"after a header", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "7") }, "a secret value", false},
		{"to abort", func(http.ResponseWriter) {}, http.ErrAbortHandler, true},
		{"to abort, after a part", func(w http.ResponseWriter) { io.WriteString(w, "part") }, http.ErrAbortHandler, true},
		{"after a status", func(w http.ResponseWriter) { w.WriteHeader(401) }, "a secret value", true},
		{"after a part", func(w http.ResponseWriter) { io.WriteString(w, "part") }, "a secret value", true},
	} {
		for _, s := range rejectedSetups {
			t.Run(c.name+"/"+s.code, func(t *testing.T) {
				as := newAS(t)
				as.secret("a secret value")
				as.introspect = s.introspect
				next := &spy{}
				h := as.middleware(append(s.options, phantom.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ *phantom.Error) {
					c.before(w)
					panic(c.value)
				}))...).Handler(next)
				rec := httptest.NewRecorder()
				func() {
					defer func() {
						if p := recover(); (p != nil) != c.passes || c.passes && p != c.value {
							t.Errorf("the panic came out as %v", p)
						}
					}()
					h.ServeHTTP(rec, get(s.authorization...))
				}()
				if next.calls() != 0 {
					t.Error("next ran")
				}
				if c.passes {
					return // the server aborts the connection
				}
				checkRejection(t, rec, code500I, false)
				as.checkLog("level=ERROR", "reason=internal", "status=500", "options_test.go")
			})
		}
	}
}

// A logger is a hook too. When it panics there is nobody left to tell, so the
// panic goes to the server; what counts is that it lets nobody through.
func TestLoggerThatPanics(t *testing.T) {
	as := newAS(t)
	m := as.middleware(phantom.WithLogger(slog.New(panickingHandler{})))
	for _, authorization := range []string{"Bearer opaque-token", "Bearer a b", "Basic Zm9v"} {
		next := &spy{}
		rec := httptest.NewRecorder()
		func() {
			defer func() { _ = recover() }()
			m.Handler(next).ServeHTTP(rec, get(authorization))
		}()
		if next.calls() != 0 || rec.Body.String() == "served" {
			t.Errorf("%s: next ran", authorization)
		}
	}
}

type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("disk full") }
