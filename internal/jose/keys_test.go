package jose_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// modulus returns a number of exactly that many bits, random and odd. The
// filter looks at public keys, so a test needs no prime factors.
func modulus(bits int) *big.Int {
	n := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1))))
	return n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
}

func rsaJWK(n *big.Int, changes ...any) map[string]any {
	return with(map[string]any{"kty": "RSA", "n": b64(n.Bytes()), "e": "AQAB"}, changes...)
}

// verdict tells what became of a JWK set of one: "key", "skipped", "dropped",
// "private" or "set" for an error of the whole set.
func verdict(t testing.TB, jwk any) string {
	t.Helper()
	keys, _, dropped, err := jose.ParseKeySet(setOf(jwk))
	switch {
	case err != nil:
		if !errors.Is(err, jose.ErrMalformed) {
			t.Fatalf("%v is not ErrMalformed", err)
		}
		return "set"
	case len(keys)+len(dropped) > 1:
		t.Fatalf("one JWK became %d keys and %d errors", len(keys), len(dropped))
	case len(keys) == 1:
		return "key"
	case len(dropped) == 0:
		return "skipped"
	case errors.Is(dropped[0], jose.ErrPrivateKey):
		return "private"
	}
	return "dropped"
}

// A jwkCase is a JWK and what becomes of it.
type jwkCase struct {
	name string
	jwk  any
	want string
}

// checkJWKs has each JWK judged, and sees that it does not change what becomes
// of a good neighbour.
func checkJWKs(t *testing.T, tests []jwkCase) {
	t.Helper()
	first, last := with(jwkOf(&p256().PublicKey), "kid", "first"), with(jwkOf(edKey().Public()), "kid", "last")
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := verdict(t, tc.jwk); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			keys, _, _, err := jose.ParseKeySet(setOf(first, tc.jwk, last))
			if tc.want == "set" {
				if !errors.Is(err, jose.ErrMalformed) || keys != nil {
					t.Errorf("the set: %d keys, %v", len(keys), err)
				}
				return
			}
			if err != nil || len(keys) < 2 || keys[0].ID() != "first" || keys[len(keys)-1].ID() != "last" {
				t.Errorf("beside it: %d keys, %v", len(keys), err)
			}
		})
	}
}

// A kind of key that is not known is skipped, what is no JWK is dropped.
func TestKindsOfJWK(t *testing.T) {
	RSA, EC, ED, EC384, EC521 := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey), jwkOf(edKey().Public()), jwkOf(&p384().PublicKey), jwkOf(&p521().PublicKey)
	checkJWKs(t, []jwkCase{
		{"RSA", RSA, "key"}, {"P-256", EC, "key"}, {"P-384", EC384, "key"}, {"P-521", EC521, "key"}, {"Ed25519", ED, "key"},
		{"unknown members", with(RSA, "x5c", []int{1}, "x5t", 7, "x5u", nil, "nbf", 1, "foo", map[string]int{}), "key"},

		{"ML-DSA", `{"kty":"AKP","alg":"ML-DSA-65","pub":"AAAA","kid":"pq"}`, "skipped"},    // K184
		{"Ed448", with(ED, "crv", "Ed448", "x", b64(make([]byte, 57))), "skipped"},          // K184
		{"secp256k1", with(EC, "crv", "secp256k1", "alg", "ES256K"), "skipped"},             // K184
		{"X25519", with(ED, "crv", "X25519"), "skipped"},                                    // K184
		{"P-224", with(EC, "crv", "P-224"), "skipped"},                                      // K184
		{"brainpool", with(EC, "crv", "BP-256"), "skipped"},                                 // K184
		{"kty unknown with members called d and k", `{"kty":"NEW","d":1,"k":2}`, "skipped"}, // K184
		{"kty in another case", with(RSA, "kty", "rsa"), "skipped"},                         // K184
		{"crv in another case", with(ED, "crv", "ed25519"), "skipped"},                      // K184
		{"crv of another kty", with(ED, "crv", "P-256"), "skipped"},
		{"Ed25519 in kty EC", with(ED, "kty", "EC"), "skipped"},

		{"null", `null`, "dropped"}, {"string", `"RSA"`, "dropped"}, {"array", `[]`, "dropped"}, {"number", `1`, "dropped"},
		{"empty", `{}`, "dropped"},
		{"kty missing", with(RSA, "kty", nil), "dropped"},
		{"kty null", `{"kty":null}`, "dropped"},
		{"kty number", with(RSA, "kty", 1), "dropped"},
		{"crv missing", with(EC, "crv", nil), "dropped"},
		{"crv number", with(EC, "crv", 256), "dropped"},
	})
}

