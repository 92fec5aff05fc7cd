package conformance_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// A keyHost is the server's transport with a key set that a test can make
// behave as it likes, below what a handler can do.
type keyHost struct {
	*fakeAS
	keys func(*http.Request) (*http.Response, error) // nil: the server's handler
}

func (h *keyHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == jwksPath && h.keys != nil {
		h.fetches.Add(1)
		return h.keys(r)
	}
	return h.fakeAS.RoundTrip(r)
}

func (h *keyHost) client() phantom.Option {
	return phantom.WithHTTPClient(&http.Client{Transport: h})
}

func response(r *http.Request, header http.Header, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: 200, Header: header, Body: body, ContentLength: -1, Request: r}
}

// A countedBody counts what is read of it.
type countedBody struct {
	io.Reader
	read, closed atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read.Add(int64(n))
	return n, err
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

// A drip is a body that gives a byte each second and never ends.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (drip) Close() error { return nil }

// newToken answers every lookup with a JWT of its own, signed with Ed25519,
// which is fast.
func newToken(w http.ResponseWriter, r *http.Request) {
	answerJWT(mint("EdDSA", claims(nil)))(w, r)
}

// tries sends n tokens that were not seen before and returns their outcomes.
func (as *fakeAS) tries(m *phantom.Middleware, n int) string {
	as.tb.Helper()
	outcomes := map[string]bool{}
	for range n {
		outcomes[as.try(m, rand.Text())] = true
	}
	var all []string
	for code := range outcomes {
		all = append(all, code)
	}
	return strings.Join(all, ",")
}

// aboveDebug leaves out the lines about requests that were let through.
func aboveDebug(lines []logLine) (said []logLine) {
	for _, line := range lines {
		if line.level > slog.LevelDebug {
			said = append(said, line)
		}
	}
	return said
}

func booked(b *logBook) phantom.Option { return phantom.WithLogger(slog.New(b)) }

func TestK180ColdStartAndRecovery(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, c := range []struct {
		name   string
		broken http.HandlerFunc
		detail string
		slow   bool // each attempt takes the time limit
	}{
		{"500", answer(500, "text/plain", "broken"), "key set: status 500", false},
		{"503", answer(503, "", ""), "key set: status 503", false},
		{"429", answer(429, "", ""), "key set: status 429", false},
		{"404", http.NotFound, "key set: status 404", false},
		{"401", answer(401, "application/json", "{}"), "key set: status 401", false},
		{"204", answer(204, "", ""), "key set: status 204", false},
		{"HTML", answer(200, "text/html", "<html>"), "key set: malformed: not a JSON object", false},
		{"empty", answer(200, "application/json", ""), "key set: malformed: not a JSON object", false},
		{"hanging", hang, "timeout", true},
	} {
		t.Run("K180 "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				book := as.logBook()
				as.jwks, as.introspect = c.broken, newToken
				m := as.middleware(booked(book))
				start := time.Now()
				if got := as.tries(m, 1); got != code503A {
					t.Fatalf("first request: %s", got)
				}
				if lines := book.take(); !c.slow { // a time-out is the lookup's as much as the keys'
					checkLine(t, lines, code503A, "")
					for range 200 {
						if got := as.tries(m, 1); got != code503A {
							t.Fatal(got)
						}
						time.Sleep(5 * time.Millisecond)
					}
					if n := as.fetches.Load(); n > 2 {
						t.Errorf("%d fetches in a second", n)
					}
					if lines := book.take(); len(lines) != 0 {
						t.Errorf("not rate-limited: %v", lines)
					}
				}
				synctest.Wait()
				as.jwks = nil
				recovered := time.Now()
				for as.tries(m, 1) != codeOK {
					if time.Since(recovered) > 3*time.Second {
						t.Fatal("no recovery within 3 s")
					}
					time.Sleep(100 * time.Millisecond)
				}
				if c.slow && recovered.Sub(start) != 2*time.Second {
					t.Errorf("503 after %v", recovered.Sub(start))
				}
			})
		})
		t.Run("K180 what is logged: "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				book := as.logBook()
				as.jwks = c.broken
				m := as.middleware(booked(book))
				if got := as.tries(m, 1); got != code503A {
					t.Fatal(got)
				}
				if lines := book.take(); len(lines) != 1 || !strings.HasSuffix(lines[0].attrs["detail"], c.detail) {
					t.Errorf("%v, want %q", lines, c.detail)
				}
			})
		})
	}
}

func TestColdStartIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = wait(100*time.Millisecond, answer(200, "application/json", allKeys()))
		m := as.middleware()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := as.tries(m, 1); got != codeOK {
					t.Error(got)
				}
			})
		}
		wg.Wait()
		if n := as.fetches.Load(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestFetchOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = wait(time.Second, answer(200, "application/json", allKeys()))
		m := as.middleware()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := m.Warm(ctx); !errors.Is(err, phantom.ErrUnavailable) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		time.Sleep(time.Second)
		if got := as.tries(m, 1); got != codeOK || as.fetches.Load() != 1 {
			t.Errorf("%s, %d fetches", got, as.fetches.Load())
		}
	})
}

