package conformance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// A JWT without a signature, or of an algorithm that we do not do, is
// refused. An empty signature makes it no JWT at all.
//
// Catalogue: J125.
func TestUnsignedJWTIsRefused(t *testing.T) {
	unsigned := func(alg string) string {
		return b64([]byte(`{"alg":`+alg+`,"kid":"k-ES256","typ":"at+jwt"}`)) + "." + b64([]byte(goodPayload())) + "."
	}
	good := es256(goodHeader, goodPayload())
	runJWTCases(t, []jwtCase{
		{"none, some signature", unsigned(`"none"`) + "AAAA", code401T, "alg", ""},
		{"None, some signature", unsigned(`"None"`) + "AAAA", code401T, "alg", ""},
		{"nOnE, some signature", unsigned(`"nOnE"`) + "AAAA", code401T, "alg", ""},
		{"none, empty segment", unsigned(`"none"`), code502A, "", ""},
		{"None, empty segment", unsigned(`"None"`), code502A, "", ""},
		{"nOnE, empty segment", unsigned(`"nOnE"`), code502A, "", ""},
		{"none with a good signature", es256(`{"alg":"none","kid":"k-ES256","typ":"at+jwt"}`, goodPayload()), code401T, "alg", ""},
		{"ES256, signature cut off", good[:strings.LastIndexByte(good, '.')+1], code502A, "", ""},
		{"alg missing", es256(`{"kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"alg null", es256(`{"alg":null}`, goodPayload()), code401T, "alg", ""},
		{"alg array", es256(`{"alg":["ES256"]}`, goodPayload()), code401T, "alg", ""},
		{"alg in lower case", es256(`{"alg":"es256","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"alg with a space", es256(`{"alg":"ES256 ","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"member ALG", es256(`{"ALG":"ES256","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"ES256K", es256(`{"alg":"ES256K","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"Ed448", compact("EdDSA", edKey(), `{"alg":"Ed448","kid":"k-EdDSA"}`, goodPayload()), code401T, "alg", ""},
	})
}

// hs256 signs the default payload with a shared secret.
func hs256(secret []byte) string {
	input := b64([]byte(`{"alg":"HS256","kid":"k-RS256","typ":"at+jwt"}`)) + "." + b64([]byte(goodPayload()))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

// A public key is no secret for an HMAC, and neither is our client secret.
//
// Catalogue: J126, J127.
func TestHMACWithAPublicSecretIsRefused(t *testing.T) {
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	pkcs1 := x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	runJWTCases(t, []jwtCase{
		{"the PEM block", hs256(block), code401T, "alg", ""},
		{"the PEM block without its line end", hs256(bytes.TrimSpace(block)), code401T, "alg", ""},
		{"the DER encoding", hs256(der), code401T, "alg", ""},
		{"the PKCS 1 encoding", hs256(pkcs1), code401T, "alg", ""},
		{"the modulus", hs256(rsaKey().N.Bytes()), code401T, "alg", ""},
		{"the modulus in base64url", hs256([]byte(b64(rsaKey().N.Bytes()))), code401T, "alg", ""},
		{"an empty secret", hs256(nil), code401T, "alg", ""},
		{"our client secret", hs256([]byte(clientSecret)), code401T, "alg", ""},
	})
}

// The algorithm in the header has to fit the key and the signature.
//
// Catalogue: J129, J132.
func TestAlgorithmFitsKeyAndSignature(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"RS512 header, RS256 signature", compact("RS256", rsaKey(), `{"alg":"RS512","kid":"k-RS256","typ":"at+jwt"}`, goodPayload()), code401T, "key", ""},
		{"RS256 header, RS512 signature", compact("RS512", rsaKey(), `{"alg":"RS256","kid":"k-RS256","typ":"at+jwt"}`, goodPayload()), code401T, "signature", ""},
		{"PS256 header, RS256 signature", compact("RS256", rsaKey(), `{"alg":"PS256","kid":"k-PS256","typ":"at+jwt"}`, goodPayload()), code401T, "signature", ""},
		{"P-384 signature", compact("ES384", p384Key(), `{"alg":"ES256","kid":"k-ES384","typ":"at+jwt"}`, goodPayload()), code401T, "key", ""},
		{"P-384 key, SHA-256", compact("ES256", p384Key(), `{"alg":"ES256","kid":"k-ES384","typ":"at+jwt"}`, goodPayload()), code401T, "key", ""},
		{"P-384 signature, P-256 kid", compact("ES384", p384Key(), goodHeader, goodPayload()), code401T, "signature", ""},
		{"RSA header, EC key", es256(`{"alg":"RS256","kid":"k-ES256","typ":"at+jwt"}`, goodPayload()), code401T, "key", ""},
	})
}

// A header that names a member twice is no header, whether the signature fits
// the first or the second.
//
// Catalogue: J131.
func TestHeaderMembersAreUnique(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"alg none, then RS256", compact("RS256", rsaKey(), `{"alg":"none","alg":"RS256","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"alg RS256, then none", compact("RS256", rsaKey(), `{"alg":"RS256","alg":"none","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"alg twice, once escaped", compact("RS256", rsaKey(), `{"alg":"RS256","\u0061lg":"none","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"kid twice", es256(`{"alg":"ES256","kid":"k-ES256","kid":"other"}`, goodPayload()), code502A, "", ""},
	})
}

// Without an algorithm in the JWK the header may choose one that fits the key.
// The signature then has to be of that one.
//
// Catalogue: J129.
func TestHeaderChoosesForAKeyWithoutAlgorithm(t *testing.T) {
	as := newAS(t)
	as.jwks = answer(200, "application/json", jwks(jwk("k-RS256", "", rsaKey().Public())))
	jwt := compact("RS256", rsaKey(), `{"alg":"RS512","kid":"k-RS256"}`, goodPayload())
	as.introspect = answerJWT(jwt)
	trialOf(t, as, jwt, code401T, "signature")
}

// A symmetric key that the server publishes is ignored. The keys beside it
// work, and the log does not show it.
//
// Catalogue: J128.
func TestSymmetricKeyInTheKeySetIsIgnored(t *testing.T) {
	secret := []byte("a-symmetric-key-of-thirty-two-by")
	oct := map[string]any{"kty": "oct", "kid": "k-RS256", "alg": "HS256", "k": b64(secret)}
	jwt := hs256(secret)
	as := newAS(t)
	as.secret(string(secret))
	as.secret(b64(secret))
	as.jwks = answer(200, "application/json", jwks(oct, jwk("k-ES256", "ES256", p256Key().Public())))
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		answerJWT(map[string]string{"hmac": jwt, "good": mint("ES256", claims(nil))}[r.Form.Get("token")])(w, r)
	}
	m := as.middleware()
	if got := as.try(m, "hmac"); got != code401T {
		t.Errorf("HS256 with the published key: %s", got)
	}
	if got := as.try(m, "good"); got != codeOK {
		t.Errorf("the key beside it: %s", got)
	}
	if strings.Contains(as.logs.String(), b64(secret)) {
		t.Error("the key is in the log")
	}
}

// An ECDSA signature has the form and the numbers that RFC 7518 prescribes.
// A bad one is refused and makes nothing panic.
//
// Catalogue: J133.
func TestMalformedECDSASignatureIsRefused(t *testing.T) {
	good := es256(goodHeader, goodPayload())
	sig := signature("ES256", p256Key(), good[:strings.LastIndexByte(good, '.')])
	order := p256Key().Params().N
	num := func(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
	zero, one := make([]byte, 32), num(big.NewInt(1))
	r, s := sig[:32], sig[32:]
	der := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)}))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, tc := range []struct {
		name string
		bad  []byte
	}{
		{"r = s = 0", join(zero, zero)},
		{"r = 0", join(zero, s)},
		{"s = 0", join(r, zero)},
		{"r = s = 1", join(one, one)},
		{"r = n", join(num(order), s)},
		{"s = n", join(r, num(order))},
		{"s = n + 1", join(r, num(new(big.Int).Add(order, big.NewInt(1))))},
		{"r and s all ones", bytes.Repeat([]byte{0xff}, 64)},
		{"65 bytes, zero in front", join([]byte{0}, sig)},
		{"65 bytes, zero behind", join(sig, []byte{0})},
		{"63 bytes", sig[:63]},
		{"one byte", []byte{1}},
		{"r and s the other way", join(s, r)},
		{"r and s with zeros between", join(zero, r, zero, s)},
		{"DER", der},
	} {
		t.Run(tc.name, func(t *testing.T) {
			trial(t, withSignature(good, tc.bad), code401T, "signature")
		})
	}
	t.Run("the other s", func(t *testing.T) { // as valid as the first, by the nature of ECDSA
		other := new(big.Int).Sub(order, new(big.Int).SetBytes(s))
		trial(t, withSignature(good, join(r, num(other))), codeOK, "")
	})
}