// The numbers of a key are those of its kind, and strong enough.
func TestNumbersOfJWK(t *testing.T) {
	EC, ED, EC384, EC521 := jwkOf(&p256().PublicKey), jwkOf(edKey().Public()), jwkOf(&p384().PublicKey), jwkOf(&p521().PublicKey)
	n := rsaKey().N
	evenN := new(big.Int).SetBit(n, 0, 0)
	x := p256().PublicKey.X.FillBytes(make([]byte, 32))
	checkJWKs(t, []jwkCase{
		{"RSA 512", rsaJWK(modulus(512)), "dropped"},             // K187
		{"RSA 1024", rsaJWK(modulus(1024)), "dropped"},           // K187
		{"RSA 2047", rsaJWK(modulus(2047)), "dropped"},           // K187
		{"RSA 2048", rsaJWK(modulus(2048)), "key"},               // K187
		{"RSA 2049", rsaJWK(modulus(2049)), "key"},               // K187
		{"RSA 3072", rsaJWK(modulus(3072)), "key"},               // K187
		{"RSA 4096", rsaJWK(modulus(4096)), "key"},               // K187
		{"RSA 8192", rsaJWK(modulus(8192)), "key"},               // K187
		{"RSA 8193", rsaJWK(modulus(8193)), "dropped"},           // K187
		{"RSA 16384", rsaJWK(modulus(16384)), "dropped"},         // K187
		{"RSA 1,000,000", rsaJWK(modulus(1_000_000)), "dropped"}, // K187
		{"2048 bits of zeros around 1024", rsaJWK(n, "n", b64(append(make([]byte, 128), modulus(1024).Bytes()...))), "dropped"}, // K187
		{"RSA leading zero of the modulus", rsaJWK(n, "n", b64(append([]byte{0}, n.Bytes()...))), "key"},
		{"RSA 8192 and leading zero", rsaJWK(n, "n", b64(append([]byte{0}, modulus(8192).Bytes()...))), "key"},
		{"e = 1", rsaJWK(n, "e", "AQ"), "dropped"},                                                      // K187
		{"e = 0", rsaJWK(n, "e", "AA"), "dropped"},                                                      // K187
		{"e = 2", rsaJWK(n, "e", "Ag"), "dropped"},                                                      // K187
		{"e = 3", rsaJWK(n, "e", "Aw"), "key"},                                                          // K187
		{"e = 17", rsaJWK(n, "e", "EQ"), "key"},                                                         // K187
		{"e even", rsaJWK(n, "e", "AQAA"), "dropped"},                                                   // K187
		{"e of 31 bits", rsaJWK(n, "e", b64([]byte{0x7f, 0xff, 0xff, 0xff})), "key"},                    // K187
		{"e = 2^31 + 1", rsaJWK(n, "e", b64([]byte{0x80, 0, 0, 1})), "dropped"},                         // K187
		{"e of 32 bits", rsaJWK(n, "e", b64([]byte{0xff, 0xff, 0xff, 0xff})), "dropped"},                // K187
		{"e of 33 bits", rsaJWK(n, "e", b64([]byte{1, 0, 0, 0, 1})), "dropped"},                         // K187
		{"e wraps 64 bits to 65537", rsaJWK(n, "e", b64([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})), "dropped"}, // K187
		{"e of 2048 bits", rsaJWK(n, "e", b64(modulus(2048).Bytes())), "dropped"},                       // K187
		{"n even", rsaJWK(evenN), "dropped"},                                                            // K187
		{"n empty", rsaJWK(n, "n", ""), "dropped"},                                                      // K187
		{"n zero", rsaJWK(n, "n", "AA"), "dropped"},                                                     // K187
		{"n of zeros", rsaJWK(n, "n", b64(make([]byte, 256))), "dropped"},                               // K187
		{"ROCA", rsaJWK(rocaModulus()), "dropped"},                                                      // K187
		{"n missing", rsaJWK(n, "n", nil), "dropped"},
		{"e missing", rsaJWK(n, "e", nil), "dropped"},
		{"e empty", rsaJWK(n, "e", ""), "dropped"},
		{"e number", rsaJWK(n, "e", 65537), "dropped"},
		{"n array", rsaJWK(n, "n", []string{b64(n.Bytes())}), "dropped"},
		{"n padded", rsaJWK(n, "n", b64(n.Bytes())+"=="), "dropped"},
		{"n with a newline", rsaJWK(n, "n", b64(n.Bytes())+"\n"), "dropped"},
		{"n with a newline inside", rsaJWK(n, "n", b64(n.Bytes())[:8]+"\r\n"+b64(n.Bytes())[8:]), "dropped"},
		{"n in standard base64", rsaJWK(n, "n", "+/"+b64(n.Bytes())[2:]), "dropped"},
		{"n with a quote", rsaJWK(n, "n", `","d":"`+b64(n.Bytes())), "dropped"},
		{"e with unused bits set", rsaJWK(n, "e", "Ax"), "dropped"},
		{"e padded", rsaJWK(n, "e", "Aw=="), "dropped"},

		{"EC off the curve", with(EC, "y", EC["x"]), "dropped"},                                         // K187
		{"EC (0,0)", with(EC, "x", b64(make([]byte, 32)), "y", b64(make([]byte, 32))), "dropped"},       // K187
		{"EC x oversize", with(EC, "x", b64(append([]byte{0}, x...))), "dropped"},                       // K187
		{"EC x 31 bytes", with(EC, "x", b64(x[1:])), "dropped"},                                         // K187
		{"EC x huge", with(EC, "x", b64(make([]byte, 1<<20))), "dropped"},                               // K187
		{"EC x ≥ p", with(EC, "x", b64(bytes.Repeat([]byte{0xff}, 32))), "dropped"},                     // K187
		{"EC P-521 x above 521 bits", with(EC521, "x", b64(bytes.Repeat([]byte{0xff}, 66))), "dropped"}, // K187
		{"EC coordinates of another curve", with(EC, "crv", "P-384"), "dropped"},                        // K187
		{"EC point of P-384 cut to P-256", with(EC384, "crv", "P-256"), "dropped"},                      // K187
		{"EC y missing", with(EC, "y", nil), "dropped"},
		{"EC x missing", with(EC, "x", nil), "dropped"},
		{"EC x empty", with(EC, "x", ""), "dropped"},
		{"EC x null", strings.Replace(object(with(EC, "x", nil)), `{`, `{"x":null,`, 1), "dropped"},
		{"EC compressed point", with(EC, "x", b64(append([]byte{2}, x...)), "y", ""), "dropped"},

		{"Ed25519 31 bytes", with(ED, "x", b64(make([]byte, 31))), "dropped"},
		{"Ed25519 33 bytes", with(ED, "x", b64(make([]byte, 33))), "dropped"},
		{"Ed25519 64 bytes", with(ED, "x", b64(make([]byte, 64))), "dropped"},
		{"Ed25519 empty", with(ED, "x", ""), "dropped"},
		{"Ed25519 not a point", with(ED, "x", b64(append([]byte{2}, make([]byte, 31)...))), "dropped"},
		{"Ed25519 identity", with(ED, "x", b64(append([]byte{1}, make([]byte, 31)...))), "dropped"},
		{"Ed25519 zero", with(ED, "x", b64(make([]byte, 32))), "dropped"},
	})
}

