package conformance_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// StaticKeys verifies with the keys that it was given, of every algorithm, with
// and without a kid, and fetches none.
func TestStaticKeysVerify(t *testing.T) {
	every := allStaticKeys()
	for _, alg := range everyAlgorithm {
		t.Run(alg, func(t *testing.T) {
			for _, tc := range []struct{ name, header string }{
				{"with kid", fmt.Sprintf(`{"alg":%q,"kid":"whatever"}`, alg)},
				{"without kid", fmt.Sprintf(`{"alg":%q}`, alg)},
			} {
				as := newAS(t)
				as.introspect = answerJWT(mintHeader(alg, tc.header, claims(nil)))
				as.tryStatic(t, tc.name, phantom.StaticKeys(keyFor(alg).Public()), codeOK)
				as.tryStatic(t, tc.name+", one of many", every, codeOK)
				stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
				other := phantom.StaticKeys(otherRSA().Public(), stranger.Public())
				as.tryStatic(t, tc.name+", others", other, code401T)
			}
		})
	}
	t.Run("the last of ten of one kind", func(t *testing.T) {
		var keys []crypto.PublicKey
		for range 9 {
			keys = append(keys, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public())
		}
		as := newAS(t)
		as.tryStatic(t, "", phantom.StaticKeys(append(keys, p256Key().Public())...), codeOK)
	})
	t.Run("a copy", func(t *testing.T) {
		pub := ed25519.PublicKey(bytes.Clone(edKey().Public().(ed25519.PublicKey)))
		keys := phantom.StaticKeys(pub)
		clear(pub)
		as := newAS(t)
		as.introspect = newToken
		as.tryStatic(t, "", keys, codeOK)
	})
	t.Run("algorithms", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("RS256", claims(nil)))
		m := must(phantom.New(as.withKeys(every, phantom.WithAlgorithms("PS256"))...))
		if got := as.try(m, "opaque"); got != code401T {
			t.Error(got)
		}
	})
}

// allStaticKeys are the fixture's keys, and a foreign one before them.
func allStaticKeys() phantom.KeySet {
	return phantom.StaticKeys(otherRSA().Public(), rsaKey().Public(), p256Key().Public(), p384Key().Public(),
		p521Key().Public(), edKey().Public())
}

// withKeys is the fixture's configuration with a key set in place of the JWKS
// URL.
func (as *fakeAS) withKeys(keys phantom.KeySet, extra ...phantom.Option) []phantom.Option {
	options := as.options()
	options[3] = phantom.WithKeySet(keys)
	return append(options, extra...)
}

// tryStatic checks the outcome with the key set, for which no key is fetched.
func (as *fakeAS) tryStatic(t *testing.T, name string, keys phantom.KeySet, want string) {
	t.Helper()
	m, err := phantom.New(as.withKeys(keys)...)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if err := m.Warm(t.Context()); err != nil {
		t.Errorf("%s: Warm: %v", name, err)
	}
	if got := as.try(m, "opaque"); got != want || as.fetches.Load() != 0 {
		t.Errorf("%s: %s, want %s; %d fetches", name, got, want, as.fetches.Load())
	}
}