// flippedBit returns a copy of b with one bit of byte i flipped.
func flippedBit(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// An EdDSA signature has 64 bytes and one encoding only.
//
// Catalogue: J134.
func TestMalformedEdDSASignatureIsRefused(t *testing.T) {
	eddsa := mint("EdDSA", claims(nil))
	input := eddsa[:strings.LastIndexByte(eddsa, '.')]
	sig := signature("EdDSA", edKey(), input)
	addOrder := bytes.Clone(sig) // s + order of the group: the same point, another encoding
	order := []byte{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
		31: 0x10,
	}
	carry := 0
	for i := range order {
		carry += int(addOrder[32+i]) + int(order[i])
		addOrder[32+i] = byte(carry)
		carry >>= 8
	}
	for _, tc := range []struct {
		name string
		sig  []byte
		want string
	}{
		{"one byte short", sig[:63], code401T},
		{"one byte long", append(bytes.Clone(sig), 0), code401T},
		{"one byte", sig[:1], code401T},
		{"zeros", make([]byte, 64), code401T},
		{"s beyond the order", addOrder, code401T},
		{"as it was made", sig, codeOK},
		{"one bit flipped", flippedBit(sig, 40), code401T},
	} {
		t.Run(tc.name, func(t *testing.T) { trial(t, withSignature(eddsa, tc.sig), tc.want, "signature") })
	}
}

// An RSA signature is as long as the modulus, and nothing but the right one
// will do.
//
// Catalogue: J129.
func TestMalformedRSASignatureIsRefused(t *testing.T) {
	jwt := mint("RS256", claims(nil))
	sig := signature("RS256", rsaKey(), jwt[:strings.LastIndexByte(jwt, '.')])
	for _, tc := range []struct {
		name string
		bad  []byte
	}{
		{"one bit flipped", flippedBit(sig, 0)},
		{"one byte short", sig[1:]},
		{"zero in front", append([]byte{0}, sig...)},
		{"the number 1", append(make([]byte, 255), 1)},
		{"the modulus", rsaKey().N.Bytes()},
	} {
		t.Run(tc.name, func(t *testing.T) { trial(t, withSignature(jwt, tc.bad), code401T, "signature") })
	}
}

// A signature is good for its own payload and its own key.
//
// Catalogue: J139.
func TestSignatureOfAnotherIsRefused(t *testing.T) {
	other := mint("ES256", claims(map[string]any{"sub": "mallory"}))
	good := strings.Split(mint("ES256", claims(nil)), ".")
	swapped := strings.Join([]string{good[0], strings.Split(other, ".")[1], good[2]}, ".")
	for _, tc := range []struct{ name, jwt string }{
		{"payload of another token", swapped},
		{"another key under a known kid", compact("RS256", otherRSA(), `{"alg":"RS256","kid":"k-RS256"}`, goodPayload())},
	} {
		t.Run(tc.name, func(t *testing.T) { trial(t, tc.jwt, code401T, "signature") })
	}
}

// The salt of a PSS signature is as long as the hash: RFC 7518 section 3.5
// leaves no choice.
//
// Catalogue: J129.
func TestPSSSaltIsAsLongAsTheHash(t *testing.T) {
	input := b64([]byte(`{"alg":"PS256","kid":"k-PS256"}`)) + "." + b64([]byte(goodPayload()))
	digest := sha256.Sum256([]byte(input))
	for _, tc := range []struct {
		name string
		salt int
		want string
	}{
		{"as long as the hash", rsa.PSSSaltLengthEqualsHash, codeOK},
		{"as long as fits", rsa.PSSSaltLengthAuto, code401T},
		{"1 byte", 1, code401T},
		{"20 bytes", 20, code401T},
		{"33 bytes", 33, code401T},
	} {
		sig := must(rsa.SignPSS(rand.Reader, rsaKey(), crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: tc.salt}))
		t.Run(tc.name, func(t *testing.T) { trial(t, input+"."+b64(sig), tc.want, "signature") })
	}
}