// No secret is taken for a key that verifies.
func TestSecretsInJWK(t *testing.T) {
	RSA, EC, ED := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey), jwkOf(edKey().Public())
	x := p256().PublicKey.X.FillBytes(make([]byte, 32))
	checkJWKs(t, []jwkCase{
		{"oct", `{"kty":"oct","kid":"k1","alg":"HS256","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}`, "dropped"}, // J128
		{"oct, short", `{"kty":"oct","k":"AA"}`, "dropped"},                                                             // K187
		{"oct without k", `{"kty":"oct"}`, "dropped"},
		{"oct for encryption", `{"kty":"oct","use":"enc"}`, "dropped"},

		{"RSA d", with(RSA, "d", "AQAB"), "private"},                                           // K188
		{"RSA p", with(RSA, "p", "AQAB"), "private"},                                           // K188
		{"RSA q", with(RSA, "q", "AQAB"), "private"},                                           // K188
		{"RSA dp", with(RSA, "dp", "AQAB"), "private"},                                         // K188
		{"RSA dq", with(RSA, "dq", "AQAB"), "private"},                                         // K188
		{"RSA qi", with(RSA, "qi", "AQAB"), "private"},                                         // K188
		{"RSA oth", with(RSA, "oth", []any{}), "private"},                                      // K188
		{"RSA k", with(RSA, "k", "AQAB"), "private"},                                           // K188
		{"EC d", with(EC, "d", b64(x)), "private"},                                             // K188
		{"OKP d", with(ED, "d", b64(x)), "private"},                                            // K188
		{"X25519 d", with(ED, "crv", "X25519", "d", b64(x)), "private"},                        // K188
		{"d null", strings.Replace(object(EC), `{`, `{"d":null,`, 1), "private"},               // K188
		{"d, escaped name", strings.Replace(object(EC), `{`, `{"\u0064":"AA",`, 1), "private"}, // K188
		{"d in a key for encryption", with(RSA, "d", "AQAB", "use", "enc"), "private"},         // K188
		{"D is another member", with(EC, "D", "AA"), "key"},
	})
}