// New refuses keys that are not fit to verify with, and the error does not show
// them.
func TestUnfitStaticKeysAreRefused(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	off := &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
	type keys = []crypto.PublicKey
	for _, tc := range []struct {
		name string
		keys keys
	}{
		{"none", keys{}},
		{"nil", keys{nil}},
		{"nil *rsa.PublicKey", keys{(*rsa.PublicKey)(nil)}},
		{"nil *ecdsa.PublicKey", keys{(*ecdsa.PublicKey)(nil)}},
		{"empty *rsa.PublicKey", keys{&rsa.PublicKey{}}},
		{"empty *ecdsa.PublicKey", keys{&ecdsa.PublicKey{}}},
		{"RSA of 1024 bits", keys{weak.Public()}},
		{"RSA of 8200 bits", keys{&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8199), E: 65537}}},
		{"RSA with e = 1", keys{&rsa.PublicKey{N: rsaKey().N, E: 1}}},
		{"RSA with even e", keys{&rsa.PublicKey{N: rsaKey().N, E: 65536}}},
		{"RSA with negative e", keys{&rsa.PublicKey{N: rsaKey().N, E: -3}}},
		{"RSA with negative n", keys{&rsa.PublicKey{N: new(big.Int).Neg(rsaKey().N), E: 65537}}},
		{"RSA by value", keys{rsaKey().PublicKey}},
		{"P-224", keys{p224.Public()}},
		{"EC off the curve", keys{off}},
		{"Ed25519 of 31 bytes", keys{edKey().Public().(ed25519.PublicKey)[:31]}},
		{"Ed25519 of small order", keys{ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))}},
		{"Ed25519 of no bytes", keys{ed25519.PublicKey(nil)}},
		{"a private RSA key", keys{rsaKey()}},
		{"a private EC key", keys{p256Key()}},
		{"a private Ed25519 key", keys{edKey()}},
		{"a secret", keys{[]byte("a-symmetric-key-of-thirty-two-by")}},
		{"a string", keys{"-----BEGIN PUBLIC KEY-----"}},
		{"an unfit one among fit", keys{rsaKey().Public(), weak.Public(), edKey().Public()}},
		{"a fit one twice, no one", keys{edKey().Public(), edKey().Public(), nil}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			m, err := phantom.New(as.withKeys(phantom.StaticKeys(tc.keys...))...)
			var fault *phantom.ConfigError
			if m != nil || !errors.As(err, &fault) || fault.Option != "WithKeySet" {
				t.Fatalf("%v, %v", m, err)
			}
			text := err.Error()
			if strings.Contains(text, "symmetric-key") || strings.Contains(text, "BEGIN") || len(text) > 200 {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

// New refuses a key set that is nil, and one beside a JWKS URL.
func TestUnfitKeySetIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		keys phantom.KeySet
	}{
		{"nil", nil},
		{"typed nil", keySetFunc(nil)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			var fault *phantom.ConfigError
			if _, err := phantom.New(as.withKeys(tc.keys)...); !errors.As(err, &fault) || fault.Option != "WithKeySet" {
				t.Error(err)
			}
		})
	}
	t.Run("beside a JWKS URL", func(t *testing.T) {
		as := newAS(t)
		var fault *phantom.ConfigError
		_, err := phantom.New(as.options(phantom.WithKeySet(phantom.StaticKeys(edKey().Public())))...)
		if !errors.As(err, &fault) || fault.Option != "WithKeySet" || fault.Reason != "excludes WithJWKSURL" {
			t.Errorf("%v", err)
		}
	})
}

// StaticKeys may be used on its own, by any caller who takes a KeySet.
func TestStaticKeysWorkOnTheirOwn(t *testing.T) {
	keys := phantom.StaticKeys(edKey().Public())
	good := mint("EdDSA", claims(nil))
	payload, err := keys.VerifySignature(t.Context(), good)
	if err != nil || !bytes.Equal(payload, must(b64Decode(strings.Split(good, ".")[1]))) {
		t.Errorf("%q, %v", payload, err)
	}
	for _, tc := range []struct {
		name string
		jwt  string
		is   error
	}{
		{"bad signature", withSignature(good, make([]byte, 64)), phantom.ErrInvalidToken},
		{"another alg", mint("RS256", claims(nil)), phantom.ErrInvalidToken},
		{"HMAC", hs256(edKey().Public().(ed25519.PublicKey)), phantom.ErrInvalidToken},
		{"malformed", good + ".", phantom.ErrUpstream},
		{"empty", "", phantom.ErrUpstream},
	} {
		payload, err := keys.VerifySignature(t.Context(), tc.jwt)
		if payload != nil || !errors.Is(err, tc.is) {
			t.Errorf("%s: %q, %v", tc.name, payload, err)
		}
	}
}

func b64Decode(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

type keySetFunc func(ctx context.Context, jwt string) ([]byte, error)

func (f keySetFunc) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return f(ctx, jwt)
}