func TestK182FailedRefresh(t *testing.T) {
	good := jwk("k-EdDSA", "EdDSA", edKey().Public())
	evil := jwk("evil", "RS256", otherRSA().Public())
	document := jwks(evil)
	for name, broken := range map[string]http.HandlerFunc{
		"K182 HTML":                 answer(200, "text/html", "<html>"),
		"K182 invalid JSON":         answer(200, "application/json", `{"keys":[`),
		"K182 array":                answer(200, "application/json", `[]`),
		"K182 bytes after the JSON": answer(200, "application/json", document+"x"),
		"K182 two documents":        answer(200, "application/json", document+document),
		"K182 keys null":            answer(200, "application/json", `{"keys":null}`),
		"K182 keys an object":       answer(200, "application/json", `{"keys":{}}`),
		"K182 no keys":              answer(200, "application/json", `{}`),
		"K182 KEYS":                 answer(200, "application/json", strings.Replace(document, `"keys"`, `"KEYS"`, 1)),
		"K182 BOM":                  answer(200, "application/json", "\ufeff"+document),
		"K182 not UTF-8":            answer(200, "application/json", strings.Replace(document, "evil", "ev\xffl", 1)),
		"K182 empty":                answer(200, "application/json", ""),
		"K182 status 500":           answer(500, "application/json", document),
		"K182 status 404":           answer(404, "application/json", document),
		"K182 status 203":           answer(203, "application/json", document),
		"K189 keys twice":           answer(200, "application/json", `{"keys":[],`+document[1:]),
		"K189 kid twice in a key":   answer(200, "application/json", strings.Replace(document, `"kid"`, `"kid":"x","kid"`, 1)),
		"K194 301":                  redirect(301), "K194 302": redirect(302), "K194 303": redirect(303),
		"K194 307": redirect(307), "K194 308": redirect(308),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				book := as.logBook()
				as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"exp": time.Now().Unix() + 3*3600})))
				as.jwks = answer(200, "application/json", jwks(good))
				m := as.middleware(booked(book), phantom.WithMaxTTL(3*time.Hour), phantom.WithRefreshAhead(0))
				if got := as.try(m, "cached"); got != codeOK {
					t.Fatal(got)
				}
				as.introspect = newToken
				as.jwks = broken
				time.Sleep(5*time.Minute + time.Second)
				book.take()
				if got := as.tries(m, 1); got != codeOK { // begins the refresh
					t.Errorf("during the refresh: %s", got)
				}
				synctest.Wait()
				said := aboveDebug(book.take())
				if len(said) != 1 || said[0].level != slog.LevelWarn ||
					said[0].msg != "phantom: cannot renew the key set of the authorization server" ||
					!strings.HasPrefix(said[0].attrs["detail"], "key set: ") {
					t.Errorf("logged %v", said)
				}
				if got := as.tries(m, 10); got != codeOK || as.fetches.Load() != 2 {
					t.Errorf("with the old keys: %s, %d fetches", got, as.fetches.Load())
				}
				as.introspect = answerJWT(mintHeader("RS256", `{"alg":"RS256","kid":"evil"}`, claims(nil)))
				if got := as.tries(m, 1); got != code503A { // it may be signed by a key of the set that is not to be had
					t.Errorf("unknown key: %s", got)
				}
				as.introspect = newToken
				time.Sleep(30 * time.Minute)
				if got := as.tries(m, 3); got != codeOK {
					t.Errorf("half an hour later: %s", got)
				}
				synctest.Wait()
				as.jwks = nil
				time.Sleep(11 * time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("at recovery: %s", got)
				}
				calls := as.calls.Load()
				if got := as.try(m, "cached"); got != codeOK || as.calls.Load() != calls {
					t.Errorf("the cached token: %s, %d more introspections", got, as.calls.Load()-calls)
				}
				as.onlyAsked(t, endpointPath, jwksPath)
			})
		})
	}
}

// redirect sends everybody to a key set of the attacker's, and to a path at
// which the server would count a request.
func redirect(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://evil.test/elsewhere")
		answer(status, "application/json", allKeys())(w, nil)
	}
}

func TestK194RedirectAtStart(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint("K194 ", status), func(t *testing.T) {
			as := newAS(t)
			as.jwks = redirect(status)
			if got := as.try(as.middleware(), "opaque"); got != code503A {
				t.Error(got)
			}
			as.onlyAsked(t, endpointPath, jwksPath)
		})
	}
}

// with returns a copy of a JWK with other members; nil removes one.
func with(key map[string]any, changes map[string]any) map[string]any {
	out := map[string]any{}
	for _, set := range []map[string]any{key, changes} {
		for name, value := range set {
			if out[name] = value; value == nil {
				delete(out, name)
			}
		}
	}
	return out
}

