package jose_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/phantom-token/phantom/internal/jose"
)

const (
	goodHeader  = `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`
	goodPayload = `{"iss":"https://as.test","sub":"alice","exp":1999999999}`
)

var anySignature = bytes.Repeat([]byte{1}, 64)

func TestParseReturnsWhatTheTokenSays(t *testing.T) {
	for _, alg := range algorithms {
		t.Run(alg, func(t *testing.T) {
			header := fmt.Sprintf(`{"alg":%q,"kid":"the key","typ":"at+jwt","x":[1]}`, alg)
			m := parse(t, signed(alg, signerFor(alg), header, goodPayload))
			if m.Algorithm != alg || m.KeyID != "the key" || m.Type != "at+jwt" {
				t.Errorf("got %q %q %q", m.Algorithm, m.KeyID, m.Type)
			}
			if string(m.Payload) != goodPayload {
				t.Errorf("payload %s", m.Payload)
			}
			if sub, _ := m.Claims.Get("sub").Text(); sub != "alice" || m.Claims.Len() != 3 {
				t.Errorf("sub %q of %d claims", sub, m.Claims.Len())
			}
			if string(m.Header.Get("x").Raw()) != "[1]" {
				t.Errorf("header x is %s", m.Header.Get("x").Raw())
			}
			if err := newKey(t, signerFor(alg).Public()).Verify(m); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// A parseCase is a JWT and the class of what Parse says of it.
type parseCase struct{ name, jwt, want string }

var wellFormed = compact(goodHeader, goodPayload, anySignature)

func withHeader(members string) string { return compact(members, goodPayload, anySignature) }

func withPayload(text string) string { return compact(goodHeader, text, anySignature) }

func checkParse(t *testing.T, tests []parseCase) {
	t.Helper()
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m, err := jose.Parse(tc.jwt)
			if got := class(t, err); got != tc.want {
				t.Fatalf("got %s (%v), want %s", got, err, tc.want)
			}
			if (m == nil) != (err != nil) {
				t.Errorf("message %v with error %v", m, err)
			}
			if err != nil && len(tc.jwt) > 40 && strings.Contains(err.Error(), tc.jwt[10:25]) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

// A header names one algorithm that this package supports, once.
func TestAlgorithmsOfAHeader(t *testing.T) {
	segments := strings.Split(wellFormed, ".")
	h, p := segments[0], segments[1]
	checkParse(t, []parseCase{
		{"well-formed", wellFormed, "ok"},

		{"none", withHeader(`{"alg":"none"}`), "alg"},                                       // J125
		{"None", withHeader(`{"alg":"None"}`), "alg"},                                       // J125
		{"nOnE", withHeader(`{"alg":"nOnE"}`), "alg"},                                       // J125
		{"none, empty signature", compact(`{"alg":"none"}`, goodPayload, nil), "malformed"}, // J125
		{"None, empty signature", compact(`{"alg":"None"}`, goodPayload, nil), "malformed"}, // J125
		{"nOnE, empty signature", compact(`{"alg":"nOnE"}`, goodPayload, nil), "malformed"}, // J125
		{"none, no third segment", h + "." + p, "malformed"},                                // J125

		{"alg missing", withHeader(`{"typ":"JWT"}`), "alg"},
		{"alg null", withHeader(`{"alg":null}`), "alg"},
		{"alg number", withHeader(`{"alg":256}`), "alg"},
		{"alg array", withHeader(`{"alg":["RS256"]}`), "alg"},
		{"alg object", withHeader(`{"alg":{"RS256":1}}`), "alg"},
		{"alg empty", withHeader(`{"alg":""}`), "alg"},
		{"alg lower case", withHeader(`{"alg":"rs256"}`), "alg"},
		{"alg with a space", withHeader(`{"alg":"RS256 "}`), "alg"},
		{"alg with NUL", withHeader(`{"alg":"RS256\u0000"}`), "alg"},
		{"ALG instead of alg", withHeader(`{"ALG":"ES256"}`), "alg"},
		{"alg RS1", withHeader(`{"alg":"RS1"}`), "alg"},
		{"alg ES256K", withHeader(`{"alg":"ES256K"}`), "alg"},
		{"alg HS256", withHeader(`{"alg":"HS256"}`), "alg"},
		{"alg HS384", withHeader(`{"alg":"HS384"}`), "alg"},
		{"alg HS512", withHeader(`{"alg":"HS512"}`), "alg"},
		{"alg RSA-OAEP", withHeader(`{"alg":"RSA-OAEP"}`), "alg"},
		{"alg ML-DSA-65", withHeader(`{"alg":"ML-DSA-65"}`), "alg"},
		{"alg escaped spelling", withHeader(`{"\u0061lg":"\u0045S256"}`), "ok"},

		{"none first", withHeader(`{"alg":"none","alg":"ES256"}`), "malformed"},                    // J131
		{"none last", withHeader(`{"alg":"ES256","alg":"none"}`), "malformed"},                     // J131
		{"escaped twin", withHeader(`{"alg":"ES256","\u0061lg":"none"}`), "malformed"},             // J131
		{"nested duplicate", withHeader(`{"alg":"ES256","x":{"y":[{"a":1,"a":2}]}}`), "malformed"}, // J131
		{"case differs", withHeader(`{"alg":"ES256","Alg":"none"}`), "ambiguous header"},           // J131
	})
}

// What a header may say beside the algorithm.
func TestOtherMembersOfAHeader(t *testing.T) {
	checkParse(t, []parseCase{
		{"crit exp", withHeader(`{"alg":"ES256","crit":["exp"]}`), "crit"},                            // J136
		{"crit empty", withHeader(`{"alg":"ES256","crit":[]}`), "crit"},                               // J136
		{"crit extension", withHeader(`{"alg":"ES256","crit":["http://x"],"http://x":true}`), "crit"}, // J136
		{"crit string", withHeader(`{"alg":"ES256","crit":"exp"}`), "crit"},                           // J136
		{"crit null", withHeader(`{"alg":"ES256","crit":null}`), "crit"},                              // J136
		{"crit false", withHeader(`{"alg":"ES256","crit":false}`), "crit"},                            // J136
		{"b64 false with crit", withHeader(`{"alg":"ES256","b64":false,"crit":["b64"]}`), "crit"},
		{"b64 false", withHeader(`{"alg":"ES256","b64":false}`), "b64"},
		{"b64 true", withHeader(`{"alg":"ES256","b64":true}`), "b64"},
		{"b64 null", withHeader(`{"alg":"ES256","b64":null}`), "b64"},
		{"zip", withHeader(`{"alg":"ES256","zip":"DEF"}`), "zip"},
		{"enc", withHeader(`{"alg":"ES256","enc":"A256GCM"}`), "enc"},

		{"key references are no business of ours", withHeader(`{"alg":"ES256","jku":"https://evil.test","x5u":1,"jwk":null,"x5c":[],"x5t":{}}`), "ok"}, // J138

		{"kid path", withHeader(`{"alg":"ES256","kid":"../../etc/passwd"}`), "ok"},                                                   // J141
		{"kid SQL", withHeader(`{"alg":"ES256","kid":"' OR 1=1"}`), "ok"},                                                            // J141
		{"kid NUL", withHeader(`{"alg":"ES256","kid":"a\u0000b"}`), "kid"},                                                           // J141
		{"kid 1 MiB", withHeader(`{"alg":"ES256","kid":"` + strings.Repeat("k", 1<<20) + `"}`), "malformed"},                         // J141
		{"kid fills the header", withHeader(`{"alg":"ES256","kid":"` + strings.Repeat("k", jose.MaxHeaderSize) + `"}`), "malformed"}, // J141
		{"kid number", withHeader(`{"alg":"ES256","kid":1}`), "kid"},                                                                 // J141
		{"kid empty", withHeader(`{"alg":"ES256","kid":""}`), "ok"},                                                                  // J141
		{"alg Ed25519", withHeader(`{"alg":"Ed25519"}`), "ok"},
		{"alg Ed448", withHeader(`{"alg":"Ed448"}`), "alg"},
		{"kid null", withHeader(`{"alg":"ES256","kid":null}`), "kid"},
		{"kid array", withHeader(`{"alg":"ES256","kid":["k"]}`), "kid"},
		{"kid newline", withHeader(`{"alg":"ES256","kid":"a\nb"}`), "kid"},
		{"kid escape byte", withHeader(`{"alg":"ES256","kid":"\u001b[31m"}`), "kid"},
		{"kid DEL", withHeader(`{"alg":"ES256","kid":"a\u007f"}`), "kid"},
		{"kid 256 bytes", withHeader(`{"alg":"ES256","kid":"` + strings.Repeat("k", 256) + `"}`), "ok"},
		{"kid 257 bytes", withHeader(`{"alg":"ES256","kid":"` + strings.Repeat("k", 257) + `"}`), "kid"},
		{"kid 129 letters of two bytes", withHeader(`{"alg":"ES256","kid":"` + strings.Repeat("é", 129) + `"}`), "kid"},
		{"kid not ASCII", withHeader(`{"alg":"ES256","kid":"clé-№1"}`), "ok"},
		{"kid absent", withHeader(`{"alg":"ES256"}`), "ok"},

		{"typ absent", withHeader(`{"alg":"ES256"}`), "ok"},                                  // J142
		{"typ JWT", withHeader(`{"alg":"ES256","typ":"JWT"}`), "ok"},                         // J142
		{"typ policy is the caller's", withHeader(`{"alg":"ES256","typ":"dpop+jwt"}`), "ok"}, // J145
		{"typ empty is a string", withHeader(`{"alg":"ES256","typ":""}`), "ok"},
		{"typ null", withHeader(`{"alg":"ES256","typ":null}`), "typ"},
		{"typ number", withHeader(`{"alg":"ES256","typ":1}`), "typ"},
		{"typ array", withHeader(`{"alg":"ES256","typ":["JWT"]}`), "typ"},
	})
}

// A compact JWS has three segments of canonical base64url.
func TestThreeSegments(t *testing.T) {
	segments := strings.Split(wellFormed, ".")
	h, p, s := segments[0], segments[1], segments[2]
	checkParse(t, []parseCase{
		{"JWE", wellFormed + "." + p + "." + s, "malformed"},                                                                 // J147
		{"flattened", `{"payload":"` + p + `","protected":"` + h + `","signature":"` + s + `"}`, "malformed"},                // J149
		{"general", `{"payload":"` + p + `","signatures":[{"protected":"` + h + `","signature":"` + s + `"}]}`, "malformed"}, // J149
		{"JSON with two dots", `{"payload":"e30","x":"..","signature":""}`, "malformed"},                                     // J149

		{"empty", "", "malformed"},                                       // J151
		{"one segment", h, "malformed"},                                  // J151
		{"two segments", h + "." + p, "malformed"},                       // J151
		{"four segments", wellFormed + "." + s, "malformed"},             // J151
		{"four, the last empty", wellFormed + ".", "malformed"},          // J151
		{"leading dot", "." + wellFormed, "malformed"},                   // J151
		{"empty header", "." + p + "." + s, "malformed"},                 // J151
		{"empty payload", h + ".." + s, "malformed"},                     // J151
		{"empty signature", h + "." + p + ".", "malformed"},              // J151
		{"only dots", "..", "malformed"},                                 // J151
		{"padding of the header", h + "=." + p + "." + s, "malformed"},   // J151
		{"padding of the payload", h + "." + p + "==." + s, "malformed"}, // J151
		{"padding of the signature", wellFormed + "=", "malformed"},      // J151
		{"plus", h + "." + p + ".+" + s[1:], "malformed"},                // J151
		{"slash", h + "." + p + "./" + s[1:], "malformed"},               // J151
		{"space before", " " + wellFormed, "malformed"},
		{"space after", wellFormed + " ", "malformed"},
		{"newline after", wellFormed + "\n", "malformed"},
		{"carriage return after", wellFormed + "\r\n", "malformed"},
		{"newline in the header", h[:4] + "\n" + h[4:] + "." + p + "." + s, "malformed"},
		{"newline in the payload", h + "." + p[:5] + "\r" + p[5:] + "." + s, "malformed"},
		{"newline in the signature", h + "." + p + "." + s[:7] + "\n" + s[7:], "malformed"},
		{"carriage return in the signature", h + "." + p + "." + s[:7] + "\r" + s[7:], "malformed"},
		{"four line breaks in the signature", h + "." + p + "." + s[:8] + "\r\r\r\r" + s[8:], "malformed"},
		{"four line breaks in the header", h[:8] + "\r\n\r\n" + h[8:] + "." + p + "." + s, "malformed"},
		{"NUL in the signature", h + "." + p + "." + s[:7] + "\x00" + s[8:], "malformed"},
		{"not ASCII in the signature", h + "." + p + "." + s[:7] + "é" + s[9:], "malformed"},
		{"unused bits set in the signature", h + "." + p + "." + s[:len(s)-1] + nextLetter(s[len(s)-1]), "malformed"},
		{"unused bits set in the payload", h + "." + b64([]byte(`{"a": 1}`))[:10] + "R" + "." + s, "malformed"},
		{"one character too many", h + "." + p + "." + s[:len(s)-1], "malformed"},
		{"Bearer left in front", "Bearer " + wellFormed, "malformed"},
	})
}

// Header and payload are each one object of strict JSON. A form that is wrong
// comes before a rule that is broken.
func TestHeaderAndPayloadAreStrictJSON(t *testing.T) {
	segments := strings.Split(wellFormed, ".")
	h, p := segments[0], segments[1]
	checkParse(t, []parseCase{
		{"header not JSON", compact("{", goodPayload, anySignature), "malformed"},
		{"header array", compact("[]", goodPayload, anySignature), "malformed"},
		{"header null", compact("null", goodPayload, anySignature), "malformed"},
		{"header two objects", compact(goodHeader+goodHeader, goodPayload, anySignature), "malformed"},
		{"header invalid UTF-8", compact("{\"alg\":\"ES256\",\"x\":\"\xff\"}", goodPayload, anySignature), "malformed"},
		{"header with white space", compact(" \t\r\n{ \"alg\" : \"ES256\" } \n", goodPayload, anySignature), "ok"},

		{"two objects", withPayload(`{"sub":"a"}{"sub":"b"}`), "malformed"},   // J153
		{"empty", withPayload(""), "malformed"},                               // J154
		{"null", withPayload("null"), "malformed"},                            // J154
		{"array", withPayload(`[{"sub":"a"}]`), "malformed"},                  // J154
		{"string", withPayload(`"{}"`), "malformed"},                          // J154
		{"number", withPayload("1"), "malformed"},                             // J154
		{"white space only", withPayload("  "), "malformed"},                  // J154
		{"byte order mark", withPayload("\ufeff" + goodPayload), "malformed"}, // J154
		{"UTF-16", withPayload(utf16le(goodPayload)), "malformed"},            // J154
		{"payload duplicate claim", withPayload(`{"sub":"a","sub":"b"}`), "malformed"},
		{"payload duplicate inside act", withPayload(`{"act":{"sub":"a","sub":"b"}}`), "malformed"},
		{"payload byte FF in sub", withPayload("{\"sub\":\"a\xff\"}"), "malformed"},
		{"payload lone surrogate", withPayload(`{"sub":"\ud800"}`), "malformed"},
		{"payload is a JWT", withPayload(wellFormed), "malformed"},
		{"payload empty object", withPayload("{}"), "ok"},

		{"malformed wins: none and bad payload", compact(`{"alg":"none"}`, "null", anySignature), "malformed"},
		{"malformed wins: crit and duplicate claim", compact(`{"alg":"ES256","crit":[]}`, `{"a":1,"a":1}`, anySignature), "malformed"},
		{"malformed wins: HS256 and bad signature text", h + "." + p + ".=", "malformed"},
		{"order: alg before crit", withHeader(`{"alg":"none","crit":["exp"],"kid":1}`), "alg"},
		{"order: crit before kid", withHeader(`{"alg":"ES256","crit":["exp"],"kid":1}`), "crit"},
	})
}

// nextLetter returns the base64url letter with the lowest bit flipped on.
func nextLetter(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)|1])
}

func utf16le(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		out.WriteByte(c)
		out.WriteByte(0)
	}
	return out.String()
}

func TestEveryRejectionTextIsFixed(t *testing.T) {
	for _, header := range []string{
		`{"alg":"SECRET-MARK"}`, `{"alg":"ES256","crit":["SECRET-MARK"]}`,
		`{"alg":"ES256","kid":"SECRET-MARK\u0000"}`, `{"alg":"ES256","typ":["SECRET-MARK"]}`,
		`{"alg":"ES256","SECRET-MARK":1,"SECRET-MARK":2}`, `{"SECRET-MARK"}`,
	} {
		_, err := jose.Parse(compact(header, goodPayload, anySignature))
		if err == nil || strings.Contains(err.Error(), "SECRET-MARK") {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func TestSizeLimits(t *testing.T) {
	t.Run("JWT of 33 KiB", func(t *testing.T) { // J176
		jwt := compact(goodHeader, `{"x":"`+strings.Repeat("x", 33<<10)+`"}`, anySignature)
		if _, err := jose.Parse(jwt); class(t, err) != "malformed" {
			t.Error(err)
		}
	})
	t.Run("JWT near the limit", func(t *testing.T) {
		jwt := compact(goodHeader, `{"x":"`+strings.Repeat("x", 24200)+`"}`, anySignature)
		if len(jwt) > jose.MaxTokenSize || len(jwt) < jose.MaxTokenSize-512 {
			t.Fatalf("the test token has %d bytes", len(jwt))
		}
		parse(t, jwt)
	})
	header := func(n int) string {
		text := `{"alg":"ES256"}`
		return compact(text+strings.Repeat(" ", n-len(text)), goodPayload, anySignature)
	}
	t.Run("header of exactly 8 KiB", func(t *testing.T) { parse(t, header(jose.MaxHeaderSize)) })
	for _, n := range []int{jose.MaxHeaderSize + 1, 9 << 10, 20 << 10} {
		t.Run(fmt.Sprintf("header of %d bytes", n), func(t *testing.T) { // J176
			if _, err := jose.Parse(header(n)); class(t, err) != "malformed" {
				t.Error(err)
			}
		})
	}
}

func TestLengthIsExact(t *testing.T) {
	// A signature segment of any length is well-formed; use it to hit the limit
	// exactly.
	for spaces := range 4 {
		prefix := b64([]byte(goodHeader)) + "." + b64([]byte(goodPayload+strings.Repeat(" ", spaces))) + "."
		for _, length := range []int{jose.MaxTokenSize - 1, jose.MaxTokenSize, jose.MaxTokenSize + 1} {
			want := "ok"
			if fill := length - len(prefix); length > jose.MaxTokenSize || fill%4 == 1 { // no base64 has that length
				want = "malformed"
			}
			_, err := jose.Parse(prefix + strings.Repeat("A", length-len(prefix)))
			if got := class(t, err); got != want {
				t.Errorf("%d bytes: %s", length, got)
			}
		}
	}
}

func TestSignatureLengthIsCheckedFirst(t *testing.T) {
	for alg, size := range map[string]int{
		"RS256": 256, "PS512": 256, "ES256": 64, "ES384": 96, "ES512": 132, "EdDSA": 64,
	} {
		key := newKey(t, signerFor(alg).Public())
		for _, length := range []int{1, size - 1, size, size + 1, 2 * size, 20_000} {
			m := parse(t, compact(`{"alg":"`+alg+`"}`, goodPayload, make([]byte, length)))
			var rejection *jose.Rejection
			if !errors.As(key.Verify(m), &rejection) || (rejection.Detail == "wrong length") != (length != size) {
				t.Errorf("%s, %d bytes: %v", alg, length, rejection)
			}
		}
	}
}

// Catalogue: J126, J127.
func TestHMACNeverReachesAVerifier(t *testing.T) {
	pub := &rsaKey().PublicKey
	der := must(x509.MarshalPKIXPublicKey(pub))
	secrets := map[string][]byte{
		"PEM":           pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), // J126
		"DER":           der,                                                            // J126
		"modulus":       pub.N.Bytes(),                                                  // J126
		"PKCS1":         x509.MarshalPKCS1PublicKey(pub),                                // J126
		"client secret": []byte("the-client-secret"),                                    // J127
		"empty secret":  {},
	}
	for name, secret := range secrets {
		t.Run(name, func(t *testing.T) {
			_, err := jose.Parse(hs256(secret, `{"alg":"HS256","kid":"k1"}`, goodPayload))
			if class(t, err) != "alg" {
				t.Error(err)
			}
		})
	}
}

// Catalogue: J129.
func TestHeaderCannotChooseAnotherAlgorithm(t *testing.T) {
	header := `{"alg":"RS512","kid":"k1"}`
	input := b64([]byte(header)) + "." + b64([]byte(goodPayload))
	m := parse(t, input+"."+b64(rawSign("RS256", rsaKey(), input)))

	pinned := oneKey(t, with(jwkOf(&rsaKey().PublicKey), "alg", "RS256", "kid", "k1"))
	if got := class(t, pinned.Verify(m)); got != "key" {
		t.Errorf("pinned to RS256: %s", got)
	}
	free := oneKey(t, with(jwkOf(&rsaKey().PublicKey), "kid", "k1"))
	if got := class(t, free.Verify(m)); got != "signature" {
		t.Errorf("not pinned: %s", got)
	}
	// The reverse: PS256 and RS256 share key and hash, and must not be confused
	// either.
	for _, pair := range [][2]string{{"PS256", "RS256"}, {"RS256", "PS256"}} {
		header := fmt.Sprintf(`{"alg":%q}`, pair[0])
		input := b64([]byte(header)) + "." + b64([]byte(goodPayload))
		m := parse(t, input+"."+b64(rawSign(pair[1], rsaKey(), input)))
		if got := class(t, free.Verify(m)); got != "signature" {
			t.Errorf("%s header, %s signature: %s", pair[0], pair[1], got)
		}
	}
}

// Catalogue: J132.
func TestCurveBelongsToAlgorithm(t *testing.T) {
	keys := map[string]*jose.Key{
		"ES256": newKey(t, &p256().PublicKey),
		"ES384": newKey(t, &p384().PublicKey),
		"ES512": newKey(t, &p521().PublicKey),
		"EdDSA": newKey(t, edKey().Public()),
		"RS256": newKey(t, &rsaKey().PublicKey),
	}
	for alg := range keys {
		// Signed with each other key by its own method, under this header.
		for other, key := range keys {
			if other == alg {
				continue
			}
			header := fmt.Sprintf(`{"alg":%q}`, alg)
			input := b64([]byte(header)) + "." + b64([]byte(goodPayload))
			m := parse(t, input+"."+b64(rawSign(other, signerFor(other), input)))
			if got := class(t, key.Verify(m)); got != "key" {
				t.Errorf("%s header over %s key and signature: %s", alg, other, got)
			}
		}
	}
}

// Catalogue: J133.
func TestBadECDSASignatures(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512"} {
		private := signerFor(alg).(*ecdsa.PrivateKey)
		n := private.Curve.Params().N
		size := (private.Curve.Params().BitSize + 7) / 8
		header := fmt.Sprintf(`{"alg":%q}`, alg)
		input := b64([]byte(header)) + "." + b64([]byte(goodPayload))
		good := rawSign(alg, private, input)
		r, s := new(big.Int).SetBytes(good[:size]), new(big.Int).SetBytes(good[size:])
		zero, one := new(big.Int), big.NewInt(1)
		all := new(big.Int).Sub(new(big.Int).Lsh(one, uint(8*size)), one)
		plusN := func(v *big.Int) *big.Int { // v+n, where the encoding has room for it
			if sum := new(big.Int).Add(v, n); sum.BitLen() <= 8*size {
				return sum
			}
			return n
		}
		cases := map[string][]byte{
			"r and s zero":   make([]byte, 2*size),
			"r zero":         rs(zero, s, size),
			"s zero":         rs(r, zero, size),
			"r = n":          rs(n, s, size),
			"s = n":          rs(r, n, size),
			"r + n":          rs(plusN(r), s, size),
			"s + n":          rs(r, plusN(s), size),
			"r all ones":     rs(all, s, size),
			"s all ones":     rs(r, all, size),
			"r and s one":    rs(one, one, size),
			"swapped":        rs(s, r, size),
			"one byte more":  append(bytes.Clone(good), 0),
			"zero in front":  append([]byte{0}, good...),
			"one byte less":  good[:2*size-1],
			"half":           good[:size],
			"one byte":       {1},
			"twice":          append(bytes.Clone(good), good...),
			"DER":            must(asn1.Marshal(struct{ R, S *big.Int }{r, s})),
			"other message":  rawSign(alg, private, input+"x"),
			"last bit wrong": append(bytes.Clone(good[:2*size-1]), good[2*size-1]^1),
		}
		key := newKey(t, &private.PublicKey)
		if err := key.Verify(parse(t, input+"."+b64(good))); err != nil {
			t.Fatalf("%s: the good signature: %v", alg, err)
		}
		for name, signature := range cases {
			if got := class(t, key.Verify(parse(t, input+"."+b64(signature)))); got != "signature" {
				t.Errorf("%s, %s: %s", alg, name, got)
			}
		}
		// n-s signs the same message. It is a different token with the same
		// content, which RFC 7518 allows.
		if err := key.Verify(parse(t, input+"."+b64(rs(r, new(big.Int).Sub(n, s), size)))); err != nil {
			t.Errorf("%s, high or low s: %v", alg, err)
		}
	}
}

// Catalogue: J134.
func TestBadEdDSASignatures(t *testing.T) {
	input := b64([]byte(`{"alg":"EdDSA"}`)) + "." + b64([]byte(goodPayload))
	good := rawSign("EdDSA", edKey(), input)
	key := newKey(t, edKey().Public())
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	highS := bytes.Clone(good) // s + L, little endian: RFC 8032 section 5.1.7 refuses it
	carry := 0
	orderBytes := order.FillBytes(make([]byte, 32))
	for i := range 32 {
		sum := int(highS[32+i]) + int(orderBytes[31-i]) + carry
		highS[32+i], carry = byte(sum), sum>>8
	}
	for name, signature := range map[string][]byte{
		"63 bytes":       good[:63],
		"65 bytes":       append(bytes.Clone(good), 0),
		"1 byte":         good[:1],
		"32 bytes":       good[:32],
		"all zero":       make([]byte, 64),
		"all ones":       bytes.Repeat([]byte{0xff}, 64),
		"s + L":          highS,
		"first bit":      append([]byte{good[0] ^ 1}, good[1:]...),
		"other message":  rawSign("EdDSA", edKey(), "x"),
		"message itself": []byte(input)[:64],
	} {
		if got := class(t, key.Verify(parse(t, input+"."+b64(signature)))); got != "signature" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestBadRSASignatures(t *testing.T) {
	key := newKey(t, &rsaKey().PublicKey)
	n := rsaKey().N
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"} {
		input := b64(fmt.Appendf(nil, `{"alg":%q}`, alg)) + "." + b64([]byte(goodPayload))
		good := rawSign(alg, rsaKey(), input)
		sum := new(big.Int).Add(new(big.Int).SetBytes(good), n)
		cases := map[string][]byte{
			"255 bytes":        good[1:],
			"zero in front":    append([]byte{0}, good...),
			"all zero":         make([]byte, 256),
			"one":              big.NewInt(1).FillBytes(make([]byte, 256)),
			"n - 1":            new(big.Int).Sub(n, big.NewInt(1)).FillBytes(make([]byte, 256)),
			"n":                n.FillBytes(make([]byte, 256)),
			"all ones":         bytes.Repeat([]byte{0xff}, 256),
			"1 byte":           {7},
			"other key":        rawSign(alg, otherRSA(), input),
			"other message":    rawSign(alg, rsaKey(), input+" "),
			"last bit flipped": append(bytes.Clone(good[:255]), good[255]^1),
		}
		if sum.BitLen() <= 2048 {
			cases["signature + n"] = sum.FillBytes(make([]byte, 256))
		}
		for name, signature := range cases {
			if got := class(t, key.Verify(parse(t, input+"."+b64(signature)))); got != "signature" {
				t.Errorf("%s, %s: %s", alg, name, got)
			}
		}
	}
}

func TestSignatureCoversHeaderAndPayloadAsSent(t *testing.T) {
	key := newKey(t, &p256().PublicKey)
	jwt := signed("ES256", p256(), goodHeader, goodPayload)
	segments := strings.Split(jwt, ".")
	swap := func(i int, text string) string {
		changed := append([]string{}, segments...)
		changed[i] = b64([]byte(text))
		return strings.Join(changed, ".")
	}
	for name, changed := range map[string]string{
		"another subject":       swap(1, strings.Replace(goodPayload, "alice", "admin", 1)),
		"payload with a space":  swap(1, goodPayload+" "),
		"another kid":           swap(0, strings.Replace(goodHeader, "k1", "k2", 1)),
		"header with a space":   swap(0, goodHeader+" "),
		"header without typ":    swap(0, `{"alg":"ES256","kid":"k1"}`),
		"header in other order": swap(0, `{"kid":"k1","alg":"ES256","typ":"at+jwt"}`),
	} {
		if got := class(t, key.Verify(parse(t, changed))); got != "signature" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Catalogue: J138, J139.
func TestKeyInTheHeaderIsIgnored(t *testing.T) {
	attacker := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	header := object(map[string]any{
		"alg": "ES256", "kid": "k1", "jwk": jwkOf(&attacker.PublicKey),
		"jku": "https://127.0.0.1:1/jwks", "x5u": "https://127.0.0.1:1/x5u",
		"x5c": []string{"AAAA"}, "x5t": "AAAA", "x5t#S256": "AAAA",
	})
	key := oneKey(t, with(jwkOf(&p256().PublicKey), "kid", "k1"))
	if got := class(t, key.Verify(parse(t, signed("ES256", attacker, header, goodPayload)))); got != "signature" {
		t.Errorf("signed by the key in the header: %s", got)
	}
	if err := key.Verify(parse(t, signed("ES256", p256(), header, goodPayload))); err != nil {
		t.Errorf("signed by the issuer: %v", err)
	}
}

// Catalogue: J175.
func TestNumbersKeepTheirDigits(t *testing.T) {
	const payload = `{"uid":9007199254740993,"big":123456789012345678901234567890,"f":1.10}`
	m := parse(t, compact(goodHeader, payload, anySignature))
	for name, want := range map[string]string{
		"uid": "9007199254740993", "big": "123456789012345678901234567890", "f": "1.10",
	} {
		if got := string(m.Claims.Get(name).Raw()); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	var out struct {
		UID int64 `json:"uid"`
	}
	if err := json.Unmarshal(m.Payload, &out); err != nil || out.UID != 9007199254740993 {
		t.Errorf("got %d, %v", out.UID, err)
	}
}

// Catalogue: J176.
func TestManyClaims(t *testing.T) {
	var claims strings.Builder
	claims.WriteByte('{')
	n := 0
	for ; claims.Len() < 24000; n++ {
		if n > 0 {
			claims.WriteByte(',')
		}
		fmt.Fprintf(&claims, `"%x":1`, n)
	}
	claims.WriteByte('}')
	m := parse(t, signed("ES256", p256(), goodHeader, claims.String()))
	if m.Claims.Len() != n {
		t.Errorf("%d claims, want %d", m.Claims.Len(), n)
	}
	if err := newKey(t, &p256().PublicKey).Verify(m); err != nil {
		t.Error(err)
	}
	for i := range n {
		if !m.Claims.Get(fmt.Sprintf("%x", i)).Exists() {
			t.Fatalf("claim %x is gone", i)
		}
	}
}

// hostile is what a service that issues tokens could send to cost us memory or
// time.
func hostile() map[string]string {
	fill := func(unit string, n int) string { return strings.Repeat(unit, n) }
	var members, twins strings.Builder
	for i := 0; members.Len() < 24000; i++ {
		fmt.Fprintf(&members, `"%x":0,`, i)
	}
	for i := 0; twins.Len() < 24000; i++ {
		fmt.Fprintf(&twins, `"\u0061%x":0,`, i)
	}
	payload := func(text string) string { return compact(goodHeader, text, anySignature) }
	return map[string]string{
		"dots":                   fill(".", jose.MaxTokenSize),
		"dots, 8 MiB":            fill(".", 8<<20),
		"letters, 8 MiB":         fill("A", 8<<20),
		"long header":            fill("A", 30<<10) + ".A.A",
		"16k nested arrays":      payload(`{"a":` + fill("[", 16<<10) + fill("]", 8000) + `}`),
		"10k nested objects":     payload(fill(`{"":`, 5000)),
		"many members":           payload("{" + strings.TrimSuffix(members.String(), ",") + "}"),
		"many escaped members":   payload("{" + strings.TrimSuffix(twins.String(), ",") + "}"),
		"one name, many times":   payload("{" + strings.TrimSuffix(fill(`"":0,`, 4800), ",") + "}"),
		"string of colons":       payload(`{"a":"` + fill(":", 24000) + `"}`),
		"string of escapes":      payload(`{"a":"` + fill(`\u0001`, 4000) + `"}`),
		"long number":            payload(`{"exp":` + fill("9", 24000) + `}`),
		"array of empty objects": payload(`{"a":[` + fill(`{},`, 8000) + `{}]}`),
		"array of small objects": payload(`{"a":[` + fill(`{"a":0},`, 3000) + `{}]}`),
		"unclosed":               payload(`{"a":"` + fill("a", 24000)),
	}
}

func TestHostileInputIsCheap(t *testing.T) {
	for name, jwt := range hostile() {
		t.Run(name, func(t *testing.T) {
			bytes := allocated(func() { _, _ = jose.Parse(jwt) })
			if limit := uint64(16*min(len(jwt), jose.MaxTokenSize) + 4096); bytes > limit {
				t.Errorf("%d bytes allocated for %d bytes of input", bytes, len(jwt))
			}
		})
	}
	t.Run("too many dots cost nothing", func(t *testing.T) {
		jwt := strings.Repeat(".", jose.MaxTokenSize)
		// The error allocates, and the race detector adds some; the dots do
		// not.
		if n := testing.AllocsPerRun(100, func() { _, _ = jose.Parse(jwt) }); n > 16 {
			t.Errorf("%v allocations", n)
		}
	})
}

func TestOrdinaryTokenAllocatesLittle(t *testing.T) {
	jwt := signed("ES256", p256(), goodHeader, goodPayload)
	if n := testing.AllocsPerRun(100, func() { parse(t, jwt) }); n > 12 {
		t.Errorf("%v allocations", n)
	}
}

func TestVerifyNeverPanics(t *testing.T) {
	good := parse(t, signed("ES256", p256(), goodHeader, goodPayload))
	key := newKey(t, &p256().PublicKey)
	var none *jose.Key
	for name, verify := range map[string]func() error{
		"nil key":           func() error { return none.Verify(good) },
		"zero key":          func() error { return new(jose.Key).Verify(good) },
		"nil message":       func() error { return key.Verify(nil) },
		"zero message":      func() error { return key.Verify(new(jose.Message)) },
		"unknown algorithm": func() error { return key.Verify(jose.Forge(good, "XX256", anySignature)) },
		"zero key, no alg":  func() error { return new(jose.Key).Verify(jose.Forge(good, "", anySignature)) },
		"HS256":             func() error { return key.Verify(jose.Forge(good, "HS256", anySignature)) },
		"no signature":      func() error { return key.Verify(jose.Forge(good, "ES256", nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			if got := class(t, verify()); got != "key" && got != "signature" {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestPSSSaltIsAsLongAsTheHash(t *testing.T) {
	key := newKey(t, &rsaKey().PublicKey)
	for alg, hash := range map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512} {
		input := b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64([]byte(goodPayload))
		h := hash.New()
		h.Write([]byte(input))
		digest := h.Sum(nil)
		for _, salt := range []int{hash.Size(), 1, 20, 31, 33, 32, 48, 64, hash.Size() + 1, 256 - 2 - hash.Size()} {
			want := "signature"
			if salt == hash.Size() {
				want = "ok"
			}
			signature := must(rsa.SignPSS(rand.Reader, rsaKey(), hash, digest, &rsa.PSSOptions{SaltLength: salt}))
			if got := class(t, key.Verify(parse(t, input+"."+b64(signature)))); got != want {
				t.Errorf("%s with a salt of %d bytes: %s", alg, salt, got)
			}
		}
	}
}

// TestPKCS1PaddingIsExact signs blocks that differ from the one right block.
// Whoever parses the padding instead of comparing it accepts some of them, and
// then signatures can be made without the private key when e is small.
func TestPKCS1PaddingIsExact(t *testing.T) {
	const size = 256
	private := rsaKey()
	input := b64([]byte(`{"alg":"RS256"}`)) + "." + b64([]byte(goodPayload))
	digest := sha256.Sum256([]byte(input))
	oid := []byte{0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}
	sha1OID := []byte{0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a}
	null := []byte{0x05, 0x00}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	der := func(tag byte, inside ...[]byte) []byte {
		content := join(inside...)
		return append([]byte{tag, byte(len(content))}, content...)
	}
	long := func(tag byte, inside ...[]byte) []byte { // BER: length in two bytes
		content := join(inside...)
		return append([]byte{tag, 0x81, byte(len(content))}, content...)
	}
	info := der(0x30, der(0x30, oid, null), der(0x04, digest[:]))
	block := func(kind, fill byte, info []byte) []byte {
		return join([]byte{0, kind}, bytes.Repeat([]byte{fill}, size-3-len(info)), []byte{0}, info)
	}
	short := func(fill int, info []byte) []byte { // padding too short, garbage at the end
		block := join([]byte{0, 1}, bytes.Repeat([]byte{0xff}, fill), []byte{0}, info)
		return append(block, make([]byte, size-len(block))...)
	}
	good := block(1, 0xff, info)
	flipped := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	blocks := map[string][]byte{
		"padding of 8, then garbage":      short(8, info),
		"padding of 0, then garbage":      short(0, info),
		"padding one byte short":          short(size-4-len(info), info),
		"block type 0":                    block(0, 0, info),
		"block type 2":                    block(2, 0xff, info),
		"padding of another byte":         block(1, 0xfe, info),
		"second byte":                     flipped(1),
		"a byte of the padding":           flipped(40),
		"last byte of the padding":        flipped(size - len(info) - 2),
		"separator":                       flipped(size - len(info) - 1),
		"last byte of the hash":           flipped(size - 1),
		"bare hash":                       block(1, 0xff, digest[:]),
		"hash without algorithm":          block(1, 0xff, der(0x30, der(0x04, digest[:]))),
		"parameters absent":               block(1, 0xff, der(0x30, der(0x30, oid), der(0x04, digest[:]))),
		"parameters twice":                block(1, 0xff, der(0x30, der(0x30, oid, null, null), der(0x04, digest[:]))),
		"parameters an empty sequence":    block(1, 0xff, der(0x30, der(0x30, oid, []byte{0x30, 0}), der(0x04, digest[:]))),
		"garbage in the parameters":       block(1, 0xff, der(0x30, der(0x30, oid, der(0x04, []byte("garbage"))), der(0x04, digest[:]))),
		"another hash":                    block(1, 0xff, der(0x30, der(0x30, sha1OID, null), der(0x04, digest[:20]))),
		"name of another hash":            block(1, 0xff, der(0x30, der(0x30, append(bytes.Clone(oid[:10]), 3), null), der(0x04, digest[:]))),
		"hash cut":                        block(1, 0xff, der(0x30, der(0x30, oid, null), der(0x04, digest[:31]))),
		"hash and a byte":                 block(1, 0xff, der(0x30, der(0x30, oid, null), der(0x04, digest[:], []byte{0}))),
		"hash of another tag":             block(1, 0xff, der(0x30, der(0x30, oid, null), der(0x05, digest[:]))),
		"garbage after":                   block(1, 0xff, append(bytes.Clone(info), 0)),
		"garbage inside":                  block(1, 0xff, der(0x30, der(0x30, oid, null), der(0x04, digest[:]), null)),
		"length in long form":             block(1, 0xff, long(0x30, der(0x30, oid, null), der(0x04, digest[:]))),
		"length of algorithm, long form":  block(1, 0xff, der(0x30, long(0x30, oid, null), der(0x04, digest[:]))),
		"length of hash in long form":     block(1, 0xff, der(0x30, der(0x30, oid, null), long(0x04, digest[:]))),
		"indefinite length":               block(1, 0xff, join([]byte{0x30, 0x80}, info[2:], []byte{0, 0})),
		"length one too many":             block(1, 0xff, append([]byte{0x30, info[1] + 1}, info[2:]...)),
		"length one too few":              block(1, 0xff, append([]byte{0x30, info[1] - 1}, info[2:]...)),
		"sequence in a sequence":          block(1, 0xff, der(0x30, info)),
		"a set instead of a sequence":     block(1, 0xff, append([]byte{0x31}, info[1:]...)),
		"nothing":                         make([]byte, size),
		"the block of the unhashed input": block(1, 0xff, []byte(input)[:32]),
	}
	key := newKey(t, &private.PublicKey)
	sign := func(block []byte) string {
		if len(block) != size {
			t.Fatalf("a block of %d bytes", len(block))
		}
		s := new(big.Int).Exp(new(big.Int).SetBytes(block), private.D, private.N)
		return input + "." + b64(s.FillBytes(make([]byte, size)))
	}
	if err := key.Verify(parse(t, sign(good))); err != nil {
		t.Fatalf("the right block: %v", err)
	}
	for name, block := range blocks {
		if got := class(t, key.Verify(parse(t, sign(block)))); got != "signature" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestECDSAEdgeValues(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512"} {
		private := signerFor(alg).(*ecdsa.PrivateKey)
		params := private.Curve.Params()
		size := (params.BitSize + 7) / 8
		one := big.NewInt(1)
		values := []*big.Int{
			new(big.Int), one, big.NewInt(2),
			new(big.Int).Sub(params.N, one), params.N, new(big.Int).Add(params.N, one), params.P, params.Gx,
			new(big.Int).Sub(new(big.Int).Lsh(one, uint(params.BitSize)), one), new(big.Int).Rsh(params.N, 1),
		}
		input := b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64([]byte(goodPayload))
		key := newKey(t, &private.PublicKey)
		for i, r := range values {
			for j, s := range values {
				if got := class(t, key.Verify(parse(t, input+"."+b64(rs(r, s, size))))); got != "signature" {
					t.Errorf("%s: value %d as r, value %d as s: %s", alg, i, j, got)
				}
			}
		}
	}
}