// What a JWK says of its use, its algorithm and its name.
func TestUsesAndNamesOfJWK(t *testing.T) {
	RSA, EC, ED, EC521 := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey), jwkOf(edKey().Public()), jwkOf(&p521().PublicKey)
	checkJWKs(t, []jwkCase{
		{"use sig", with(RSA, "use", "sig"), "key"},             // K190
		{"use enc", with(RSA, "use", "enc"), "skipped"},         // K190
		{"use empty", with(RSA, "use", ""), "key"},              // K190
		{"use in capitals", with(RSA, "use", "SIG"), "dropped"}, // K190
		{"use null", strings.Replace(object(RSA), `{`, `{"use":null,`, 1), "dropped"},
		{"use array", with(RSA, "use", []string{"sig"}), "dropped"},
		{"key_ops verify", with(RSA, "key_ops", []string{"verify"}), "key"},                  // K190
		{"key_ops sign and verify", with(RSA, "key_ops", []string{"sign", "verify"}), "key"}, // K190
		{"key_ops sign", with(RSA, "key_ops", []string{"sign"}), "dropped"},                  // K190
		{"key_ops empty", with(RSA, "key_ops", []string{}), "dropped"},                       // K190
		{"key_ops encrypt", with(RSA, "key_ops", []string{"encrypt", "wrapKey"}), "skipped"}, // K190
		{"key_ops string", with(RSA, "key_ops", "verify"), "dropped"},
		{"key_ops numbers", with(RSA, "key_ops", []any{"verify", 1}), "dropped"},
		{"use sig, key_ops sign", with(RSA, "use", "sig", "key_ops", []string{"sign"}), "dropped"}, // K190
		{"alg RSA-OAEP", with(RSA, "alg", "RSA-OAEP"), "skipped"},                                  // K190
		{"alg HS256", with(RSA, "alg", "HS256"), "dropped"},                                        // K190
		{"alg none", with(RSA, "alg", "none"), "dropped"},                                          // K190
		{"alg RS1", with(RSA, "alg", "RS1"), "dropped"},                                            // K190
		{"alg empty", with(RSA, "alg", ""), "key"},                                                 // K190
		{"alg ES256 for RSA", with(RSA, "alg", "ES256"), "dropped"},                                // K190
		{"alg RS256 for EC", with(EC, "alg", "RS256"), "dropped"},                                  // K190
		{"alg ES384 for P-256", with(EC, "alg", "ES384"), "dropped"},                               // K190
		{"alg ES521", with(EC521, "alg", "ES521"), "dropped"},                                      // K190
		{"alg EdDSA for EC", with(EC, "alg", "EdDSA"), "dropped"},                                  // K190
		{"alg ES256 for Ed25519", with(ED, "alg", "ES256"), "dropped"},                             // K190
		{"alg ECDH-ES", with(EC, "alg", "ECDH-ES"), "skipped"},                                     // K190
		{"alg ES256", with(EC, "alg", "ES256"), "key"},
		{"alg EdDSA", with(ED, "alg", "EdDSA"), "key"},
		{"alg Ed25519", with(ED, "alg", "Ed25519"), "key"},
		{"alg Ed25519 for EC", with(EC, "alg", "Ed25519"), "dropped"},
		{"alg RSA1_5", with(RSA, "alg", "RSA1_5"), "skipped"},
		{"alg ECDH-ES+A256KW", with(EC, "alg", "ECDH-ES+A256KW"), "skipped"},
		{"alg Ed448 on its curve", with(ED, "crv", "Ed448", "alg", "Ed448"), "skipped"},
		{"key_ops deriveBits", with(EC, "key_ops", []string{"deriveBits"}), "skipped"},
		{"key_ops unknown", with(EC, "key_ops", []string{"VERIFY"}), "dropped"},
		{"alg PS512", with(RSA, "alg", "PS512"), "key"},
		{"alg number", with(RSA, "alg", 256), "dropped"},
		{"alg array", with(RSA, "alg", []string{"RS256"}), "dropped"},

		{"kid 256 bytes", with(EC, "kid", strings.Repeat("k", 256)), "key"},
		{"kid empty", with(EC, "kid", ""), "key"},
		{"kid 257 bytes", with(EC, "kid", strings.Repeat("k", 257)), "dropped"},
		{"kid number", with(EC, "kid", 1), "dropped"},
		{"kid null", strings.Replace(object(EC), `{`, `{"kid":null,`, 1), "dropped"},
		{"kid with NUL", with(EC, "kid", "a\x00"), "dropped"},

		{"duplicate member", `{"kty":"EC","kty":"RSA"}`, "set"},
		{"duplicate member, escaped", `{"kty":"EC","k\u0074y":"RSA"}`, "set"},
		{"duplicate inside an ignored member", `{"kty":"NEW","x":{"a":1,"a":2}}`, "set"},
	})
}

func TestUnusableKeysAreKnownByTheirKid(t *testing.T) {
	RSA, EC := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey)
	set := setOf(
		with(RSA, "kid", "good"), with(RSA, "kid", "enc", "use", "enc"), with(RSA, "kid", "ops", "key_ops", []string{}),
		with(RSA, "kid", "alg", "alg", "RS1"), with(RSA, "kid", "private", "d", "AA"), with(EC, "kid", "broken", "x", "AA"),
		`{"kty":"oct","kid":"secret"}`, `{"kty":"AKP","kid":"new"}`, `{"kid":"no kty"}`,
		with(RSA, "use", "enc"), with(RSA, "kid", "", "use", "enc"), with(RSA, "kid", 1), with(RSA, "kid", "a\x00"), `"kid"`, `[]`, `null`,
	)
	keys, unusable, _, err := jose.ParseKeySet(set)
	if err != nil || len(keys) != 1 || !keys[0].Usable() {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	var kids []string
	sums := map[[32]byte]bool{keys[0].Identity(): true}
	m := parse(t, signed("RS256", rsaKey(), `{"alg":"RS256"}`, goodPayload))
	for _, key := range unusable {
		kids, sums[key.Identity()] = append(kids, key.ID()), true
		if key.Usable() || slices.ContainsFunc(algorithms, key.Allows) || key.Allows("") || class(t, key.Verify(m)) != "key" {
			t.Errorf("%s verifies", key.ID())
		}
	}
	if want := []string{"enc", "ops", "alg", "private", "broken", "secret", "new", "no kty"}; !slices.Equal(kids, want) {
		t.Errorf("%q, want %q", kids, want)
	}
	if len(sums) != 9 {
		t.Errorf("%d thumbprints", len(sums))
	}
}