func TestUnusableKeys(t *testing.T) {
	n := func(bits int) *big.Int { // odd, with the topmost bit set
		b := make([]byte, bits/8)
		_, _ = rand.Read(b)
		b[0] |= 0x80
		b[len(b)-1] |= 1
		return new(big.Int).SetBytes(b)
	}
	even := new(big.Int).Add(rsaKey().N, big.NewInt(1))
	// A modulus as the vulnerable generator made it: a power of 65537 modulo
	// the product of small primes.
	product := big.NewInt(1)
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		product.Mul(product, big.NewInt(p))
	}
	roca := new(big.Int).Div(n(2048), product)
	roca.SetBit(roca, 0, 0).Mul(roca, product)
	roca.Add(roca, new(big.Int).Exp(big.NewInt(65537), big.NewInt(6), product))
	if roca.Bit(0) == 0 {
		roca.Add(roca, product)
	}
	rsaJWK := func(n *big.Int, e string) map[string]any {
		return map[string]any{"kty": "RSA", "kid": "bad", "use": "sig", "n": b64(n.Bytes()), "e": e}
	}
	ec := jwk("bad", "", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public())
	x := ec["x"].(string)
	zero := b64(make([]byte, 32))
	ok := edKey().Public().(ed25519.PublicKey)
	okp := jwk("bad", "", ok)
	identity := append([]byte{1}, make([]byte, 31)...)
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	type member = map[string]any

	by := func(alg string, key crypto.Signer, kid string) func(string) string {
		return func(payload string) string {
			return compact(alg, key, fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid), payload)
		}
	}
	byOther, bySmall, byOtherCase := by("RS256", otherRSA(), "bad"), by("RS256", small, "bad"), by("EdDSA", edKey(), "k-eddsa2")
	byIdentity := func(payload string) string { // R = A = the neutral element, s = 0: good for every message
		return b64([]byte(`{"alg":"EdDSA","kid":"bad"}`)) + "." + b64([]byte(payload)) + "." +
			b64(append(bytes.Clone(identity), make([]byte, 32)...))
	}
	byNobody := func(payload string) string { // with e = 1 the padded hash is its own signature
		input := b64([]byte(`{"alg":"RS256","kid":"bad"}`)) + "." + b64([]byte(payload))
		digest := sha256.Sum256([]byte(input))
		info := append([]byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}, digest[:]...)
		padded := append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, 256-3-len(info))...)
		return input + "." + b64(append(append(padded, 0), info...))
	}

	for _, c := range []struct {
		name  string
		key   any
		level slog.Level                  // 0: the key is not for us, and nothing is said
		sign  func(payload string) string // makes a JWT with it, if that is possible
	}{
		{"K184 unknown kty", member{"kty": "AKP", "alg": "ML-DSA-65", "kid": "bad", "pub": "AAAA"}, 0, nil},
		{"K184 Ed448", member{"kty": "OKP", "crv": "Ed448", "kid": "bad", "x": b64(make([]byte, 57))}, 0, nil},
		{"K184 X25519", member{"kty": "OKP", "crv": "X25519", "kid": "bad", "x": b64(make([]byte, 32))}, 0, nil},
		{"K184 secp256k1", member{"kty": "EC", "crv": "secp256k1", "kid": "bad", "x": x, "y": x}, 0, nil},
		{"K184 empty kty", member{"kty": "", "kid": "bad"}, 0, nil},
		{"K187 RSA 512", rsaJWK(n(512), "AQAB"), slog.LevelWarn, nil},
		{"K187 RSA 1024", jwk("bad", "RS256", small.Public()), slog.LevelWarn, bySmall},
		{"K187 RSA 2040", rsaJWK(n(2040), "AQAB"), slog.LevelWarn, nil},
		{"K187 RSA 8200", rsaJWK(n(8200), "AQAB"), slog.LevelWarn, nil},
		{"K187 RSA 100,000", rsaJWK(n(100_000), "AQAB"), slog.LevelWarn, nil},
		{"K187 e = 1", rsaJWK(rsaKey().N, "AQ"), slog.LevelWarn, byNobody},
		{"K187 even e", rsaJWK(rsaKey().N, "BA"), slog.LevelWarn, nil},
		{"K187 e = 0", rsaJWK(rsaKey().N, "AA"), slog.LevelWarn, nil},
		{"K187 e of 5 bytes", rsaJWK(rsaKey().N, "AQAAAAE"), slog.LevelWarn, nil},
		{"K187 e empty", rsaJWK(rsaKey().N, ""), slog.LevelWarn, nil},
		{"K187 e missing", with(rsaJWK(rsaKey().N, ""), member{"e": nil}), slog.LevelWarn, nil},
		{"K187 e a number", with(rsaJWK(rsaKey().N, ""), member{"e": 65537}), slog.LevelWarn, nil},
		{"K187 even n", rsaJWK(even, "AQAB"), slog.LevelWarn, nil},
		{"K187 n empty", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": ""}), slog.LevelWarn, nil},
		{"K187 n null", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": nil}), slog.LevelWarn, nil},
		{"K187 n padded", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": b64(rsaKey().N.Bytes()) + "=="}), slog.LevelWarn, nil},
		{"K187 n in standard base64", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": strings.Repeat("+/", 170)}), slog.LevelWarn, nil},
		{"K187 ROCA", rsaJWK(roca, "AQAB"), slog.LevelWarn, nil},
		{"K187 EC off the curve", with(ec, member{"x": ec["y"], "y": x}), slog.LevelWarn, nil},
		{"K187 EC (0,0)", with(ec, member{"x": zero, "y": zero}), slog.LevelWarn, nil},
		{"K187 EC oversize x", with(ec, member{"x": "AA" + x}), slog.LevelWarn, nil},
		{"K187 EC short x", with(ec, member{"x": x[:40]}), slog.LevelWarn, nil},
		{"K187 EC without y", with(ec, member{"y": nil}), slog.LevelWarn, nil},
		{"K187 EC point of another curve", with(ec, member{"crv": "P-384"}), slog.LevelWarn, nil},
		{"K187 EC crv a number", with(ec, member{"crv": 256}), slog.LevelWarn, nil},
		{"K187 Ed25519 of 31 bytes", with(okp, member{"x": b64(ok[:31])}), slog.LevelWarn, nil},
		{"K187 Ed25519 of small order", with(okp, member{"x": b64(identity)}), slog.LevelWarn, byIdentity},
		{"K187 short oct", member{"kty": "oct", "kid": "bad", "k": "c2hvcnQ"}, slog.LevelWarn, nil},
		{"K187 not an object", "bad", slog.LevelWarn, nil},
		{"K187 null", nil, slog.LevelWarn, nil},
		{"K187 no kty", with(ec, member{"kty": nil}), slog.LevelWarn, nil},
		{"K187 kty a number", with(ec, member{"kty": 1}), slog.LevelWarn, nil},
		{"K187 kid a number", with(ec, member{"kid": 1}), slog.LevelWarn, nil},
		{"K187 kid of 257 bytes", with(ec, member{"kid": strings.Repeat("k", 257)}), slog.LevelWarn, nil},
		{"K187 alg a number", with(ec, member{"alg": 1}), slog.LevelWarn, nil},
		{"K188 RSA private", privateJWK("d", "p", "q", "dp", "dq", "qi"), slog.LevelError, byOther},
		{"K188 RSA d alone", privateJWK("d"), slog.LevelError, nil},
		{"K188 RSA p alone", privateJWK("p"), slog.LevelError, nil},
		{"K188 d null", with(jwk("bad", "RS256", otherRSA().Public()), member{"d": null}), slog.LevelError, byOther},
		{"K188 EC private", with(ec, member{"d": zero}), slog.LevelError, nil},
		{"K188 OKP private", with(okp, member{"d": b64(edKey().Seed())}), slog.LevelError, nil},
		{"K190 use enc", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": "enc"}), 0, byOther},
		{"K190 use SIG", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": "SIG"}), 0, byOther},
		{"K190 use a number", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": 1}), slog.LevelWarn, byOther},
		{"K190 key_ops without verify", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": []string{"sign", "encrypt"}}), 0, byOther},
		{"K190 key_ops empty", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": []string{}}), 0, byOther},
		{"K190 key_ops a string", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": "verify"}), slog.LevelWarn, byOther},
		{"K190 another alg", jwk("bad", "RS512", otherRSA().Public()), 0, byOther},
		{"K190 alg of another kind", jwk("bad", "ES256", otherRSA().Public()), 0, byOther},
		{"K190 alg of encryption", jwk("bad", "RSA-OAEP", otherRSA().Public()), 0, byOther},
		{"K190 alg none", jwk("bad", "none", otherRSA().Public()), 0, byOther},
		{"K198 kid of another case", jwk("K-EdDSA2", "EdDSA", edKey().Public()), 0, byOtherCase},
		{"K198 kid with a space", jwk("bad ", "RS256", otherRSA().Public()), 0, byOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				if key, ok := c.key.(map[string]any); ok {
					for _, name := range []string{"n", "x", "d", "p", "k"} {
						if s, ok := key[name].(string); ok {
							as.secret(s)
						}
					}
				}
				book := as.logBook()
				m := as.middleware(booked(book))
				document := must(json.Marshal(map[string]any{"keys": []any{c.key, jwk("k-EdDSA", "EdDSA", edKey().Public())}}))
				as.jwks = answer(200, "application/json", string(document))
				as.introspect = newToken
				for range 3 { // refreshes say nothing new
					if got := as.tries(m, 1); got != codeOK {
						t.Errorf("the good key beside it: %s", got)
					}
					synctest.Wait()
					time.Sleep(6 * time.Minute)
				}
				if n := as.fetches.Load(); n != 3 {
					t.Errorf("%d fetches", n)
				}
				said := aboveDebug(book.take())
				switch {
				case c.level == 0 && len(said) != 0:
					t.Errorf("logged %v", said)
				case c.level != 0 && (len(said) != 1 || said[0].level != c.level ||
					said[0].msg != "phantom: a key of the issuer is not used" || !strings.HasPrefix(said[0].attrs["detail"], "key 0: ")):
					t.Errorf("logged %v, want once at %v", said, c.level)
				}
				if c.sign != nil {
					as.introspect = answerJWT(c.sign(goodPayload())) // whose times are the bubble's
					if got := as.tries(m, 1); got != code401T {
						t.Errorf("a JWT of that key: %s", got)
					}
				}
			})
		})
	}
}

// privateJWK is the JWK of a private key with only some of its private members.
func privateJWK(members ...string) map[string]any {
	key := otherRSA()
	key.Precompute()
	all := map[string]*big.Int{
		"d": key.D, "p": key.Primes[0], "q": key.Primes[1],
		"dp": key.Precomputed.Dp, "dq": key.Precomputed.Dq, "qi": key.Precomputed.Qinv,
	}
	out := jwk("bad", "RS256", key.Public())
	for _, name := range members {
		out[name] = b64(all[name].Bytes())
	}
	return out
}

func TestK189DuplicateKid(t *testing.T) {
	wrong := jwk("k-EdDSA", "EdDSA", must2(ed25519.GenerateKey(rand.Reader)))
	right := jwk("k-EdDSA", "EdDSA", edKey().Public())
	rsa := jwk("k-EdDSA", "RS256", rsaKey().Public())
	for name, c := range map[string]struct {
		keys []map[string]any
		want string
	}{
		"first wrong, second right":         {[]map[string]any{wrong, right}, codeOK},
		"first right, second wrong":         {[]map[string]any{right, wrong}, codeOK},
		"first of another kind":             {[]map[string]any{rsa, right}, codeOK},
		"first unusable":                    {[]map[string]any{with(right, map[string]any{"x": "AA"}), right}, codeOK},
		"first symmetric":                   {[]map[string]any{{"kty": "oct", "kid": "k-EdDSA", "k": "AAAA"}, right}, codeOK},
		"the same one twice":                {[]map[string]any{right, right}, codeOK},
		"both wrong":                        {[]map[string]any{wrong, wrong}, code401T},
		"the right one not for signatures":  {[]map[string]any{wrong, with(right, map[string]any{"use": "enc"})}, code401T},
		"a fifth, other kinds do not count": {[]map[string]any{rsa, rsa, rsa, rsa, right}, codeOK},
	} {
		t.Run("K189 "+name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = newToken
			as.jwks = answer(200, "application/json", jwks(c.keys...))
			if got := as.tries(as.middleware(), 1); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	t.Run("K189 keys twice at the start", func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = answer(200, "application/json", `{"keys":[],`+jwks(right)[1:])
		if got := as.tries(as.middleware(), 1); got != code503A {
			t.Error(got)
		}
	})
}

// must2 drops the private key of a pair.
func must2(pub ed25519.PublicKey, _ ed25519.PrivateKey, err error) ed25519.PublicKey {
	return must(pub, err)
}

func TestK191KeyWithoutAlgorithm(t *testing.T) {
	keys := jwks(jwk("rsa", "", rsaKey().Public()), jwk("p256", "", p256Key().Public()), jwk("p384", "", p384Key().Public()),
		jwk("p521", "", p521Key().Public()), jwk("ed", "", edKey().Public()))
	takes := map[string]string{
		"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed",
	}
	for alg, kid := range takes {
		t.Run("K191 "+alg, func(t *testing.T) {
			for _, named := range []string{"rsa", "p256", "p384", "p521", "ed"} {
				as := newAS(t)
				as.jwks = answer(200, "application/json", keys)
				as.introspect = answerJWT(mintHeader(alg, fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, named), claims(nil)))
				want := code401T
				if named == kid {
					want = codeOK
				}
				if got := as.try(as.middleware(), "opaque"); got != want {
					t.Errorf("with the key %s: %s, want %s", named, got, want)
				}
			}
			as := newAS(t)
			as.jwks = answer(200, "application/json", keys)
			as.introspect = answerJWT(mintHeader(alg, fmt.Sprintf(`{"alg":%q}`, alg), claims(nil)))
			if got := as.try(as.middleware(), "opaque"); got != codeOK {
				t.Errorf("without kid: %s", got)
			}
			others := phantom.WithAlgorithms(map[bool]string{true: "PS384", false: "RS256"}[alg == "RS256"])
			if got := as.try(as.middleware(others), "opaque"); got != code401T {
				t.Errorf("not in the list: %s", got)
			}
		})
	}
}

func TestK192Rotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		oldKey, newKey := jwk("k-ES256", "ES256", p256Key().Public()), jwk("k-EdDSA", "EdDSA", edKey().Public())
		as.jwks = answer(200, "application/json", jwks(oldKey))
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			alg, _, _ := strings.Cut(r.Form.Get("token"), "-")
			answerJWT(mint(alg, claims(nil)))(w, r)
		}
		m := as.middleware()
		h := m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		status := func(token string) int { return serve(h, get("Bearer "+token)).Code }
		if got := status("ES256-0"); got != 200 {
			t.Fatal(got)
		}
		as.jwks = wait(50*time.Millisecond, answer(200, "application/json", jwks(oldKey, newKey)))
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 1000 {
			wg.Go(func() {
				if got := status(fmt.Sprint("EdDSA-", i)); got != 200 {
					t.Errorf("new key: %d", got)
				}
			})
			if i%10 == 0 {
				wg.Go(func() {
					if got := status(fmt.Sprint("ES256-", i+1)); got != 200 || !time.Now().Equal(start) {
						t.Errorf("old key: %d after %v", got, time.Since(start))
					}
				})
			}
		}
		wg.Wait()
		if n := as.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want one to start with and one for the new kid", n)
		}
	})
}

// A key that appears while the key set is on its way is looked for again: the
// set that arrives is older than the JWT.
func TestK192RotationWhileFetching(t *testing.T) {
	oldKey, newKey := jwk("k-ES256", "ES256", p256Key().Public()), jwk("k-EdDSA", "EdDSA", edKey().Public())
	for name, warm := range map[string]bool{"first fetch": false, "refresh": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				var rotated atomic.Bool
				as.jwks = func(w http.ResponseWriter, r *http.Request) {
					was := jwks(oldKey)
					if rotated.Load() {
						was = jwks(oldKey, newKey)
					}
					time.Sleep(500 * time.Millisecond)
					answer(200, "application/json", was)(w, r)
				}
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					alg, _, _ := strings.Cut(r.Form.Get("token"), "-")
					answerJWT(mint(alg, claims(nil)))(w, r)
				}
				m := as.middleware()
				fetches := int64(2)
				if warm {
					if err := m.Warm(t.Context()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(6 * time.Minute)
					fetches++
				}
				go func() { _, _ = m.Verify(t.Context(), "ES256-0") }() // starts the fetch
				time.Sleep(200 * time.Millisecond)
				rotated.Store(true)
				if got := as.try(m, "EdDSA-0"); got != codeOK {
					t.Error(got)
				}
				if n := as.fetches.Load(); n != fetches {
					t.Errorf("%d fetches, want %d", n, fetches)
				}
				synctest.Wait()
			})
		})
	}
}