// payloadOf returns the payload without a look at the signature.
func payloadOf(jwt string) []byte { return must(b64Decode(strings.Split(jwt, ".")[1])) }

type timeoutError struct{}

func (timeoutError) Error() string { return "no route" }

func (timeoutError) Timeout() bool { return true }

func (timeoutError) Temporary() bool { return true }

// What a caller's key set returns decides the verdict: an error of its own
// refuses the JWT, one of the network is an outage, a panic is an internal
// error. None of it is shown, and the next request is judged afresh.
func TestOwnKeySetDecides(t *testing.T) {
	const secret = "text-of-a-foreign-error"
	returns := func(payload []byte, err error) keySetFunc {
		return func(_ context.Context, jwt string) ([]byte, error) {
			if payload == nil && err == nil {
				payload = payloadOf(jwt)
			}
			return payload, err
		}
	}
	panics := func(value any) keySetFunc {
		return func(context.Context, string) ([]byte, error) { panic(value) }
	}
	for _, tc := range []struct {
		name   string
		keys   keySetFunc
		want   string
		detail string
	}{
		{"verifies", returns(nil, nil), codeOK, ""},
		{"another payload", returns([]byte(`{"iss":"https://as.test","sub":"root"}`), nil), code401T, "payload"},
		{"no payload", returns([]byte{}, nil), code401T, "payload"},
		{"payload with a space", func(_ context.Context, jwt string) ([]byte, error) { return append(payloadOf(jwt), ' '), nil }, code401T, "payload"},
		{"payload cut off", func(_ context.Context, jwt string) ([]byte, error) { return payloadOf(jwt)[:10], nil }, code401T, "payload"},
		{"payload nil", func(context.Context, string) ([]byte, error) { return nil, nil }, code401T, "payload"},
		{"plain error", returns(nil, errors.New(secret)), code401T, "signature"},
		{"plain error beside the payload", func(_ context.Context, jwt string) ([]byte, error) { return payloadOf(jwt), errors.New(secret) }, code401T, "signature"},
		{"error that quotes the JWT", func(_ context.Context, jwt string) ([]byte, error) { return nil, errors.New("bad: " + jwt) }, code401T, "signature"},
		{"ErrInvalidToken", returns(nil, fmt.Errorf("%s: %w", secret, phantom.ErrInvalidToken)), code401T, "signature"},
		{"ErrUnavailable", returns(nil, fmt.Errorf("%s: %w", secret, phantom.ErrUnavailable)), code503A, ""},
		{"deadline", returns(nil, fmt.Errorf("%s: %w", secret, context.DeadlineExceeded)), code503A, ""},
		{"cancellation", returns(nil, fmt.Errorf("%s: %w", secret, context.Canceled)), code503A, ""},
		{"network", returns(nil, fmt.Errorf("%s: %w", secret, &net.OpError{Op: "dial", Err: errors.New("refused")})), code503A, ""},
		{"net/http", returns(nil, &url.Error{Op: "Get", URL: "https://as.test/jwks?secret=" + secret, Err: errors.New("EOF")}), code503A, ""},
		{"time-out", returns(nil, errors.Join(errors.New(secret), timeoutError{})), code503A, ""},
		{"ErrUpstream", returns(nil, fmt.Errorf("%s: %w", secret, phantom.ErrUpstream)), code502A, ""},
		{"panics with a string", panics(secret), code500I, ""},
		{"panics with an error", panics(errors.New(secret)), code500I, ""},
		{"panics with http.ErrAbortHandler", panics(http.ErrAbortHandler), code500I, ""},
		{"panics with a nil dereference", func(context.Context, string) ([]byte, error) { return nil, *(*error)(nil) }, code500I, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			jwt := mint("ES256", claims(nil))
			as.secret(jwt)
			as.secret(secret)
			as.introspect = answerJWT(jwt)
			book := as.logBook()
			calls := 0
			broken := true
			m := must(phantom.New(as.withKeys(keySetFunc(func(ctx context.Context, got string) ([]byte, error) {
				calls++
				if got != jwt {
					t.Errorf("asked about %q", got)
				}
				if !broken {
					return payloadOf(got), nil
				}
				return tc.keys(ctx, got)
			}), booked(book))...))
			if err := m.Warm(t.Context()); err != nil || calls != 0 {
				t.Errorf("Warm: %v, %d calls", err, calls)
			}
			if got := as.try(m, "opaque"); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			checkLine(t, book.take(), tc.want, tc.detail)
			broken = false
			if got := as.try(m, "opaque"); got != codeOK {
				t.Errorf("the next request: %s", got)
			}
			wantCalls := 2
			if tc.want == codeOK {
				wantCalls = 1
			}
			if calls != wantCalls || as.calls.Load() != 1+int64(wantCalls) || as.fetches.Load() != 0 {
				t.Errorf("key set asked %d times, server %d times, %d fetches", calls, as.calls.Load(), as.fetches.Load())
			}
		})
	}
}