func TestKeySetAsAWhole(t *testing.T) {
	good := object(with(jwkOf(&p256().PublicKey), "kid", "k1"))
	tests := []struct {
		name, set string
		keys      int // -1: refused
	}{
		{"one", `{"keys":[` + good + `]}`, 1},
		{"none", `{"keys":[]}`, 0},
		{"other members", `{"keys":[` + good + `],"x":{"y":[1]}}`, 1},
		{"white space", " {\n\"keys\" : [ " + good + " ,\n" + good + " ] } \n", 2},
		{"escaped name", `{"\u006beys":[` + good + `]}`, 1},
		{"Keys is another member", `{"Keys":[],"keys":[` + good + `]}`, 1},
		{"HTML", `<html></html>`, -1},                                 // K182
		{"invalid JSON", `{"keys":[`, -1},                             // K182
		{"array", `[]`, -1},                                           // K182
		{"array of keys", `[` + good + `]`, -1},                       // K182
		{"bytes after", `{"keys":[` + good + `]}x`, -1},               // K182
		{"second document", `{"keys":[` + good + `]}{"keys":[]}`, -1}, // K182
		{"keys null", `{"keys":null}`, -1},                            // K182
		{"empty", ``, -1},
		{"null", `null`, -1},
		{"empty object", `{}`, -1},
		{"a bare JWK", good, -1},
		{"keys object", `{"keys":{"k1":` + good + `}}`, -1},
		{"keys string", `{"keys":"` + `[]"}`, -1},
		{"keys number", `{"keys":1}`, -1},
		{"keys in capitals", `{"KEYS":[` + good + `]}`, -1},
		{"keys twice", `{"keys":[` + good + `],"keys":[]}`, -1},                       // K189
		{"keys twice, the same", `{"keys":[` + good + `],"keys":[` + good + `]}`, -1}, // K189
		{"keys twice, escaped", `{"keys":[],"\u006beys":[` + good + `]}`, -1},         // K189
		{"duplicate elsewhere", `{"keys":[` + good + `],"a":1,"a":1}`, -1},
		{"byte order mark", "\ufeff" + `{"keys":[` + good + `]}`, -1},
		{"invalid UTF-8", `{"keys":[` + good + `],"a":"` + "\xff" + `"}`, -1},
		{"100 keys", `{"keys":[` + good + strings.Repeat(","+good, 99) + `]}`, 100},
		{"101 keys", `{"keys":[` + good + strings.Repeat(","+good, 100) + `]}`, -1},
		{"101 keys, most of them nothing", `{"keys":[` + good + strings.Repeat(",0", 100) + `]}`, -1},
		{"100,000 keys", `{"keys":[0` + strings.Repeat(",0", 99_999) + `]}`, -1}, // K195
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			keys, _, dropped, err := jose.ParseKeySet([]byte(tc.set))
			if tc.keys < 0 {
				if !errors.Is(err, jose.ErrMalformed) || keys != nil || dropped != nil {
					t.Errorf("%d keys, %d dropped, error %v", len(keys), len(dropped), err)
				}
				return
			}
			if err != nil || len(keys) != tc.keys || len(dropped) > 0 {
				t.Errorf("%d keys, dropped %v, error %v", len(keys), dropped, err)
			}
		})
	}
}