func TestK193UnknownKids(t *testing.T) {
	for name, after := range map[string]struct {
		jwks http.HandlerFunc
		is   error
	}{
		"K193 healthy":       {nil, phantom.ErrInvalidToken},
		"K193 key set fails": {answer(500, "", ""), phantom.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				payload := goodPayload()
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					token := r.Form.Get("token")
					if strings.HasPrefix(token, "good") {
						newToken(w, r)
						return
					}
					answerJWT(b64(fmt.Appendf(nil, `{"alg":"EdDSA","kid":%q}`, token))+"."+b64([]byte(payload))+"."+b64(make([]byte, 64)))(w, r)
				}
				m := as.middleware()
				if err := m.Warm(t.Context()); err != nil {
					t.Fatal(err)
				}
				as.jwks = after.jwks
				for i := range 10_000 {
					tok, err := m.Verify(t.Context(), fmt.Sprint("kid-", i))
					if tok != nil || !errors.Is(err, after.is) {
						t.Fatalf("%v, want %v", err, after.is)
					}
					if i%100 == 0 {
						if _, err := m.Verify(t.Context(), fmt.Sprint("good-", i)); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(6 * time.Millisecond)
				}
				if n := as.fetches.Load(); n > 7 || n < 6 {
					t.Errorf("%d fetches in a minute, want one to start with and one each 10 s", n)
				}
			})
		})
	}
}

