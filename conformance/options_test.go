package conformance_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// basics are the smallest configuration, without the options of the given
// names.
func basics(without ...string) []phantom.Option {
	var options []phantom.Option
	for _, basic := range []struct {
		name   string
		option phantom.Option
	}{
		{"WithIssuer", phantom.WithIssuer(issuer)},
		{"WithAudience", phantom.WithAudience(audience)},
		{"WithClientAuth", phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, clientSecret))},
	} {
		if !slices.Contains(without, basic.name) {
			options = append(options, basic.option)
		}
	}
	return options
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
		text := "phantom: " + fault.Option + ": " + fault.Reason
		if fault.Reason == "" || one.Error() != text || !strings.Contains(err.Error(), text) {
			t.Errorf("%#v reads %q", fault, one)
		}
		names = append(names, fault.Option)
	}
	secrets := fakeAS{secrets: map[string]bool{clientSecret: true, "hunter2": true}}
	if found := secrets.leaks(err.Error()); found != nil {
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

func (*pointerHook) Authenticate(*http.Request, url.Values) error { return nil }

func (f askHook) Introspect(ctx context.Context, token string) (*phantom.Introspection, error) {
	return f(ctx, token)
}

func (f authHook) Authenticate(r *http.Request, form url.Values) error { return f(r, form) }

// A configFault is a mistake in the options.
type configFault struct {
	name    string
	without string // the one of basics that options replace
	options []phantom.Option
	want    []string // the options that New finds fault with
}

// urlFaults are mistakes in what tokens and endpoints are known by.
func urlFaults() []configFault {
	type opts = []phantom.Option
	return []configFault{
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
	}
}

// keyFaults are mistakes in where the keys come from.
func keyFaults() []configFault {
	type opts = []phantom.Option
	smallRSA := &rsa.PublicKey{N: must(rand.Prime(rand.Reader, 1024)), E: 65537}
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	ecKey := p256Key()
	return []configFault{
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
	}
}

// credentialFaults are mistakes in how the server is asked.
func credentialFaults() []configFault {
	type opts = []phantom.Option
	introspector := askHook(func(context.Context, string) (*phantom.Introspection, error) { return nil, nil })
	return []configFault{
		{"no client authentication", "WithClientAuth", nil, []string{"WithClientAuth"}},
		{"nil client authentication", "", opts{phantom.WithClientAuth(nil)}, []string{"WithClientAuth"}},
		{"typed nil client authentication", "", opts{phantom.WithClientAuth((*pointerHook)(nil))}, []string{"WithClientAuth"}},
		{"nil client authentication function", "", opts{phantom.WithClientAuth(authHook(nil))}, []string{"WithClientAuth"}},
		{"basic without id", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic("", "hunter2"))}, []string{"WithClientAuth"}},
		{"basic without secret", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, ""))}, []string{"WithClientAuth"}},
		{"basic without both", "", opts{phantom.WithClientAuth(phantom.ClientSecretBasic("", ""))}, []string{"WithClientAuth"}},
		{"post without id", "", opts{phantom.WithClientAuth(phantom.ClientSecretPost("", "hunter2"))}, []string{"WithClientAuth"}},
		{"post without secret", "", opts{phantom.WithClientAuth(phantom.ClientSecretPost(clientID, ""))}, []string{"WithClientAuth"}},
		{"assertion without id", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT("", "k", "ES256", p256Key()))}, []string{"WithClientAuth"}},
		{"assertion without key", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "ES256", nil))}, []string{"WithClientAuth"}},
		{"assertion without algorithm", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "", p256Key()))}, []string{"WithClientAuth"}},
		{"assertion of another algorithm", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "RS256", p256Key()))}, []string{"WithClientAuth"}},
		{"assertion by shared secret", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "HS256", p256Key()))}, []string{"WithClientAuth"}},
		{"assertion without a signature", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", "none", p256Key()))}, []string{"WithClientAuth"}},
		{"certificate without id", "", opts{
			phantom.WithClientAuth(phantom.TLSClientAuth("")),
			phantom.WithHTTPClient(&http.Client{Transport: withCertificate()}),
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
	}
}

// valueFaults are mistakes in values and hooks, and no mistake at all.
func valueFaults() []configFault {
	type opts = []phantom.Option
	return []configFault{
		{"nothing wrong", "", nil, nil},

		{"nil option", "", opts{nil}, []string{"Option"}},
		{"two nil options", "", opts{nil, nil}, []string{"Option", "Option"}},

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
		{"negative cache", "", opts{phantom.WithCacheSize(-1)}, []string{"WithCacheSize"}},
		{"negative TTL", "", opts{phantom.WithMaxTTL(-1)}, []string{"WithMaxTTL"}},
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
	}
}

// New finds each mistake, made alone, and names its option and nothing else.
//
// Catalogue: C222.
func TestConfigErrors(t *testing.T) {
	for _, tc := range slices.Concat(urlFaults(), keyFaults(), credentialFaults(), valueFaults()) {
		t.Run(tc.name, func(t *testing.T) {
			if got := faultsOf(t, append(basics(tc.without), tc.options...)...); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// New finds a nil or broken private key. Neither the line with the option
// panics, nor does the first lookup have to fail.
func TestConfigErrorsOfUnfitKeys(t *testing.T) {
	for _, tc := range []struct {
		name, alg string
		key       crypto.Signer
	}{
		{"RSA", "RS256", (*rsa.PrivateKey)(nil)},
		{"EC", "ES256", (*ecdsa.PrivateKey)(nil)},
		{"Ed25519", "EdDSA", ed25519.PrivateKey(nil)},
		{"short Ed25519", "EdDSA", make(ed25519.PrivateKey, 5)},
		{"a seed for an Ed25519", "EdDSA", make(ed25519.PrivateKey, ed25519.SeedSize)},
		{"empty RSA", "RS256", &rsa.PrivateKey{}},
		{"empty EC", "ES256", &ecdsa.PrivateKey{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			option := phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k", tc.alg, tc.key))
			got := faultsOf(t, append(basics("WithClientAuth"), option)...)
			if !slices.Equal(got, []string{"WithClientAuth"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

// New tells all mistakes at once, in the same order each time.
func TestConfigErrorsTogether(t *testing.T) {
	opts := []phantom.Option{
		phantom.WithIssuer("http://as.test?key=hunter2"), phantom.WithAudience(), phantom.WithoutAudienceCheck(),
		phantom.WithIntrospectionEndpoint("gateway:hunter2@as.test"), phantom.WithJWKSURL(""), phantom.WithKeySet(nil),
		phantom.WithClientAuth(phantom.ClientSecretBasic("", "hunter2")), nil,
		phantom.WithJSONResponse(""), phantom.WithAlgorithms("none"), phantom.WithLeeway(-1), phantom.WithCacheSize(-1),
		phantom.WithMaxTTL(-1), phantom.WithNegativeTTL(-1), phantom.WithStaleIfError(-1), phantom.WithRefreshAhead(2),
		phantom.WithTimeout(0), phantom.WithMaxInFlight(0), phantom.WithHTTPClient(nil),
		phantom.WithTokenExtractor(nil), phantom.WithErrorHandler(nil), phantom.WithRealm(""),
		phantom.WithResourceMetadataURL(""),
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
	_, err := phantom.New(nil)
	if !errors.As(err, &fault) || fault.Option != "Option" || fault.Reason != "argument 1 is nil" {
		t.Errorf("%v", err)
	}
}

// What New accepts works: a request gets through, and another one.
//
// Catalogue: C222.
func TestConfigurations(t *testing.T) {
	type opts = []phantom.Option
	for _, tc := range []struct {
		name    string
		options []phantom.Option
	}{
		{"defaults", nil},
		{"all audiences", opts{phantom.WithAudience("https://other.test", audience)}},
		{"leeway 0", opts{phantom.WithLeeway(0)}},
		{"leeway 5 min", opts{phantom.WithLeeway(5 * time.Minute)}},
		{"cache 0", opts{phantom.WithCacheSize(0)}},
		{"cache 1", opts{phantom.WithCacheSize(1)}},
		{"largest cache", opts{phantom.WithCacheSize(math.MaxInt)}},
		{"TTL 0", opts{phantom.WithMaxTTL(0)}},
		{"NegTTL 0", opts{phantom.WithNegativeTTL(0)}},
		{"longest times", opts{
			phantom.WithMaxTTL(math.MaxInt64), phantom.WithNegativeTTL(math.MaxInt64),
			phantom.WithStaleIfError(math.MaxInt64), phantom.WithTimeout(math.MaxInt64),
		}},
		{"shortest times", opts{
			phantom.WithMaxTTL(time.Millisecond), phantom.WithNegativeTTL(time.Millisecond),
			phantom.WithStaleIfError(time.Millisecond), phantom.WithLeeway(time.Millisecond),
		}},
		{"refresh off", opts{phantom.WithRefreshAhead(0)}},
		{"refresh early", opts{phantom.WithRefreshAhead(math.SmallestNonzeroFloat64)}},
		{"one in flight", opts{phantom.WithMaxInFlight(1)}},
		{"most in flight", opts{phantom.WithMaxInFlight(math.MaxInt)}},
		{"algorithms", opts{phantom.WithAlgorithms("ES256", "ES256")}},
		{"Cache-Control", opts{phantom.WithStrictCacheControl()}},
		{"strict", opts{phantom.WithRFC9068()}},
		{"requirements", opts{phantom.WithRequirements(phantom.AllScopes("read"))}},
		{"insecure", opts{phantom.WithInsecureHTTP()}},
		{"the last one counts", opts{
			phantom.WithRealm(""), phantom.WithRealm("b"), phantom.WithTimeout(0), phantom.WithTimeout(time.Second),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			m := as.middleware(tc.options...)
			for range 2 {
				if got := as.try(m, "opaque-token"); got != codeOK {
					t.Errorf("%s", got)
				}
			}
		})
	}
}

// New finds no fault with endpoints, keys and credentials of every permitted
// kind.
func TestConfigurationsWithoutFault(t *testing.T) {
	type opts = []phantom.Option
	key := p256Key()
	for _, tc := range []struct {
		name    string
		without string // the one of basics that options replace
		options []phantom.Option
	}{
		{"loopback name", "", opts{phantom.WithIssuer("http://localhost:8443/realm")}},
		{"loopback address", "", opts{phantom.WithIssuer("http://127.0.0.1:8443")}},
		{"loopback IPv6", "", opts{phantom.WithIssuer("http://[::1]:8443")}},
		{"insecure", "", opts{phantom.WithIssuer("http://as.test"), phantom.WithInsecureHTTP(), phantom.WithJWKSURL("http://as.test/jwks")}},
		{"@ in a path", "", opts{phantom.WithIssuer("https://as.test/@tenant"), phantom.WithJWKSURL("https://as.test/@tenant/jwks")}},
		{"upper-case URL", "", opts{phantom.WithIssuer("HTTPS://AS.test/Path/")}},
		{"query", "", opts{phantom.WithIntrospectionEndpoint("https://as.test/introspect?tenant=1")}},
		{"static keys", "", opts{phantom.WithKeySet(phantom.StaticKeys(key.Public(), rsaKey().Public(), edKey().Public()))}},
		{"assertion", "", opts{phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "", "ES256", key))}},
		{"certificate", "", opts{phantom.WithClientAuth(phantom.TLSClientAuth(clientID)), phantom.WithHTTPClient(&http.Client{Transport: withCertificate()})}},
		{"no credentials", "", opts{phantom.WithClientAuth(phantom.NoClientAuth())}},
		{"own credentials", "", opts{phantom.WithClientAuth(&pointerHook{})}},
		{"member", "", opts{phantom.WithJSONResponse("jwt")}},
		{"metadata URL", "", opts{phantom.WithResourceMetadataURL("https://rs.test/.well-known/oauth-protected-resource")}},
		{"local metadata", "", opts{phantom.WithResourceMetadataURL("http://localhost:8080/.well-known/oauth-protected-resource")}},
		{"introspector", "WithClientAuth", opts{phantom.WithIntrospector(&pointerHook{})}},
		{"no audience check", "WithAudience", opts{phantom.WithoutAudienceCheck()}},
	} {
		if got := faultsOf(t, append(basics(tc.without), tc.options...)...); got != nil {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

// An Option is a value. It can be used again, and later changes of what it was
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

// withCertificate returns a transport with a client certificate.
func withCertificate() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{{}}, MinVersion: tls.VersionTLS12}}
}

// A transport of net/http is asked whether it has a certificate. What cannot be
// seen is believed.
//
// Catalogue: Q11.
func TestTLSClientAuthNeedsACertificate(t *testing.T) {
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }
	tlsConfig := func(c *tls.Config) *http.Transport { return &http.Transport{TLSClientConfig: c} }
	for _, tc := range []struct {
		name      string
		transport http.RoundTripper
		want      string // the fault; empty: none
	}{
		{"empty", &http.Transport{}, "the transport of WithHTTPClient has none"},
		{"default", http.DefaultTransport, "the transport of WithHTTPClient has none"},
		{"roots alone", tlsConfig(&tls.Config{RootCAs: x509.NewCertPool()}), "set Certificates or GetClientCertificate"},
		{"a dialer for plain connections", &http.Transport{DialContext: dial}, "the transport of WithHTTPClient has none"},
		{"no transport", nil, "needs WithHTTPClient"},
		{"certificate", withCertificate(), ""},
		{"certificate on demand", tlsConfig(&tls.Config{
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, io.EOF },
		}), ""},
		{"own TLS", &http.Transport{DialTLSContext: dial}, ""},
		{"own TLS, the old way", &http.Transport{
			DialTLS: func(string, string) (net.Conn, error) { return nil, io.EOF }, //nolint:staticcheck // some still do
		}, ""},
		{"another type", newAS(t), ""},
		{"inside another type", struct{ http.RoundTripper }{&http.Transport{}}, ""},
	} {
		_, err := phantom.New(append(basics("WithClientAuth"),
			phantom.WithClientAuth(phantom.TLSClientAuth(clientID)), phantom.WithHTTPClient(&http.Client{Transport: tc.transport}))...)
		checkFault(t, tc.name, err, "WithClientAuth", tc.want)
	}
}

// checkFault checks that err is one fault of the option, with a text that has
// the given part and no secret. Without a part there is no fault.
func checkFault(t *testing.T, name string, err error, option, part string) {
	t.Helper()
	if part == "" {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	var fault *phantom.ConfigError
	if !errors.As(err, &fault) || fault.Option != option || !strings.Contains(fault.Reason, part) ||
		strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("%s: %v, want a fault of %s with %q", name, err, option, part)
	}
}

// The text of a fault in a URL quotes what may be shown and names the way out.
// It never shows a password.
//
// Catalogue: Q11.
func TestConfigErrorsOfURLs(t *testing.T) {
	type maker = func(string) phantom.Option
	makers := map[string]maker{
		"WithIssuer": phantom.WithIssuer, "WithIntrospectionEndpoint": phantom.WithIntrospectionEndpoint,
		"WithJWKSURL": phantom.WithJWKSURL, "WithResourceMetadataURL": phantom.WithResourceMetadataURL,
	}
	for _, tc := range []struct{ url, want string }{
		{"https://gw:hunter2@as.test/", `"…@as.test/" has credentials in the URL`},
		{"https://gw:hunter2@as.test/?x", `"…@as.test/" has credentials in the URL`},
		{"https://gw:hunter2@as.test/?hunter2#hunter2", `"…@as.test/" has credentials in the URL`},
		{"https://gw:hunter@2@as.test/", `"…@as.test/" has credentials in the URL`},
		{"https://hunter2@as.test", `"…@as.test" has credentials in the URL`},
		{"gw:hunter2@as.test/introspect?x", `"…@as.test/introspect" is not an absolute URL`},
		{"//gw:hunter2@as.test", `"…@as.test" has credentials in the URL`},
		{"https:/gw:hunter2@as.test", `"…@as.test" is not an absolute URL`},
		{"https:gw:hunter2@as.test?x", `"…@as.test" is not an absolute URL`},
		{"https://gw:hunter2@", `"…@" has credentials in the URL`},
		{"https://as.test/%zz?hunter2", "not a URL"},
		{"http://as.test/x?hunter2", `"http://as.test/x" is not https; see WithInsecureHTTP`},
		{"http://localhost.as.test", `"http://localhost.as.test" is not https; see WithInsecureHTTP`},
		{"ftp://as.test", `"ftp://as.test" is not https`},
		{"as.test?hunter2", `"as.test" is not an absolute URL`},
		{"https://as.test/#hunter2", `"https://as.test/" has a fragment`},
	} {
		for option, with := range makers {
			_, err := phantom.New(append(basics(), with(tc.url))...)
			checkFault(t, tc.url, errors.Join(firstOf(err)), option, tc.want)
			if strings.Contains(err.Error(), "hunter") {
				t.Errorf("%s: the password is shown: %v", option, err)
			}
		}
	}
	for _, url := range []string{"https://as.test?key=hunter2", "https://gw:hunter2@as.test/?x", "http://gw:hunter2@as.test/?x"} {
		_, err := phantom.New(append(basics("WithIssuer"), phantom.WithIssuer(url))...)
		if !strings.Contains(err.Error(), "has a query") || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// firstOf returns the first of joined errors.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()[0]
	}
	return err
}

// A number in place of a duration counts nanoseconds. No option takes that for
// meant.
//
// Catalogue: Q11.
func TestConfigErrorsOfDurations(t *testing.T) {
	for option, with := range map[string]func(time.Duration) phantom.Option{
		"WithLeeway": phantom.WithLeeway, "WithMaxTTL": phantom.WithMaxTTL, "WithNegativeTTL": phantom.WithNegativeTTL,
		"WithStaleIfError": phantom.WithStaleIfError, "WithTimeout": phantom.WithTimeout,
	} {
		for _, tc := range []struct {
			value time.Duration
			want  string
		}{
			{-1, "-1ns is negative"},
			{-time.Hour, "-1h0m0s is negative"},
			{1, "1ns is less than a millisecond"},
			{60, "60ns is less than a millisecond: a number without a unit counts nanoseconds, 60 seconds are 60*time.Second"},
			{300_000, "300µs is less than a millisecond"},
			{time.Millisecond - 1, "999.999µs is less than a millisecond"},
			{time.Millisecond, ""},
			{time.Second, ""},
		} {
			_, err := phantom.New(append(basics(), with(tc.value))...)
			checkFault(t, option+" "+tc.value.String(), err, option, tc.want)
		}
	}
}

// A text that was read together with the end of its line is found by New, not
// by the authorization server. A secret is not shown.
//
// Catalogue: Q11.
func TestConfigErrorsOfControlCharacters(t *testing.T) {
	basic, post := phantom.ClientSecretBasic, phantom.ClientSecretPost
	for _, control := range []string{"\n", "\r\n", "\t", "\x00", "\x1f", "\x7f", "\u0085"} {
		for _, text := range []string{"hunter2" + control, control + "hunter2", "hun" + control + "ter2"} {
			for _, tc := range []struct {
				name string
				auth phantom.ClientAuth
				want string
			}{
				{"basic id", basic(text, "s"), "the client id has a control character"},
				{"basic secret", basic("app", text), "the client secret has a control character"},
				{"post id", post(text, "s"), "the client id has a control character"},
				{"post secret", post("app", text), "the client secret has a control character"},
				{"assertion id", phantom.PrivateKeyJWT(text, "k", "ES256", p256Key()), "the client id has a control character"},
				{"assertion key id", phantom.PrivateKeyJWT("app", text, "ES256", p256Key()), "the key id has a control character"},
				{"certificate id", phantom.TLSClientAuth(text), "the client id has a control character"},
			} {
				_, err := phantom.New(append(basics("WithClientAuth"), phantom.WithClientAuth(tc.auth))...)
				checkFault(t, tc.name, err, "WithClientAuth", tc.want)
				if err := tc.auth.Authenticate(get(), url.Values{}); err == nil || strings.Contains(err.Error(), "hunter") {
					t.Errorf("%s: Authenticate: %v", tc.name, err)
				}
			}
		}
		for _, values := range [][]string{{audience + control}, {audience, control}, {control + audience, "b"}} {
			_, err := phantom.New(append(basics("WithAudience"), phantom.WithAudience(values...))...)
			checkFault(t, "audience", err, "WithAudience", fmt.Sprintf("%q: a value has a control character", values))
		}
	}
}

// New sends no request.
func TestNewDoesNoIO(t *testing.T) {
	as := newAS(t)
	must(phantom.New(append(basics(), phantom.WithHTTPClient(&http.Client{Transport: as}))...))
	as.middleware()
	if n := len(as.requests); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// A credential, an option or a Middleware that is printed shows no secret.
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

// Each challenge carries the configured realm and metadata URL. Answers without
// a challenge carry neither, and nothing comes from the request.
func TestChallengeParameters(t *testing.T) {
	const metadata = "https://rs.test/.well-known/oauth-protected-resource"
	for _, tc := range []struct {
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
			t.Run(tc.name+"/"+s.code, func(t *testing.T) {
				as := newAS(t)
				as.introspect = s.introspect
				r := get(s.authorization...)
				r.Host = "evil.test" // nothing is made of what the client says
				r.Header.Set("X-Forwarded-Host", "evil.test")
				rec := serve(as.middleware(append(s.options, tc.options...)...).Handler(&spy{}), r)
				want := ""
				if rest, ok := strings.CutPrefix(rejections[s.code].challenge, `Bearer realm="api"`); ok {
					want = "Bearer " + tc.first + rest + tc.after
				}
				if got := strings.Join(rec.Header()["Www-Authenticate"], "; "); got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
			})
		}
	}
}

// A newcomer's first mistakes are told with the way out.
func TestConfigErrorsNameTheWayOut(t *testing.T) {
	for _, tc := range []struct {
		without string
		option  phantom.Option
		want    string
	}{
		{"WithIssuer", nil, "WithIssuer: is required: the URL that the server's tokens have in iss"},
		{"WithIssuer", phantom.WithIssuer(""), "WithIssuer: an empty value, as of a variable that is not set"},
		{"WithAudience", nil, "WithAudience: is required: what the server's tokens have in aud for this service"},
		{"WithAudience", phantom.WithAudience(""), "WithAudience: an empty value, as of a variable that is not set"},
		{"WithClientAuth", nil, "NoClientAuth is for an endpoint that wants no credentials"},
		{"WithClientAuth", phantom.WithClientAuth(phantom.ClientSecretBasic(clientID, "")),
			"WithClientAuth: empty client secret, as of a variable that is not set"},
		{"WithIssuer", phantom.WithIssuer("http://as.test"), `"http://as.test" is not https; see WithInsecureHTTP`},
		{"", phantom.WithMaxTTL(60), "WithMaxTTL: 60ns is less than a millisecond: a number without a unit"},
		{"", phantom.WithLogger(nil), "WithLogger: nil: leave the option out for the default"},
		{"", phantom.WithStore(phantomtest.NewStore(), make([]byte, 16)), "openssl rand -base64 32"},
		{"", phantom.WithClientSubject(""), `such as "client:"`},
	} {
		opts := basics(tc.without)
		if tc.option != nil {
			opts = append(opts, tc.option)
		}
		if _, err := phantom.New(opts...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q", err, tc.want)
		}
	}
}