func TestTooManyKeysAreNoticedEarly(t *testing.T) {
	set := []byte(`{"keys":[` + strings.TrimSuffix(strings.Repeat(object(rsaJWK(modulus(8192)))+",", 700), ",") + `]}`)
	start := time.Now()
	if n := allocated(func() { _, _, _, _ = jose.ParseKeySet(set) }); n > uint64(len(set)) {
		t.Errorf("%d bytes allocated for a set of %d", n, len(set))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestHostileKeySetIsCheap(t *testing.T) {
	for name, jwk := range map[string]string{
		"RSA 8192":        object(rsaJWK(modulus(8192))),
		"RSA 1,000,000":   object(rsaJWK(modulus(100_000))),
		"huge coordinate": object(with(jwkOf(&p521().PublicKey), "x", b64(make([]byte, 20_000)))),
		"Ed25519":         object(jwkOf(edKey().Public())),
		"P-521":           object(jwkOf(&p521().PublicKey)),
		"private":         `{"kty":"RSA","d":"` + strings.Repeat("A", 10_000) + `"}`,
	} {
		set := []byte(`{"keys":[` + jwk + strings.Repeat(","+jwk, 99) + `]}`)
		start := time.Now()
		n := allocated(func() { _, _, _, _ = jose.ParseKeySet(set) })
		if limit := uint64(16*len(set) + 1<<21); n > limit {
			t.Errorf("%s: %d bytes allocated for a set of %d", name, n, len(set))
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestDroppedKeysAreNamedButNotShown(t *testing.T) {
	const mark = "SECRETSECRETSECRETSECRETSECRET"
	RSA, EC := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey)
	set := setOf(
		with(RSA, "kid", "good"), with(RSA, "d", mark), with(RSA, "n", mark), with(RSA, "e", mark),
		with(EC, "x", mark), with(EC, "y", b64([]byte(mark+"SE"))), with(EC, "d", map[string]string{mark: mark}),
		`{"kty":"oct","k":"`+mark+`"}`, `"`+mark+`"`, with(RSA, "kid", mark+"\x00"), with(RSA, "alg", []string{mark}),
		with(RSA, "use", []string{mark}), with(RSA, "key_ops", mark),
	)
	keys, _, dropped, err := jose.ParseKeySet(set)
	if err != nil || len(keys) != 1 || len(dropped) != 12 {
		t.Fatalf("%d keys, %d dropped, %v", len(keys), len(dropped), err)
	}
	private := 0
	for i, err := range dropped {
		if errors.Is(err, jose.ErrPrivateKey) {
			private++
		}
		text := err.Error()
		if strings.Contains(text, "SECRET") || strings.Contains(text, RSA["n"].(string)[:12]) ||
			strings.ContainsAny(text, "\n\r\x00") {
			t.Errorf("the error shows too much: %q", text)
		}
		if !strings.HasPrefix(text, fmt.Sprintf("key %d: ", i+1)) {
			t.Errorf("the error does not name key %d: %q", i+1, text)
		}
	}
	if private != 2 {
		t.Errorf("%d with private members, want 2", private)
	}
}

// Catalogue: K189.
func TestKeysWithOneKidAreAllKept(t *testing.T) {
	right := with(jwkOf(&p256().PublicKey), "kid", "k1")
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	wrong := with(jwkOf(&other.PublicKey), "kid", "k1")
	keys, _, _, err := jose.ParseKeySet(setOf(wrong, right))
	if err != nil || len(keys) != 2 || keys[0].ID() != "k1" || keys[1].ID() != "k1" {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	m := parse(t, signed("ES256", p256(), goodHeader, goodPayload))
	if class(t, keys[0].Verify(m)) != "signature" || class(t, keys[1].Verify(m)) != "ok" {
		t.Errorf("wrong key: %v, right key: %v", keys[0].Verify(m), keys[1].Verify(m))
	}
}

// Catalogue: K198.
func TestKidIsComparedAsItIs(t *testing.T) {
	for _, kid := range []string{"k1", "K1", "k1 ", "", "ключ", "\u212a1"} {
		key := oneKey(t, with(jwkOf(&p256().PublicKey), "kid", kid))
		if key.ID() != kid {
			t.Errorf("got %q, want %q", key.ID(), kid)
		}
	}
	if id := oneKey(t, jwkOf(&p256().PublicKey)).ID(); id != "" {
		t.Errorf("without kid: %q", id)
	}
}

// Catalogue: K191.
func TestAlgorithmsOfAKey(t *testing.T) {
	RSA := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	tests := []struct {
		name string
		jwk  map[string]any
		want []string
	}{
		{"RSA", jwkOf(&rsaKey().PublicKey), RSA},
		{"P-256", jwkOf(&p256().PublicKey), []string{"ES256"}},
		{"P-384", jwkOf(&p384().PublicKey), []string{"ES384"}},
		{"P-521", jwkOf(&p521().PublicKey), []string{"ES512"}},
		{"Ed25519", jwkOf(edKey().Public()), []string{"EdDSA"}},
		{"RSA for PS384", with(jwkOf(&rsaKey().PublicKey), "alg", "PS384"), []string{"PS384"}}, // K190
		{"RSA for RS256", with(jwkOf(&rsaKey().PublicKey), "alg", "RS256"), []string{"RS256"}}, // K190
		{"P-256 for ES256", with(jwkOf(&p256().PublicKey), "alg", "ES256"), []string{"ES256"}},
	}
	everything := append(slices.Clone(algorithms),
		"", "none", "HS256", "HS384", "HS512", "RS1", "ES256K", "rs256", "EDDSA", "Ed25519", "RSA", "P-256")
	for _, tc := range tests {
		key := oneKey(t, tc.jwk)
		for _, alg := range everything {
			if got, want := key.Allows(alg), slices.Contains(tc.want, alg); got != want {
				t.Errorf("%s: Allows(%q) = %v", tc.name, alg, got)
			}
		}
		// Verify must ask the same question.
		for _, alg := range algorithms {
			m := parse(t, signed(alg, signerFor(alg), `{"alg":"`+alg+`"}`, goodPayload))
			if got, want := key.Verify(m) == nil, slices.Contains(tc.want, alg); got != want {
				t.Errorf("%s: Verify of %s: %v", tc.name, alg, key.Verify(m))
			}
		}
	}
	for _, alg := range everything {
		if new(jose.Key).Allows(alg) {
			t.Errorf("the zero Key allows %q", alg)
		}
		if jose.Supported(alg) != slices.Contains(algorithms, alg) {
			t.Errorf("Supported(%q) = %v", alg, jose.Supported(alg))
		}
	}
}

func TestIdentity(t *testing.T) {
	EC, RSA := jwkOf(&p256().PublicKey), jwkOf(&rsaKey().PublicKey)
	same := [][2]map[string]any{
		{EC, with(EC, "use", "sig", "x5t", "AA", "key_ops", []string{"verify"})},
		{RSA, with(RSA, "n", b64(append([]byte{0}, rsaKey().N.Bytes()...)))}, // the same number
		{RSA, with(RSA, "e", b64([]byte{0, 1, 0, 1}))},
	}
	for i, pair := range same {
		if oneKey(t, pair[0]).Identity() != oneKey(t, pair[1]).Identity() {
			t.Errorf("pair %d differs", i)
		}
	}
	if newKey(t, &p256().PublicKey).Identity() != oneKey(t, EC).Identity() {
		t.Error("a key given in code differs from its JWK")
	}
	different := []map[string]any{
		EC, with(EC, "kid", "k1"), with(EC, "kid", "k2"), with(EC, "kid", "K1"), with(EC, "alg", "ES256"), with(EC, "alg", "ES256", "kid", "k1"),
		with(EC, "kid", "ES256"), with(EC, "kid", `k" "`), with(EC, "kid", `"" ""`),
		RSA, with(RSA, "alg", "RS256"), with(RSA, "alg", "PS256"), with(RSA, "e", "Aw"), jwkOf(&otherRSA().PublicKey),
		jwkOf(&p384().PublicKey), jwkOf(edKey().Public()),
	}
	seen := map[[32]byte]int{}
	for i, jwk := range different {
		sum := oneKey(t, jwk).Identity()
		if j, ok := seen[sum]; ok {
			t.Errorf("%d and %d have the same identity", i, j)
		}
		seen[sum] = i
	}
	if _, ok := seen[[32]byte{}]; ok {
		t.Error("an identity of zeros")
	}
}

type notAKey struct{}

func TestNewKey(t *testing.T) {
	negative := new(big.Int).Neg(rsaKey().N)
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	point := p256().PublicKey
	tests := []struct {
		name string
		pub  crypto.PublicKey
		ok   bool
	}{
		{"RSA", &rsaKey().PublicKey, true}, {"P-256", &p256().PublicKey, true}, {"P-384", &p384().PublicKey, true},
		{"P-521", &p521().PublicKey, true}, {"Ed25519", edKey().Public(), true},
		{"nil", nil, false},
		{"nil RSA", (*rsa.PublicKey)(nil), false},
		{"nil EC", (*ecdsa.PublicKey)(nil), false},
		{"nil Ed25519", ed25519.PublicKey(nil), false},
		{"empty RSA", &rsa.PublicKey{}, false},
		{"empty EC", &ecdsa.PublicKey{}, false},
		{"EC without a point", &ecdsa.PublicKey{Curve: elliptic.P256()}, false},
		{"EC without y", &ecdsa.PublicKey{Curve: elliptic.P256(), X: point.X}, false},
		{"EC without a curve", &ecdsa.PublicKey{X: point.X, Y: point.Y}, false},
		{"EC (0,0)", &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)}, false},
		{"EC off the curve", &ecdsa.PublicKey{Curve: elliptic.P256(), X: point.Y, Y: point.X}, false},
		{"EC negative", &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).Neg(point.X), Y: point.Y}, false},
		{"EC x + p", &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).Add(point.X, elliptic.P256().Params().P), Y: point.Y}, false},
		{"EC huge", &ecdsa.PublicKey{Curve: elliptic.P256(), X: modulus(100_000), Y: point.Y}, false},
		{"P-224", &p224.PublicKey, false},
		{"a curve of one's own", &ecdsa.PublicKey{Curve: elliptic.P256().Params(), X: point.X, Y: point.Y}, false},
		{"RSA 1024", &rsa.PublicKey{N: modulus(1024), E: 65537}, false},
		{"RSA 8193", &rsa.PublicKey{N: modulus(8193), E: 65537}, false},
		{"RSA e = 1", &rsa.PublicKey{N: rsaKey().N, E: 1}, false},
		{"RSA e negative", &rsa.PublicKey{N: rsaKey().N, E: -65537}, false},
		{"RSA e even", &rsa.PublicKey{N: rsaKey().N, E: 65536}, false},
		{"RSA e largest", &rsa.PublicKey{N: rsaKey().N, E: math.MaxInt32}, true},
		{"RSA e too large", &rsa.PublicKey{N: rsaKey().N, E: math.MaxInt}, math.MaxInt == math.MaxInt32},
		{"RSA negative", &rsa.PublicKey{N: negative, E: 65537}, false},
		{"RSA even", &rsa.PublicKey{N: new(big.Int).SetBit(rsaKey().N, 0, 0), E: 65537}, false},
		{"RSA ROCA", &rsa.PublicKey{N: rocaModulus(), E: 65537}, false},
		{"Ed25519 short", edKey().Public().(ed25519.PublicKey)[:31], false},
		{"Ed25519 zero", ed25519.PublicKey(make([]byte, 32)), false},
		{"RSA private", rsaKey(), false}, {"EC private", p256(), false}, {"Ed25519 private", edKey(), false},
		{"RSA value", rsaKey().PublicKey, false}, {"bytes", []byte("key"), false}, {"string", "key", false}, {"other", notAKey{}, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			key, err := jose.NewKey(tc.pub)
			if (err == nil) != tc.ok || (key != nil) != tc.ok {
				t.Errorf("got %v, %v", key, err)
			}
			if err != nil && len(err.Error()) > 100 {
				t.Errorf("the error is long: %v", err)
			}
		})
	}
}

