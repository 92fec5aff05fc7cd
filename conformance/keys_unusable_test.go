package conformance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

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

// member is a part of a JWK, or the whole of one.
type member = map[string]any

// An unusableKey is a key of the key set that must not be used.
type unusableKey struct {
	name  string
	key   any
	level slog.Level                  // 0: the key is not for us, and the log is silent
	sign  func(payload string) string // makes a JWT with it, if that is possible
}

// runUnusableKeys puts each key beside a good one, which must go on working.
// The log says once why the other is not used, and a JWT of it is refused.
func runUnusableKeys(t *testing.T, cases []unusableKey) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				if key, ok := tc.key.(map[string]any); ok {
					for _, name := range []string{"n", "x", "d", "p", "k"} {
						if s, ok := key[name].(string); ok {
							as.secret(s)
						}
					}
				}
				book := as.logBook()
				m := as.middleware(booked(book))
				good := jwk("k-EdDSA", "EdDSA", edKey().Public())
				document := must(json.Marshal(map[string]any{"keys": []any{tc.key, good}}))
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
				case tc.level == 0 && len(said) != 0:
					t.Errorf("logged %v", said)
				case tc.level != 0 && (len(said) != 1 || said[0].level != tc.level ||
					said[0].msg != "phantom: a key of the issuer is not used" ||
					!strings.HasPrefix(said[0].attrs["detail"], "key 0: ")):
					t.Errorf("logged %v, want once at %v", said, tc.level)
				}
				if tc.sign != nil {
					as.introspect = answerJWT(tc.sign(goodPayload())) // whose times are the bubble's
					if got := as.tries(m, 1); got != code401T {
						t.Errorf("a JWT of that key: %s", got)
					}
				}
			})
		})
	}
}

// signer makes JWTs with the key under the name kid.
func signer(alg string, key crypto.Signer, kid string) func(payload string) string {
	return func(payload string) string {
		return compact(alg, key, fmt.Sprintf(`{"alg":%q,"kid":%q}`, alg, kid), payload)
	}
}

// badEC returns the JWK of a new P-256 key with the kid "bad".
func badEC() map[string]any {
	return jwk("bad", "", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public())
}

// rsaJWK returns the JWK of any modulus and exponent, with the kid "bad".
func rsaJWK(n *big.Int, e string) map[string]any {
	return map[string]any{"kty": "RSA", "kid": "bad", "use": "sig", "n": b64(n.Bytes()), "e": e}
}

// randomModulus returns an odd number with the topmost bit set.
func randomModulus(bits int) *big.Int {
	b := make([]byte, bits/8)
	_, _ = rand.Read(b)
	b[0] |= 0x80
	b[len(b)-1] |= 1
	return new(big.Int).SetBytes(b)
}

// rocaModulus returns a modulus as the vulnerable generator made it: a power of
// 65537 modulo the product of small primes.
func rocaModulus() *big.Int {
	product := big.NewInt(1)
	for _, p := range []int64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157} {
		product.Mul(product, big.NewInt(p))
	}
	roca := new(big.Int).Div(randomModulus(2048), product)
	roca.SetBit(roca, 0, 0).Mul(roca, product)
	roca.Add(roca, new(big.Int).Exp(big.NewInt(65537), big.NewInt(6), product))
	if roca.Bit(0) == 0 {
		roca.Add(roca, product)
	}
	return roca
}

// forgeForExponentOne makes a JWT without a private key: with e = 1 the padded
// hash is its own signature.
func forgeForExponentOne(payload string) string {
	input := b64([]byte(`{"alg":"RS256","kid":"bad"}`)) + "." + b64([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	info := append([]byte{
		0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
	}, digest[:]...)
	padded := append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, 256-3-len(info))...)
	return input + "." + b64(append(append(padded, 0), info...))
}

