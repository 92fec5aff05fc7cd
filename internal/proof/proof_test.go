package proof_test

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
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/proof"
)

// The signing side is the standard library alone, so that a mistake in the
// package cannot hide behind the same mistake in its tests.

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var keys = sync.OnceValue(func() map[string]crypto.Signer {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"RSA":   must(rsa.GenerateKey(rand.Reader, 2048)),
		"ES256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"ES384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"ES512": must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)),
		"Ed":    must(ed, err),
		"other": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
	}
})

func keyFor(alg string) crypto.Signer {
	switch alg[:2] {
	case "ES":
		return keys()[alg]
	case "Ed":
		return keys()["Ed"]
	}
	return keys()["RSA"]
}

func b64(octets []byte) string { return base64.RawURLEncoding.EncodeToString(octets) }

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

// rawSign signs input as alg says.
func rawSign(alg string, key crypto.Signer, input string) []byte {
	if alg[:2] == "Ed" {
		return must(key.Sign(rand.Reader, []byte(input), crypto.Hash(0)))
	}
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
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
	size := (must(private.Curve, err).Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

// changed returns the members with changes; nil removes.
func changed(members map[string]any, changes map[string]any) string {
	out := maps.Clone(members)
	maps.Copy(out, changes)
	maps.DeleteFunc(out, func(_ string, v any) bool { return v == nil })
	return string(must(json.Marshal(out)))
}

func headerOf(alg string) map[string]any {
	return map[string]any{"typ": "dpop+jwt", "alg": alg, "jwk": jwkOf(keyFor(alg).Public())}
}

const goodClaims = `{"jti":"1","htm":"GET","htu":"https://api.example.com/","iat":1,"ath":"x"}`

func compact(alg string, key crypto.Signer, header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(rawSign(alg, key, input))
}

func TestEachAlgorithmProves(t *testing.T) {
	for _, alg := range append(jose.Algorithms(), "Ed25519") {
		key := keyFor(alg)
		text := compact(alg, key, changed(headerOf(alg), nil), goodClaims)
		p, err := proof.Parse(text, jose.Algorithms())
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		want := sha256.Sum256([]byte(changed(jwkOf(key.Public()), nil)))
		if p.Thumbprint != b64(want[:]) {
			t.Errorf("%s: another thumbprint", alg)
		}
		if htm, ok := p.Text("htm"); htm != "GET" || !ok {
			t.Errorf("%s: htm %q", alg, htm)
		}
		var others []string
		for _, other := range jose.Algorithms() {
			if other != jose.Canonical(alg) {
				others = append(others, other)
			}
		}
		if _, err := proof.Parse(text, others); err != proof.ErrAlgorithm {
			t.Errorf("%s, which is not in the list: %v", alg, err)
		}
	}
}

// Catalogue: E2, E3, E4.
func TestOnlyAProperHeaderProves(t *testing.T) {
	ours := jwkOf(keyFor("ES256").Public())
	with := func(member string, value any) map[string]any {
		jwk := maps.Clone(ours)
		jwk[member] = value
		return map[string]any{"jwk": jwk}
	}
	small := jwkOf(must(rsa.GenerateKey(rand.Reader, 1024)).Public())
	for _, tc := range []struct {
		name   string
		header map[string]any
		want   proof.Fault // "": good
	}{
		{"good", nil, ""},
		{"typ in upper case", map[string]any{"typ": "DPOP+JWT"}, ""},
		{"further parameters", map[string]any{"x": 1, "x5c": []string{"AA"}, "jku": "https://evil.example", "kid": "k"}, ""},
		{"further members of the jwk", with("kid", "k"), ""},
		{"jwk for signatures", with("use", "sig"), ""},
		{"jwk that may verify", with("key_ops", []string{"verify"}), ""},

		{"no typ", map[string]any{"typ": nil}, proof.ErrType},
		{"typ of a JWT", map[string]any{"typ": "JWT"}, proof.ErrType},
		{"typ of an access token", map[string]any{"typ": "at+jwt"}, proof.ErrType},
		{"typ is a number", map[string]any{"typ": 1}, proof.ErrType},
		{"typ is an array", map[string]any{"typ": []string{"dpop+jwt"}}, proof.ErrType},
		{"typ with a space", map[string]any{"typ": "dpop+jwt "}, proof.ErrType},

		{"no alg", map[string]any{"alg": nil}, proof.ErrAlgorithm},
		{"alg none", map[string]any{"alg": "none"}, proof.ErrAlgorithm},
		{"alg None", map[string]any{"alg": "None"}, proof.ErrAlgorithm},
		{"alg in lower case", map[string]any{"alg": "es256"}, proof.ErrAlgorithm},
		{"alg is a number", map[string]any{"alg": 256}, proof.ErrAlgorithm},
		{"alg of another curve", map[string]any{"alg": "ES384"}, proof.ErrKey},
		{"alg of another kind", map[string]any{"alg": "PS256"}, proof.ErrKey},

		{"no jwk", map[string]any{"jwk": nil}, proof.ErrKey},
		{"no jwk but a kid", map[string]any{"jwk": nil, "kid": "known"}, proof.ErrKey},
		{"no jwk but a jku", map[string]any{"jwk": nil, "jku": "https://api.example.com/jwks"}, proof.ErrKey},
		{"no jwk but an x5c", map[string]any{"jwk": nil, "x5c": []string{"AA"}}, proof.ErrKey},
		{"jwk is a string", map[string]any{"jwk": string(must(json.Marshal(ours)))}, proof.ErrKey},
		{"two keys", map[string]any{"jwk": []any{ours, ours}}, proof.ErrKey},
		{"key set", map[string]any{"jwk": map[string]any{"keys": []any{ours}}}, proof.ErrKey},
		{"private key", with("d", b64(must(keyFor("ES256").(*ecdsa.PrivateKey).Bytes()))), proof.ErrKey},
		{"empty private member", with("d", ""), proof.ErrKey},
		{"RSA's private members", with("qi", "AA"), proof.ErrKey},
		{"symmetric member", with("k", "AA"), proof.ErrKey},
		{"no kty", with("kty", nil), proof.ErrKey},
		{"no x", with("x", nil), proof.ErrKey},
		{"off the curve", with("x", b64(make([]byte, 32))), proof.ErrKey},
		{"unknown curve", with("crv", "secp256k1"), proof.ErrKey},
		{"padded x", with("x", ours["x"].(string)+"="), proof.ErrKey},
		{"pinned to another algorithm", with("alg", "ES384"), proof.ErrKey},
		{"for encryption", with("use", "enc"), proof.ErrKey},
		{"RSA of 1024 bits", map[string]any{"alg": "RS256", "jwk": small}, proof.ErrKey},
		{"symmetric key", map[string]any{"jwk": map[string]any{"kty": "oct", "k": "c2VjcmV0"}}, proof.ErrKey},

		{"key of another", map[string]any{"jwk": jwkOf(keys()["other"].Public())}, proof.ErrSignature},

		{"crit", map[string]any{"crit": []string{"exp"}, "exp": 1}, proof.ErrHeader},
		{"b64", map[string]any{"b64": false}, proof.ErrHeader},
		{"names that differ in case", map[string]any{"ALG": "none"}, proof.ErrHeader},
	} {
		text := compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), tc.header), goodClaims)
		if _, err := proof.Parse(text, jose.Algorithms()); faultOf(err) != tc.want {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func faultOf(err error) proof.Fault {
	if err == nil {
		return ""
	}
	return err.(proof.Fault)
}

// HMAC with the public key, or with a key in the header, is what a verifier
// falls for that believes alg.
//
// Catalogue: E3.
func TestASymmetricSignatureProvesNothing(t *testing.T) {
	pub := keyFor("ES256").Public().(*ecdsa.PublicKey)
	secret := []byte("a secret of thirty-two bytes, ha")
	for _, tc := range []struct {
		name   string
		secret []byte
		jwk    any
	}{
		{"the public key as the secret", must(pub.Bytes()), jwkOf(pub)},
		{"a secret in the header", secret, map[string]any{"kty": "oct", "k": b64(secret)}},
	} {
		header := changed(headerOf("ES256"), map[string]any{"alg": "HS256", "jwk": tc.jwk})
		input := b64([]byte(header)) + "." + b64([]byte(goodClaims))
		mac := hmac.New(sha256.New, tc.secret)
		mac.Write([]byte(input))
		if _, err := proof.Parse(input+"."+b64(mac.Sum(nil)), jose.Algorithms()); err != proof.ErrAlgorithm {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// Catalogue: E2.
func TestOnlyACompactJWSProves(t *testing.T) {
	good := compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), nil), goodClaims)
	parts := strings.Split(good, ".")
	padded := func(size int) string {
		claims := `{"x":"` + strings.Repeat("x", size) + `"}`
		return compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), nil), claims)
	}
	for _, tc := range []struct {
		name, text string
		want       proof.Fault
	}{
		{"good", good, ""},
		{"8 KiB are enough", padded(5800), ""},
		{"9 KiB", padded(6800), proof.ErrForm},
		{"empty", "", proof.ErrForm},
		{"dots", "..", proof.ErrForm},
		{"no JWT", "proof", proof.ErrForm},
		{"two parts", parts[0] + "." + parts[1], proof.ErrForm},
		{"five parts", good + ".x.x", proof.ErrForm},
		{"no signature", parts[0] + "." + parts[1] + ".", proof.ErrForm},
		{"white space", good + " ", proof.ErrForm},
		{"two proofs", good + ", " + good, proof.ErrForm},
		{"padding", good + "=", proof.ErrForm},
		{"line break", parts[0] + "\n." + parts[1] + "." + parts[2], proof.ErrForm},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, proof.ErrForm},
		{"claims of a string", compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), nil), `"x"`), proof.ErrForm},
		{"a claim twice", compact("ES256", keyFor("ES256"), changed(headerOf("ES256"), nil), `{"htm":"GET","htm":"PUT"}`), proof.ErrForm},
		{"another's claims", parts[0] + "." + b64([]byte(`{}`)) + "." + parts[2], proof.ErrSignature},
		{"ASN.1 signature", asn1Signed(), proof.ErrSignature},
	} {
		if _, err := proof.Parse(tc.text, jose.Algorithms()); faultOf(err) != tc.want {
			t.Errorf("%s, of %d bytes: %v, want %q", tc.name, len(tc.text), err, tc.want)
		}
	}
}

// asn1Signed has the form of signatures that certificates have.
func asn1Signed() string {
	input := b64([]byte(changed(headerOf("ES256"), nil))) + "." + b64([]byte(goodClaims))
	digest := sha256.Sum256([]byte(input))
	return input + "." + b64(must(keyFor("ES256").Sign(rand.Reader, digest[:], crypto.SHA256)))
}

// No fault quotes what was sent.
func TestAFaultIsAFixedText(t *testing.T) {
	for _, text := range []string{"secret", "secret.secret.secret", b64([]byte(`{"alg":"secret"}`)) + ".e30.AA"} {
		_, err := proof.Parse(text, jose.Algorithms())
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