func TestKeyIsACopy(t *testing.T) {
	RSA := &rsa.PublicKey{N: new(big.Int).Set(rsaKey().N), E: rsaKey().E}
	EC := must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), must(p256().PublicKey.Bytes())))
	ED := bytes.Clone(edKey().Public().(ed25519.PublicKey))
	keys := map[string]*jose.Key{
		"RS256": newKey(t, RSA), "ES256": newKey(t, EC), "EdDSA": newKey(t, ed25519.PublicKey(ED)),
	}
	RSA.N.SetInt64(4)
	RSA.E = 2
	EC.X.SetInt64(0)
	EC.Curve = elliptic.P384()
	clear(ED)
	for alg, key := range keys {
		if err := key.Verify(parse(t, signed(alg, signerFor(alg), `{"alg":"`+alg+`"}`, goodPayload))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	// A parsed set does not depend on its document either.
	set := setOf(with(jwkOf(&p256().PublicKey), "kid", "k1"))
	parsed, _, _, err := jose.ParseKeySet(set)
	if err != nil {
		t.Fatal(err)
	}
	clear(set)
	err = parsed[0].Verify(parse(t, signed("ES256", p256(), goodHeader, goodPayload)))
	if err != nil || parsed[0].ID() != "k1" {
		t.Errorf("%q: %v", parsed[0].ID(), err)
	}
}

func TestKeyIsSafeToShare(t *testing.T) {
	var wg sync.WaitGroup
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		key := newKey(t, signerFor(alg).Public())
		good := parse(t, signed(alg, signerFor(alg), `{"alg":"`+alg+`"}`, goodPayload))
		bad := jose.Forge(good, alg, rawSign(alg, signerFor(alg), "another message"))
		for range 8 {
			wg.Go(func() {
				for range 5 {
					if key.Verify(good) != nil || key.Verify(bad) == nil || !key.Allows(alg) || key.Identity() == [32]byte{} {
						t.Errorf("%s: wrong under concurrency", alg)
					}
				}
			})
		}
	}
	wg.Wait()
}