// A key of a kind that we do not know is not for us.
//
// Catalogue: K184.
func TestKeyOfAnUnknownKindIsIgnored(t *testing.T) {
	x := badEC()["x"].(string)
	runUnusableKeys(t, []unusableKey{
		{"unknown kty", member{"kty": "AKP", "alg": "ML-DSA-65", "kid": "bad", "pub": "AAAA"}, 0, nil},
		{"Ed448", member{"kty": "OKP", "crv": "Ed448", "kid": "bad", "x": b64(make([]byte, 57))}, 0, nil},
		{"X25519", member{"kty": "OKP", "crv": "X25519", "kid": "bad", "x": b64(make([]byte, 32))}, 0, nil},
		{"secp256k1", member{"kty": "EC", "crv": "secp256k1", "kid": "bad", "x": x, "y": x}, 0, nil},
		{"empty kty", member{"kty": "", "kid": "bad"}, 0, nil},
	})
}

// An RSA key is ignored if it is too weak or too large, or no RSA key at all.
//
// Catalogue: K187.
func TestUnfitRSAKeyIsIgnored(t *testing.T) {
	n := randomModulus
	even := new(big.Int).Add(rsaKey().N, big.NewInt(1))
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	runUnusableKeys(t, []unusableKey{
		{"512 bits", rsaJWK(n(512), "AQAB"), slog.LevelWarn, nil},
		{"1024 bits", jwk("bad", "RS256", small.Public()), slog.LevelWarn, signer("RS256", small, "bad")},
		{"2040 bits", rsaJWK(n(2040), "AQAB"), slog.LevelWarn, nil},
		{"8200 bits", rsaJWK(n(8200), "AQAB"), slog.LevelWarn, nil},
		{"100,000 bits", rsaJWK(n(100_000), "AQAB"), slog.LevelWarn, nil},
		{"e = 1", rsaJWK(rsaKey().N, "AQ"), slog.LevelWarn, forgeForExponentOne},
		{"even e", rsaJWK(rsaKey().N, "BA"), slog.LevelWarn, nil},
		{"e = 0", rsaJWK(rsaKey().N, "AA"), slog.LevelWarn, nil},
		{"e of 5 bytes", rsaJWK(rsaKey().N, "AQAAAAE"), slog.LevelWarn, nil},
		{"e empty", rsaJWK(rsaKey().N, ""), slog.LevelWarn, nil},
		{"e missing", with(rsaJWK(rsaKey().N, ""), member{"e": nil}), slog.LevelWarn, nil},
		{"e a number", with(rsaJWK(rsaKey().N, ""), member{"e": 65537}), slog.LevelWarn, nil},
		{"even n", rsaJWK(even, "AQAB"), slog.LevelWarn, nil},
		{"n empty", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": ""}), slog.LevelWarn, nil},
		{"n null", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": nil}), slog.LevelWarn, nil},
		{"n padded", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": b64(rsaKey().N.Bytes()) + "=="}), slog.LevelWarn, nil},
		{"n in standard base64", with(rsaJWK(rsaKey().N, "AQAB"), member{"n": strings.Repeat("+/", 170)}), slog.LevelWarn, nil},
		{"a modulus of the ROCA kind", rsaJWK(rocaModulus(), "AQAB"), slog.LevelWarn, nil},
	})
}

// An elliptic curve key is ignored if it is no point of its curve, or one of
// small order.
//
// Catalogue: K187.
func TestUnfitCurveKeyIsIgnored(t *testing.T) {
	ec := badEC()
	x := ec["x"].(string)
	zero := b64(make([]byte, 32))
	ok := edKey().Public().(ed25519.PublicKey)
	okp := jwk("bad", "", ok)
	identity := append([]byte{1}, make([]byte, 31)...)
	byIdentity := func(payload string) string { // R = A = the neutral element, s = 0: good for every message
		return b64([]byte(`{"alg":"EdDSA","kid":"bad"}`)) + "." + b64([]byte(payload)) + "." +
			b64(append(bytes.Clone(identity), make([]byte, 32)...))
	}
	runUnusableKeys(t, []unusableKey{
		{"EC off the curve", with(ec, member{"x": ec["y"], "y": x}), slog.LevelWarn, nil},
		{"EC (0,0)", with(ec, member{"x": zero, "y": zero}), slog.LevelWarn, nil},
		{"EC oversize x", with(ec, member{"x": "AA" + x}), slog.LevelWarn, nil},
		{"EC short x", with(ec, member{"x": x[:40]}), slog.LevelWarn, nil},
		{"EC without y", with(ec, member{"y": nil}), slog.LevelWarn, nil},
		{"EC point of another curve", with(ec, member{"crv": "P-384"}), slog.LevelWarn, nil},
		{"EC crv a number", with(ec, member{"crv": 256}), slog.LevelWarn, nil},
		{"Ed25519 of 31 bytes", with(okp, member{"x": b64(ok[:31])}), slog.LevelWarn, nil},
		{"Ed25519 of small order", with(okp, member{"x": b64(identity)}), slog.LevelWarn, byIdentity},
	})
}

// A key that is no JWK is ignored, and so is a symmetric one.
//
// Catalogue: K187.
func TestMalformedKeyIsIgnored(t *testing.T) {
	ec := badEC()
	runUnusableKeys(t, []unusableKey{
		{"a short symmetric key", member{"kty": "oct", "kid": "bad", "k": "c2hvcnQ"}, slog.LevelWarn, nil},
		{"not an object", "bad", slog.LevelWarn, nil},
		{"null", nil, slog.LevelWarn, nil},
		{"no kty", with(ec, member{"kty": nil}), slog.LevelWarn, nil},
		{"kty a number", with(ec, member{"kty": 1}), slog.LevelWarn, nil},
		{"kid a number", with(ec, member{"kid": 1}), slog.LevelWarn, nil},
		{"kid of 257 bytes", with(ec, member{"kid": strings.Repeat("k", 257)}), slog.LevelWarn, nil},
		{"alg a number", with(ec, member{"alg": 1}), slog.LevelWarn, nil},
	})
}

// A private key that is published is not used, and the log calls it an error.
//
// Catalogue: K188.
func TestPublishedPrivateKeyIsIgnored(t *testing.T) {
	byOther := signer("RS256", otherRSA(), "bad")
	zero := b64(make([]byte, 32))
	ec, okp := badEC(), jwk("bad", "", edKey().Public())
	runUnusableKeys(t, []unusableKey{
		{"RSA private", privateJWK("d", "p", "q", "dp", "dq", "qi"), slog.LevelError, byOther},
		{"RSA d alone", privateJWK("d"), slog.LevelError, nil},
		{"RSA p alone", privateJWK("p"), slog.LevelError, nil},
		{"d null", with(jwk("bad", "RS256", otherRSA().Public()), member{"d": null}), slog.LevelError, byOther},
		{"EC private", with(ec, member{"d": zero}), slog.LevelError, nil},
		{"OKP private", with(okp, member{"d": b64(edKey().Seed())}), slog.LevelError, nil},
	})
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

// A key that is not for signatures, or not of that algorithm, verifies none.
//
// Catalogue: K190.
func TestKeyForAnotherUseIsIgnored(t *testing.T) {
	byOther := signer("RS256", otherRSA(), "bad")
	runUnusableKeys(t, []unusableKey{
		{"use enc", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": "enc"}), 0, byOther},
		{"use SIG", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": "SIG"}), slog.LevelWarn, byOther},
		{"use a number", with(jwk("bad", "RS256", otherRSA().Public()), member{"use": 1}), slog.LevelWarn, byOther},
		{"key_ops without verify", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": []string{"sign", "encrypt"}}), slog.LevelWarn, byOther},
		{"key_ops empty", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": []string{}}), slog.LevelWarn, byOther},
		{"key_ops a string", with(jwk("bad", "RS256", otherRSA().Public()), member{"key_ops": "verify"}), slog.LevelWarn, byOther},
		{"another alg", jwk("bad", "RS512", otherRSA().Public()), 0, byOther},
		{"alg of another kind", jwk("bad", "ES256", otherRSA().Public()), slog.LevelWarn, byOther},
		{"alg of encryption", jwk("bad", "RSA-OAEP", otherRSA().Public()), 0, byOther},
		{"alg none", jwk("bad", "none", otherRSA().Public()), slog.LevelWarn, byOther},
	})
}

// A kid is another one if one letter differs in case.
//
// Catalogue: K198.
func TestKidIsComparedExactly(t *testing.T) {
	runUnusableKeys(t, []unusableKey{
		{"kid of another case", jwk("K-EdDSA2", "EdDSA", edKey().Public()), 0, signer("EdDSA", edKey(), "k-eddsa2")},
		{"kid with a space", jwk("bad ", "RS256", otherRSA().Public()), 0, signer("RS256", otherRSA(), "bad")},
	})
}

// Of keys with the same kid all are tried, and the unfit ones do not count.
//
// Catalogue: K189.
func TestKeysOfTheSameKidAreAllTried(t *testing.T) {
	wrong := jwk("k-EdDSA", "EdDSA", must2(ed25519.GenerateKey(rand.Reader)))
	right := jwk("k-EdDSA", "EdDSA", edKey().Public())
	rsa := jwk("k-EdDSA", "RS256", rsaKey().Public())
	for _, tc := range []struct {
		name string
		keys []map[string]any
		want string
	}{
		{"first wrong, second right", []map[string]any{wrong, right}, codeOK},
		{"first right, second wrong", []map[string]any{right, wrong}, codeOK},
		{"first of another kind", []map[string]any{rsa, right}, codeOK},
		{"first unusable", []map[string]any{with(right, map[string]any{"x": "AA"}), right}, codeOK},
		{"first symmetric", []map[string]any{{"kty": "oct", "kid": "k-EdDSA", "k": "AAAA"}, right}, codeOK},
		{"the same one twice", []map[string]any{right, right}, codeOK},
		{"both wrong", []map[string]any{wrong, wrong}, code401T},
		{"the right one not for signatures", []map[string]any{wrong, with(right, map[string]any{"use": "enc"})}, code401T},
		{"other kinds do not count", append(slices.Repeat([]map[string]any{rsa}, 20), right), codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = newToken
			as.jwks = answer(200, "application/json", jwks(tc.keys...))
			if got := as.tries(as.middleware(), 1); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	t.Run("keys twice at the start", func(t *testing.T) {
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

// A key without an algorithm is good for those that fit its type and its
// curve, as far as they are allowed.
//
// Catalogue: K191.
func TestKeyWithoutAlgorithmFitsByType(t *testing.T) {
	keys := jwks(jwk("rsa", "", rsaKey().Public()), jwk("p256", "", p256Key().Public()),
		jwk("p384", "", p384Key().Public()), jwk("p521", "", p521Key().Public()), jwk("ed", "", edKey().Public()))
	for _, tc := range []struct{ alg, kid string }{
		{"RS256", "rsa"},
		{"RS384", "rsa"},
		{"RS512", "rsa"},
		{"PS256", "rsa"},
		{"PS384", "rsa"},
		{"PS512", "rsa"},
		{"ES256", "p256"},
		{"ES384", "p384"},
		{"ES512", "p521"},
		{"EdDSA", "ed"},
	} {
		t.Run(tc.alg, func(t *testing.T) {
			for _, named := range []string{"rsa", "p256", "p384", "p521", "ed"} {
				as := newAS(t)
				as.jwks = answer(200, "application/json", keys)
				as.introspect = answerJWT(mintHeader(tc.alg, fmt.Sprintf(`{"alg":%q,"kid":%q}`, tc.alg, named), claims(nil)))
				want := code401T
				if named == tc.kid {
					want = codeOK
				}
				if got := as.try(as.middleware(), "opaque"); got != want {
					t.Errorf("with the key %s: %s, want %s", named, got, want)
				}
			}
			as := newAS(t)
			as.jwks = answer(200, "application/json", keys)
			as.introspect = answerJWT(mintHeader(tc.alg, fmt.Sprintf(`{"alg":%q}`, tc.alg), claims(nil)))
			if got := as.try(as.middleware(), "opaque"); got != codeOK {
				t.Errorf("without kid: %s", got)
			}
			others := phantom.WithAlgorithms(map[bool]string{true: "PS384", false: "RS256"}[tc.alg == "RS256"])
			if got := as.try(as.middleware(others), "opaque"); got != code401T {
				t.Errorf("not in the list: %s", got)
			}
		})
	}
}