// With keys at hand nothing waits for a refresh that hangs: by the clock of
// the bubble each verification takes no time at all.
func TestHangingRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if r.Form.Get("token") == "unknown" {
				answerJWT(mintHeader("EdDSA", `{"alg":"EdDSA","kid":"unknown"}`, claims(nil)))(w, r)
				return
			}
			newToken(w, r)
		}
		book := as.logBook()
		m := as.middleware(booked(book))
		if err := m.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		as.jwks = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		time.Sleep(5*time.Minute + time.Second)
		for range 300 { // 30 s: several refreshes hang and fail
			start := time.Now()
			if got := as.tries(m, 1); got != codeOK || time.Since(start) != 0 {
				t.Fatalf("%s after %v", got, time.Since(start))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.fetches.Load(); n != 4 { // at 0 s, and 10 s after each time-out of 2 s
			t.Errorf("%d fetches", n)
		}
		// What cannot be judged without the new keys waits, no longer than a
		// lookup may take, and holds up nobody.
		time.Sleep(10 * time.Second)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			if got := as.try(m, "unknown"); got != code503A || time.Since(start) != 2*time.Second {
				t.Errorf("unknown kid: %s after %v", got, time.Since(start))
			}
		})
		synctest.Wait()
		if got := as.tries(m, 10); got != codeOK || time.Since(start) != 0 {
			t.Errorf("beside it: %s after %v", got, time.Since(start))
		}
		wg.Wait()
	})
}

// A refresh may panic where nobody waits for it: it must be told, and not be
// tried again by each request.
func TestPanickingRefresh(t *testing.T) {
	for name, value := range map[string]any{"a string": "secret-of-the-panic", "an error": errors.New("secret-of-the-panic")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.secret("secret-of-the-panic")
				as.introspect = newToken
				book := as.logBook()
				host := &keyHost{fakeAS: as}
				m := as.middleware(booked(book), host.client())
				host.keys = func(*http.Request) (*http.Response, error) { panic(value) }
				if got := as.tries(m, 1); got != code500I {
					t.Errorf("cold: %s", got)
				}
				checkLine(t, book.take(), code500I, "")
				host.keys = nil
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("cold, the next request: %s", got)
				}
				host.keys = func(*http.Request) (*http.Response, error) { panic(value) }
				time.Sleep(5*time.Minute + time.Second)
				before := as.fetches.Load()
				book.take()
				for range 90 { // 9 s
					if got := as.tries(m, 1); got != codeOK {
						t.Fatal(got)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := as.fetches.Load() - before; n != 1 {
					t.Errorf("%d attempts", n)
				}
				said := aboveDebug(book.take())
				if len(said) != 1 || said[0].level != slog.LevelWarn || said[0].attrs["stack"] == "" || said[0].attrs["panic"] != "panic in a hook" {
					t.Errorf("logged %v", said)
				}
			})
		})
	}
}