// Catalogue: K187.
func TestCoordinatesKeepTheirLeadingZeros(t *testing.T) {
	for {
		jwk := jwkOf(&must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).PublicKey)
		for _, name := range []string{"x", "y"} {
			octets := must(decode64(jwk[name].(string)))
			if octets[0] != 0 {
				continue
			}
			if got := verdict(t, jwk); got != "key" {
				t.Errorf("with the zero: %s", got)
			}
			if got := verdict(t, with(jwk, name, b64(octets[1:]))); got != "dropped" {
				t.Errorf("without the zero: %s", got)
			}
			return
		}
	}
}

// rocaModulus makes a modulus the way the vulnerable generator did: both primes
// have the form k·M + (65537^a mod M), where M is the product of the first 126
// primes.
var rocaModulus = sync.OnceValue(func() *big.Int {
	m := big.NewInt(1)
	for p, found := int64(2), 0; found < 126; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
			found++
		}
	}
	prime := func() *big.Int {
		for {
			a := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 60)))
			k := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 52)))
			k.SetBit(k, 52, 1)
			p := new(big.Int).Exp(big.NewInt(65537), a, m)
			if p.Add(p, k.Mul(k, m)); p.ProbablyPrime(5) {
				return p
			}
		}
	}
	for {
		p, q := prime(), prime()
		if n := new(big.Int).Mul(p, q); n.BitLen() >= 2048 {
			return n
		}
	}
})

func TestROCA(t *testing.T) {
	if !jose.HasROCA(rocaModulus()) {
		t.Error("a modulus of the vulnerable form was not recognised")
	}
	// The residues alone decide: spoil one and the modulus passes.
	spoiled := new(big.Int).Add(rocaModulus(), big.NewInt(2*157))
	if jose.HasROCA(spoiled) {
		t.Error("a modulus with other residues was recognised")
	}
	for range 500 {
		if n := modulus(2048); jose.HasROCA(n) {
			t.Fatalf("a random modulus was recognised: %d", n)
		}
	}
	if jose.HasROCA(rsaKey().N) || jose.HasROCA(otherRSA().N) {
		t.Error("a sound key was recognised")
	}
}

func TestSmallOrderEd25519Keys(t *testing.T) {
	// The eight points whose order divides 8, and encodings that are not
	// canonical.
	for _, text := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		pub := ed25519.PublicKey(must(hex.DecodeString(text)))
		// Why it matters: nobody's signature verifies for one message in eight
		// or more.
		forgery := make([]byte, 64)
		forgery[0] = 1
		forged := false
		for i := 0; i < 500 && !forged; i++ {
			forged = ed25519.Verify(pub, []byte{byte(i), byte(i >> 8)}, forgery)
		}
		if !forged {
			t.Errorf("%s: no forgery found; is it of small order?", text)
		}
		if jose.CheckEd25519(pub) == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestEd25519DecodingAgainstASquareRoot(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	points := 0
	for range 300 {
		pub := make([]byte, 32)
		_, _ = rand.Read(pub)
		reversed := bytes.Clone(pub)
		slices.Reverse(reversed)
		reversed[0] &= 0x7f
		y := new(big.Int).SetBytes(reversed)
		y2 := new(big.Int).Exp(y, big.NewInt(2), p)
		u := new(big.Int).Sub(y2, big.NewInt(1))
		v := new(big.Int).Mul(d, y2)
		v.Add(v, big.NewInt(1)).Mod(v, p)
		u.Mul(u, new(big.Int).ModInverse(v, p)).Mod(u, p)
		isPoint := new(big.Int).ModSqrt(u, p) != nil
		if isPoint {
			points++
		}
		if err := jose.CheckEd25519(pub); (err == nil) != isPoint {
			t.Fatalf("%x: point %v, got %v", pub, isPoint, err)
		}
	}
	if points < 90 || points > 210 {
		t.Errorf("%d of 300 were points; about half should be", points)
	}
	for range 50 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil || jose.CheckEd25519(pub) != nil {
			t.Fatalf("a sound key was refused: %x", pub)
		}
	}
}
