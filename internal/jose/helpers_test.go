package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
)

// The signing side of these tests is the standard library alone, so that a
// mistake in the package cannot hide behind the same mistake in its tests.

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(k, err)
	})
)

var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// signerFor returns the test key that fits alg.
func signerFor(alg string) crypto.Signer {
	switch alg {
	case "ES256":
		return p256()
	case "ES384":
		return p384()
	case "ES512":
		return p521()
	case "EdDSA":
		return edKey()
	}
	return rsaKey()
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func decode64(text string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(text) }

func compact(header, payload string, signature []byte) string {
	return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(signature)
}

// rawSign signs input as alg says, whatever the kind of key can be made to do.
func rawSign(alg string, key crypto.Signer, input string) []byte {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	if alg == "EdDSA" {
		return must(key.Sign(rand.Reader, []byte(input), crypto.Hash(0)))
	}
	h := hash.New()
	h.Write([]byte(input))
	digest := h.Sum(nil)
	switch alg[:2] {
	case "RS":
		return must(key.Sign(rand.Reader, digest, hash))
	case "PS":
		return must(key.Sign(rand.Reader, digest, &rsa.PSSOptions{Hash: hash, SaltLength: rsa.PSSSaltLengthEqualsHash}))
	}
	private := key.(*ecdsa.PrivateKey)
	r, s, err := ecdsa.Sign(rand.Reader, private, digest)
	size := (private.Curve.Params().BitSize + 7) / 8
	return rs(must(r, err), s, size)
}

// rs is the JWS form of an ECDSA signature.
func rs(r, s *big.Int, size int) []byte {
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

// signed returns a JWT with exactly this header and payload.
func signed(alg string, key crypto.Signer, header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(rawSign(alg, key, input))
}

func hs256(secret []byte, header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

// object marshals a map, for headers and JWKs that differ in one member.
func object(members map[string]any) string { return string(must(json.Marshal(members))) }

// with returns a copy of base with the given members changed; a nil value
// deletes.
func with(base map[string]any, changes ...any) map[string]any {
	out := map[string]any{}
	for name, value := range base {
		out[name] = value
	}
	for i := 0; i < len(changes); i += 2 {
		if name := changes[i].(string); changes[i+1] == nil {
			delete(out, name)
		} else {
			out[name] = changes[i+1]
		}
	}
	return out
}

// jwkOf returns the members of the JWK of a public key.
func jwkOf(pub crypto.PublicKey) map[string]any {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "n": b64(pub.N.Bytes()), "e": b64(big.NewInt(int64(pub.E)).Bytes())}
	case *ecdsa.PublicKey:
		point := must(pub.Bytes())[1:]
		half := len(point) / 2
		return map[string]any{"kty": "EC", "crv": pub.Curve.Params().Name, "x": b64(point[:half]), "y": b64(point[half:])}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(pub)}
	}
	panic("no such key")
}

// setOf returns a JWK Set of JWKs given as maps or as raw JSON.
func setOf(jwks ...any) []byte {
	var list []string
	for _, jwk := range jwks {
		switch jwk := jwk.(type) {
		case string:
			list = append(list, jwk)
		case map[string]any:
			list = append(list, object(jwk))
		}
	}
	return []byte(`{"keys":[` + strings.Join(list, ",") + `]}`)
}

// class names the outcome of an error: "ok", "malformed", or the check that
// rejected.
func class(t testing.TB, err error) string {
	t.Helper()
	var rejection *jose.Rejection
	malformed, rejected := errors.Is(err, jose.ErrMalformed), errors.As(err, &rejection)
	switch {
	case err == nil:
		return "ok"
	case malformed && rejected:
		t.Fatalf("%v is both malformed and rejected", err)
	case malformed:
		return "malformed"
	case rejected:
		if rejection.Error() == "" || rejection.Detail == "" {
			t.Fatal("a rejection without text")
		}
		return rejection.Check
	}
	t.Fatalf("%v is neither malformed nor rejected", err)
	return ""
}

func newKey(t testing.TB, pub crypto.PublicKey) *jose.Key {
	t.Helper()
	key, err := jose.NewKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t testing.TB, jwt string) *jose.Message {
	t.Helper()
	m, err := jose.Parse(jwt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// oneKey parses a set that must hold one usable key and nothing dropped.
func oneKey(t testing.TB, jwk any) *jose.Key {
	t.Helper()
	keys, _, dropped, err := jose.ParseKeySet(setOf(jwk))
	if err != nil || len(dropped) > 0 || len(keys) != 1 {
		t.Fatalf("got %d keys, dropped %v, error %v", len(keys), dropped, err)
	}
	return keys[0]
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