func TestK195OversizedKeySets(t *testing.T) {
	good := allKeys()
	many := func(n int) string {
		list := strings.Repeat(`{"kty":"X"},`, n-1)
		return `{"keys":[` + list + good[len(`{"keys":[`):]
	}
	bomb := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(good))
		_, _ = z.Write(make([]byte, 64<<20))
		_ = z.Close()
		return b.Bytes()
	}()
	const limit = 256 << 10
	for _, c := range []struct {
		name   string
		header http.Header
		body   func(context.Context) io.Reader
		length int64
	}{
		{"50 MiB", nil, func(context.Context) io.Reader {
			return io.MultiReader(strings.NewReader(good), io.LimitReader(spaces{}, 50<<20))
		}, -1},
		{"50 MiB announced", nil, func(context.Context) io.Reader { return io.LimitReader(spaces{}, 50<<20) }, 50 << 20},
		{"endless", nil, func(context.Context) io.Reader { return spaces{} }, -1},
		{"one byte too long", nil, func(context.Context) io.Reader {
			return strings.NewReader(good + strings.Repeat(" ", limit+1-len(good)))
		}, -1},
		{"100,000 keys", nil, func(context.Context) io.Reader { return strings.NewReader(many(100_000)) }, -1},
		{"101 keys", nil, func(context.Context) io.Reader { return strings.NewReader(many(92)) }, -1},
		{"gzip bomb", http.Header{"Content-Encoding": {"gzip"}}, func(context.Context) io.Reader { return bytes.NewReader(bomb) }, -1},
		{"gzip", http.Header{"Content-Encoding": {"gzip"}}, func(context.Context) io.Reader { return strings.NewReader(good) }, -1},
		{"drip", nil, func(ctx context.Context) io.Reader { return drip{ctx} }, -1},
		{"broken off", nil, func(context.Context) io.Reader {
			return io.MultiReader(strings.NewReader(good), failing{io.ErrUnexpectedEOF})
		}, -1},
		{"nested deep", nil, func(context.Context) io.Reader {
			return strings.NewReader(`{"keys":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}")
		}, -1},
	} {
		t.Run("K195 "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				host := &keyHost{fakeAS: as}
				m := as.middleware(host.client())
				var bodies []*countedBody
				broken := func(r *http.Request) (*http.Response, error) {
					body := &countedBody{Reader: c.body(r.Context())}
					bodies = append(bodies, body)
					resp := response(r, c.header, body)
					resp.ContentLength = c.length
					return resp, nil
				}
				host.keys = broken
				start := time.Now()
				if got := as.tries(m, 1); got != code503A {
					t.Errorf("at the start: %s", got)
				}
				if took := time.Since(start); took != 0 && (c.name != "drip" || took != 2*time.Second) {
					t.Errorf("after %v", took)
				}
				synctest.Wait()
				host.keys = nil
				time.Sleep(2 * time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("recovered: %s", got)
				}
				synctest.Wait()
				host.keys = broken
				time.Sleep(5*time.Minute + time.Second)
				if got := as.tries(m, 1); got != codeOK {
					t.Errorf("during the refresh: %s", got)
				}
				time.Sleep(3 * time.Second)
				if got := as.tries(m, 5); got != codeOK || len(bodies) != 2 {
					t.Errorf("with the old keys: %s, %d bodies", got, len(bodies))
				}
				for _, body := range bodies {
					if body.read.Load() > limit+1 || body.closed.Load() == 0 {
						t.Errorf("%d bytes read, closed %d times", body.read.Load(), body.closed.Load())
					}
				}
			})
		})
	}
	for name, fits := range map[string]string{
		"K195 100 keys": many(91),
		"K195 256 KiB":  good + strings.Repeat(" ", limit-len(good)),
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.jwks = answer(200, "application/json", fits)
			if got := as.try(as.middleware(), "opaque"); got != codeOK {
				t.Error(got)
			}
		})
	}
}

// spaces are endless.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestK196RefreshInterval(t *testing.T) {
	for _, c := range []struct {
		name    string
		header  http.Header
		refresh time.Duration
	}{
		{"max-age=0", http.Header{"Cache-Control": {"max-age=0"}}, time.Minute},
		{"max-age=59", http.Header{"Cache-Control": {"max-age=59"}}, time.Minute},
		{"max-age=61", http.Header{"Cache-Control": {"max-age=61"}}, 61 * time.Second},
		{"max-age=31536000", http.Header{"Cache-Control": {"public, max-age=31536000"}}, time.Hour},
		{"max-age=99999999999999999999", http.Header{"Cache-Control": {"max-age=99999999999999999999"}}, time.Hour},
		{"max-age=-1", http.Header{"Cache-Control": {"max-age=-1"}}, time.Minute},
		{"max-age=3601", http.Header{"Cache-Control": {"max-age=3601"}}, time.Hour},
		{"max-age=1800 with Age", http.Header{"Cache-Control": {"max-age=1800"}, "Age": {"600"}}, 20 * time.Minute},
		{"no header", nil, 5 * time.Minute},
		{"no-store", http.Header{"Cache-Control": {"no-store"}}, 5 * time.Minute},
		{"no-cache, max-age=0", http.Header{"Cache-Control": {"no-cache, max-age=0"}}, 5 * time.Minute},
	} {
		t.Run("K196 "+c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.introspect = newToken
				as.jwks = func(w http.ResponseWriter, r *http.Request) {
					for name, values := range c.header {
						w.Header()[name] = values
					}
					answer(200, "application/json", allKeys())(w, r)
				}
				m := as.middleware()
				for round := range int64(3) {
					if got := as.tries(m, 1); got != codeOK || as.fetches.Load() != round+1 {
						t.Fatalf("round %d: %s, %d fetches", round, got, as.fetches.Load())
					}
					time.Sleep(c.refresh - time.Second)
					if got := as.tries(m, 5); got != codeOK || as.fetches.Load() != round+1 {
						t.Errorf("a second before: %s, %d fetches", got, as.fetches.Load())
					}
					time.Sleep(time.Second)
					if got := as.tries(m, 1); got != codeOK { // begins the refresh, waits for nothing
						t.Error(got)
					}
					synctest.Wait()
				}
			})
		})
	}
}

func TestK197KeySetDownForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		book := as.logBook()
		m := as.middleware(booked(book), phantom.WithMaxTTL(3*time.Hour), phantom.WithRefreshAhead(0))
		if err := m.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		as.jwks = answer(500, "", "")
		start := time.Now()
		until := func(d time.Duration) { time.Sleep(time.Until(start.Add(d))) }
		as.introspect = answerJWT(mint("EdDSA", claims(map[string]any{"exp": start.Unix() + 3*3600})))
		if got := as.try(m, "cached"); got != codeOK {
			t.Fatal(got)
		}
		as.introspect = newToken
		until(5*time.Minute + time.Second)
		for range 60 { // a minute of failing refreshes
			if got := as.tries(m, 1); got != codeOK {
				t.Fatal(got)
			}
			time.Sleep(time.Second)
		}
		warned := 0
		for _, line := range book.take() {
			if line.level == slog.LevelWarn && line.attrs["detail"] == "key set: status 500" {
				warned++
			}
		}
		if n := as.fetches.Load(); n < 6 || n > 8 || warned != int(n)-1 {
			t.Errorf("%d fetches and %d warnings in a minute", n, warned)
		}
		until(65*time.Minute - time.Second)
		if got := as.tries(m, 3); got != codeOK {
			t.Errorf("an hour past the freshness, less a second: %s", got)
		}
		synctest.Wait()
		until(65 * time.Minute)
		book.take()
		if got := as.tries(m, 1); got != code503A {
			t.Errorf("an hour past the freshness: %s", got)
		}
		checkLine(t, book.take(), code503A, "")
		if got := as.tries(m, 5); got != code503A {
			t.Errorf("then: %s", got)
		}
		if got := as.try(m, "cached"); got != codeOK {
			t.Errorf("a verdict from before: %s", got)
		}
		synctest.Wait()
		as.jwks = nil
		time.Sleep(10 * time.Second)
		if got := as.tries(m, 3); got != codeOK {
			t.Errorf("recovered: %s", got)
		}
	})
}

func TestK201KeyRequestsCarryNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		as.jwks = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "session=1; Path=/; Secure")
			answer(200, "application/json", allKeys())(w, r)
		}
		jar := must(cookiejar.New(nil))
		jar.SetCookies(must(url.Parse(issuer)), []*http.Cookie{{Name: "old", Value: "cookie"}})
		m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: as, Jar: jar}))
		for range 3 {
			next := &spy{}
			r := get("Bearer " + as.secret("opaque-"+rand.Text()))
			r.Header.Set("Cookie", "client=1")
			r.Header.Set("X-Request-Id", "from-the-client")
			if got := as.outcome(serve(m.Handler(next), r), next, 0); got != codeOK {
				t.Error(got)
			}
			synctest.Wait()
			time.Sleep(6 * time.Minute)
		}
		requests := as.recorded(jwksPath)
		if len(requests) != 3 {
			t.Errorf("%d fetches", len(requests))
		}
		for _, r := range requests {
			bareRequest(t, r, "application/jwk-set+json, application/json")
		}
		if n := len(jar.Cookies(must(url.Parse(issuer)))); n != 1 {
			t.Errorf("%d cookies in the caller's jar", n)
		}
	})
}

// bareRequest checks that a request for a document says nothing of us.
func bareRequest(t *testing.T, r *http.Request, accept string) {
	t.Helper()
	want := http.Header{"Accept": {accept}, "Accept-Encoding": {"identity"}}
	if r.Method != http.MethodGet || r.URL.RawQuery != "" || r.URL.User != nil || fmt.Sprint(r.Header) != fmt.Sprint(want) {
		t.Errorf("%s %s with %v, want %v", r.Method, r.URL, r.Header, want)
	}
	if body, err := io.ReadAll(r.Body); err != nil || len(body) != 0 {
		t.Errorf("body %q, %v", body, err)
	}
}

func TestStaticKeys(t *testing.T) {
	algorithms := map[string]crypto.Signer{
		"RS256": rsaKey(), "RS384": rsaKey(), "RS512": rsaKey(), "PS256": rsaKey(), "PS384": rsaKey(), "PS512": rsaKey(),
		"ES256": p256Key(), "ES384": p384Key(), "ES512": p521Key(), "EdDSA": edKey(),
	}
	every := phantom.StaticKeys(otherRSA().Public(), rsaKey().Public(), p256Key().Public(), p384Key().Public(), p521Key().Public(), edKey().Public())
	for alg, key := range algorithms {
		t.Run(alg, func(t *testing.T) {
			for kid, header := range map[string]string{
				"with kid":    fmt.Sprintf(`{"alg":%q,"kid":"whatever"}`, alg),
				"without kid": fmt.Sprintf(`{"alg":%q}`, alg),
			} {
				as := newAS(t)
				as.introspect = answerJWT(mintHeader(alg, header, claims(nil)))
				as.tryStatic(t, kid, phantom.StaticKeys(key.Public()), codeOK)
				as.tryStatic(t, kid+", one of many", every, codeOK)
				other := phantom.StaticKeys(otherRSA().Public(), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public())
				as.tryStatic(t, kid+", others", other, code401T)
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

// withKeys is the fixture's configuration with a key set in place of the JWKS
// URL.
func (as *fakeAS) withKeys(keys phantom.KeySet, extra ...phantom.Option) []phantom.Option {
	options := as.options()
	options[3] = phantom.WithKeySet(keys)
	return append(options, extra...)
}

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

func TestUnfitStaticKeys(t *testing.T) {
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	off := &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
	for name, keys := range map[string][]crypto.PublicKey{
		"none":                    {},
		"nil":                     {nil},
		"nil *rsa.PublicKey":      {(*rsa.PublicKey)(nil)},
		"nil *ecdsa.PublicKey":    {(*ecdsa.PublicKey)(nil)},
		"empty *rsa.PublicKey":    {&rsa.PublicKey{}},
		"empty *ecdsa.PublicKey":  {&ecdsa.PublicKey{}},
		"RSA of 1024 bits":        {weak.Public()},
		"RSA of 8200 bits":        {&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8199), E: 65537}},
		"RSA with e = 1":          {&rsa.PublicKey{N: rsaKey().N, E: 1}},
		"RSA with even e":         {&rsa.PublicKey{N: rsaKey().N, E: 65536}},
		"RSA with negative e":     {&rsa.PublicKey{N: rsaKey().N, E: -3}},
		"RSA with negative n":     {&rsa.PublicKey{N: new(big.Int).Neg(rsaKey().N), E: 65537}},
		"RSA by value":            {rsaKey().PublicKey},
		"P-224":                   {p224.Public()},
		"EC off the curve":        {off},
		"Ed25519 of 31 bytes":     {edKey().Public().(ed25519.PublicKey)[:31]},
		"Ed25519 of small order":  {ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))},
		"Ed25519 of no bytes":     {ed25519.PublicKey(nil)},
		"a private RSA key":       {rsaKey()},
		"a private EC key":        {p256Key()},
		"a private Ed25519 key":   {edKey()},
		"a secret":                {[]byte("a-symmetric-key-of-thirty-two-by")},
		"a string":                {"-----BEGIN PUBLIC KEY-----"},
		"an unfit one among fit":  {rsaKey().Public(), weak.Public(), edKey().Public()},
		"a fit one twice, no one": {edKey().Public(), edKey().Public(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			m, err := phantom.New(as.withKeys(phantom.StaticKeys(keys...))...)
			var fault *phantom.ConfigError
			if m != nil || !errors.As(err, &fault) || fault.Option != "WithKeySet" {
				t.Fatalf("%v, %v", m, err)
			}
			if strings.Contains(err.Error(), "symmetric-key") || strings.Contains(err.Error(), "BEGIN") || len(err.Error()) > 200 {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
	t.Run("a key set that is nil", func(t *testing.T) {
		as := newAS(t)
		for name, keys := range map[string]phantom.KeySet{"nil": nil, "typed nil": keySetFunc(nil)} {
			var fault *phantom.ConfigError
			if _, err := phantom.New(as.withKeys(keys)...); !errors.As(err, &fault) || fault.Option != "WithKeySet" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("beside a JWKS URL", func(t *testing.T) {
		as := newAS(t)
		var fault *phantom.ConfigError
		_, err := phantom.New(as.options(phantom.WithKeySet(phantom.StaticKeys(edKey().Public())))...)
		if !errors.As(err, &fault) || fault.Option != "WithKeySet" || fault.Reason != "excludes WithJWKSURL" {
			t.Errorf("%v", err)
		}
	})
}

// StaticKeys may be used on its own, by whoever takes a KeySet.
func TestStaticKeysAlone(t *testing.T) {
	keys := phantom.StaticKeys(edKey().Public())
	good := mint("EdDSA", claims(nil))
	payload, err := keys.VerifySignature(t.Context(), good)
	if err != nil || !bytes.Equal(payload, must(b64Decode(strings.Split(good, ".")[1]))) {
		t.Errorf("%q, %v", payload, err)
	}
	for name, c := range map[string]struct {
		jwt string
		is  error
	}{
		"bad signature": {withSignature(good, make([]byte, 64)), phantom.ErrInvalidToken},
		"another alg":   {mint("RS256", claims(nil)), phantom.ErrInvalidToken},
		"HMAC":          {hs256(edKey().Public().(ed25519.PublicKey)), phantom.ErrInvalidToken},
		"malformed":     {good + ".", phantom.ErrUpstream},
		"empty":         {"", phantom.ErrUpstream},
	} {
		payload, err := keys.VerifySignature(t.Context(), c.jwt)
		if payload != nil || !errors.Is(err, c.is) {
			t.Errorf("%s: %q, %v", name, payload, err)
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

func (timeoutError) Error() string   { return "no route" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestOwnKeySet(t *testing.T) {
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
	for _, c := range []struct {
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
		t.Run(c.name, func(t *testing.T) {
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
				return c.keys(ctx, got)
			}), booked(book))...))
			if err := m.Warm(t.Context()); err != nil || calls != 0 {
				t.Errorf("Warm: %v, %d calls", err, calls)
			}
			if got := as.try(m, "opaque"); got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
			checkLine(t, book.take(), c.want, c.detail)
			broken = false
			if got := as.try(m, "opaque"); got != codeOK {
				t.Errorf("the next request: %s", got)
			}
			wantCalls := 2
			if c.want == codeOK {
				wantCalls = 1
			}
			if calls != wantCalls || as.calls.Load() != int64(wantCalls) || as.fetches.Load() != 0 {
				t.Errorf("key set asked %d times, server %d times, %d fetches", calls, as.calls.Load(), as.fetches.Load())
			}
		})
	}
}

// What its own list and parser refuse, a Middleware does not ask a KeySet
// about.
func TestOwnKeySetIsNotAsked(t *testing.T) {
	good := mint("ES256", claims(nil))
	for name, c := range map[string]struct{ jwt, want string }{
		"none":           {b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(goodPayload())) + ".AAAA", code401T},
		"HMAC":           {hs256([]byte(clientSecret)), code401T},
		"alg not listed": {mint("RS256", claims(nil)), code401T},
		"crit":           {es256(`{"alg":"ES256","crit":["b64"],"b64":false}`, goodPayload()), code401T},
		"typ":            {es256(`{"alg":"ES256","typ":"dpop+jwt"}`, goodPayload()), code401T},
		"four segments":  {good + ".AAAA", code502A},
		"sub twice":      {es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"sub":"b"}`), code502A},
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(c.jwt)
			m := must(phantom.New(as.withKeys(keySetFunc(func(_ context.Context, jwt string) ([]byte, error) {
				t.Error("asked")
				return payloadOf(jwt), nil
			}), phantom.WithAlgorithms("ES256"))...))
			if got := as.try(m, "opaque"); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// The claims are checked whoever checked the signature.
func TestOwnKeySetIsNotTheLastCheck(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"iss": "https://other.test"})))
	keys := keySetFunc(func(_ context.Context, jwt string) ([]byte, error) { return payloadOf(jwt), nil })
	if got := as.try(must(phantom.New(as.withKeys(keys)...)), "opaque"); got != code401T {
		t.Error(got)
	}
}

func TestOwnKeySetThatHangs(t *testing.T) {
	for name, keys := range map[string]func(release <-chan struct{}) keySetFunc{
		"until its context ends": func(<-chan struct{}) keySetFunc {
			return func(ctx context.Context, _ string) ([]byte, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"whatever its context does": func(release <-chan struct{}) keySetFunc {
			return func(context.Context, string) ([]byte, error) {
				<-release
				return nil, nil
			}
		},
		"and ends its goroutine": func(<-chan struct{}) keySetFunc {
			return func(context.Context, string) ([]byte, error) {
				runtime.Goexit()
				return nil, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				release := make(chan struct{})
				broken := keys(release)
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