// The list of algorithms and the parser come first: what they refuse never
// reaches a KeySet.
func TestOwnKeySetIsNotAskedInVain(t *testing.T) {
	good := mint("ES256", claims(nil))
	for _, tc := range []struct{ name, jwt, want string }{
		{"none", b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(goodPayload())) + ".AAAA", code401T},
		{"HMAC", hs256([]byte(clientSecret)), code401T},
		{"alg not listed", mint("RS256", claims(nil)), code401T},
		{"crit", es256(`{"alg":"ES256","crit":["b64"],"b64":false}`, goodPayload()), code401T},
		{"typ", es256(`{"alg":"ES256","typ":"dpop+jwt"}`, goodPayload()), code401T},
		{"four segments", good + ".AAAA", code502A},
		{"sub twice", es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"sub":"b"}`), code502A},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(tc.jwt)
			m := must(phantom.New(as.withKeys(keySetFunc(func(_ context.Context, jwt string) ([]byte, error) {
				t.Error("asked")
				return payloadOf(jwt), nil
			}), phantom.WithAlgorithms("ES256"))...))
			if got := as.try(m, "opaque"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// The claims are checked also when the caller's key set checks the signature.
func TestClaimsAreCheckedAfterAnOwnKeySet(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"iss": "https://other.test"})))
	keys := keySetFunc(func(_ context.Context, jwt string) ([]byte, error) { return payloadOf(jwt), nil })
	if got := as.try(must(phantom.New(as.withKeys(keys)...)), "opaque"); got != code401T {
		t.Error(got)
	}
}

// A caller's key set that hangs, or ends its goroutine, costs a request the
// time of one lookup. The next request is judged afresh.
func TestOwnKeySetThatHangsIsLeft(t *testing.T) {
	for _, tc := range []struct {
		name string
		keys func(release <-chan struct{}) keySetFunc
	}{
		{"until its context ends", func(<-chan struct{}) keySetFunc {
			return func(ctx context.Context, _ string) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		{"deaf to its context", func(release <-chan struct{}) keySetFunc {
			return func(context.Context, string) ([]byte, error) {
				<-release
				return nil, nil
			}
		}},
		{"and ends its goroutine", func(<-chan struct{}) keySetFunc {
			return func(context.Context, string) ([]byte, error) {
				runtime.Goexit()
				return nil, nil
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				release := make(chan struct{})
				broken := tc.keys(release)
				m := must(phantom.New(as.withKeys(keySetFunc(func(ctx context.Context, jwt string) ([]byte, error) {
					if broken != nil {
						return broken(ctx, jwt)
					}
					return payloadOf(jwt), nil
				}))...))
				start := time.Now()
				if got := as.try(m, "opaque"); got != code503A || time.Since(start) != 2*time.Second {
					t.Errorf("%s after %v", got, time.Since(start))
				}
				close(release)
				synctest.Wait()
				broken = nil
				if got := as.try(m, "opaque"); got != codeOK {
					t.Errorf("afterwards: %s", got)
				}
			})
		})
	}
}