// everyAlgorithm lists what is accepted by default.
var everyAlgorithm = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// An algorithm that WithAlgorithms does not list is refused, and no key is
// fetched for it.
//
// Catalogue: J129.
func TestUnlistedAlgorithmIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name    string
		allowed []string
		accepts map[string]bool
	}{
		{"ES256 only", []string{"ES256"}, map[string]bool{"ES256": true}},
		{"RS256 and EdDSA", []string{"RS256", "EdDSA"}, map[string]bool{"RS256": true, "EdDSA": true}},
		{"PS512 only", []string{"PS512"}, map[string]bool{"PS512": true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, alg := range everyAlgorithm {
				want := code401T
				if tc.accepts[alg] {
					want = codeOK
				}
				as := newAS(t)
				as.introspect = answerJWT(mint(alg, claims(nil)))
				m := as.middleware(phantom.WithAlgorithms(tc.allowed...))
				if got := as.try(m, "opaque"); got != want {
					t.Errorf("%s: %s, want %s", alg, got, want)
				}
				if n := as.fetches.Load(); want == code401T && n != 0 {
					t.Errorf("%s: %d key set fetches for an algorithm that is not allowed", alg, n)
				}
			}
		})
	}
}

// The signature is checked before any claim, so a forged JWT learns nothing of
// the claims that we want.
func TestSignatureIsCheckedBeforeClaims(t *testing.T) {
	forged := compact("ES256", must(ecdsa.GenerateKey(p256Key().Curve, rand.Reader)), goodHeader,
		string(must(json.Marshal(claims(map[string]any{"iss": "https://other.test", "exp": 1})))))
	trial(t, forged, code401T, "signature")
}
