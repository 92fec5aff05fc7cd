package conformance_test

import (
	"bytes"
	"context"
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
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/phantom-token/phantom"
)

// A logLine is one line of the log, to be compared as a whole.
type logLine struct {
	level slog.Level
	msg   string
	attrs map[string]string
}

// A logBook keeps log lines and passes them on to the server's log, where
// secrets are looked for.
type logBook struct {
	slog.Handler
	mu    sync.Mutex
	lines []logLine
}

func (b *logBook) Handle(ctx context.Context, r slog.Record) error {
	line := logLine{r.Level, r.Message, map[string]string{}}
	r.Attrs(func(a slog.Attr) bool {
		line.attrs[a.Key] = a.Value.String()
		return true
	})
	b.mu.Lock()
	b.lines = append(b.lines, line)
	b.mu.Unlock()
	return b.Handler.Handle(ctx, r)
}

// take returns the lines since the last call.
func (b *logBook) take() []logLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := b.lines
	b.lines = nil
	return lines
}

func (as *fakeAS) logBook() *logBook {
	return &logBook{Handler: slog.NewTextHandler(&as.logs, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

// levels are those at which an outcome is logged, reasons what it is called.
var (
	levels = map[string]slog.Level{
		codeOK: slog.LevelDebug, code401T: slog.LevelError, code403S: slog.LevelInfo,
		code502A: slog.LevelError, code503A: slog.LevelError, code500I: slog.LevelError,
	}
	reasons = map[string]string{
		code401T: "jwt_rejected", code403S: "scope", code502A: "as_protocol", code503A: "keys_unavailable", code500I: "internal",
	}
)

// checkLine checks the one line that a request leaves in the log.
func checkLine(t *testing.T, lines []logLine, code, detail string) {
	t.Helper()
	if len(lines) != 1 {
		t.Errorf("%d lines in the log, want 1: %v", len(lines), lines)
		return
	}
	line := lines[0]
	if line.level != levels[code] || line.attrs["reason"] != reasons[code] || line.attrs["issuer"] != issuer {
		t.Errorf("%s is logged as %v", code, line)
	}
	if code == code401T && line.attrs["detail"] != detail {
		t.Errorf("refused by %q, want %q", line.attrs["detail"], detail)
	}
}

// trial has the server answer with jwt and sends one token twice. It checks the
// outcome against want, and what goes with it: the one line in the log with
// the name of the check, what is cached, how often the key set is fetched.
func trial(t *testing.T, jwt, want, detail string, extra ...phantom.Option) {
	t.Helper()
	as := newAS(t)
	as.introspect = answerJWT(jwt)
	trialOf(t, as, jwt, want, detail, extra...)
}

func trialOf(t *testing.T, as *fakeAS, jwt, want, detail string, extra ...phantom.Option) {
	t.Helper()
	if jwt != "" {
		as.secret(jwt)
	}
	book := as.logBook()
	m := as.middleware(append([]phantom.Option{phantom.WithLogger(slog.New(book))}, extra...)...)
	if got := as.try(m, "opaque-token-of-alice"); got != want {
		t.Errorf("%s, want %s", got, want)
		return
	}
	if n := as.fetches.Load(); n > 1 {
		t.Errorf("%d key set fetches for one request", n)
	}
	checkLine(t, book.take(), want, detail)
	if got := as.try(m, "opaque-token-of-alice"); got != want {
		t.Errorf("the second time %s, want %s", got, want)
	}
	calls, lines := as.calls.Load(), len(book.take())
	switch want {
	case codeOK:
		if calls != 1 || lines != 1 {
			t.Errorf("%d introspections, %d more lines; want a hit in the cache", calls, lines)
		}
	case code401T:
		if calls != 2 || lines != 1 {
			t.Errorf("%d introspections, %d more lines; want nothing cached", calls, lines)
		}
	default:
		if calls != 2 || lines != 0 {
			t.Errorf("%d introspections, %d more lines; want nothing cached and nothing logged again", calls, lines)
		}
	}
}

// es256 signs any header and payload with the fixture's P-256 key.
func es256(header, payload string) string { return compact("ES256", p256Key(), header, payload) }

const goodHeader = `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`

func goodPayload() string { return string(must(json.Marshal(claims(nil)))) }

// withSignature replaces the third segment.
func withSignature(jwt string, sig []byte) string {
	return jwt[:strings.LastIndexByte(jwt, '.')+1] + b64(sig)
}

// jwtCase is a JWT with its outcome in the default profile and, if that is
// another one, in that of RFC 9068.
type jwtCase struct {
	name   string
	jwt    string
	want   string
	detail string // the check that refuses it
	strict string
}

func runJWTCases(t *testing.T, cases []jwtCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { trial(t, c.jwt, c.want, c.detail) })
		t.Run(c.name+" RFC 9068", func(t *testing.T) {
			if c.strict == "" {
				c.strict = c.want
			}
			trial(t, c.jwt, c.strict, c.detail, phantom.WithRFC9068())
		})
	}
}

func hs256(secret []byte) string {
	input := b64([]byte(`{"alg":"HS256","kid":"k-RS256","typ":"at+jwt"}`)) + "." + b64([]byte(goodPayload()))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

func TestJWTAlgorithm(t *testing.T) {
	unsigned := func(alg string) string {
		return b64([]byte(`{"alg":`+alg+`,"kid":"k-ES256","typ":"at+jwt"}`)) + "." + b64([]byte(goodPayload())) + "."
	}
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	pkcs1 := x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := es256(goodHeader, goodPayload())
	runJWTCases(t, []jwtCase{
		{"J125 none", unsigned(`"none"`) + "AAAA", code401T, "alg", ""},
		{"J125 None", unsigned(`"None"`) + "AAAA", code401T, "alg", ""},
		{"J125 nOnE", unsigned(`"nOnE"`) + "AAAA", code401T, "alg", ""},
		{"J125 none, empty segment", unsigned(`"none"`), code502A, "", ""},
		{"J125 None, empty segment", unsigned(`"None"`), code502A, "", ""},
		{"J125 nOnE, empty segment", unsigned(`"nOnE"`), code502A, "", ""},
		{"J125 none with a good signature", es256(`{"alg":"none","kid":"k-ES256","typ":"at+jwt"}`, goodPayload()), code401T, "alg", ""},
		{"J125 ES256, signature cut off", good[:strings.LastIndexByte(good, '.')+1], code502A, "", ""},
		{"J125 alg missing", es256(`{"kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"J125 alg null", es256(`{"alg":null}`, goodPayload()), code401T, "alg", ""},
		{"J125 alg array", es256(`{"alg":["ES256"]}`, goodPayload()), code401T, "alg", ""},
		{"J125 alg in lower case", es256(`{"alg":"es256","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"J125 alg with a space", es256(`{"alg":"ES256 ","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"J125 member ALG", es256(`{"ALG":"ES256","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"J125 ES256K", es256(`{"alg":"ES256K","kid":"k-ES256"}`, goodPayload()), code401T, "alg", ""},
		{"J125 Ed25519", compact("EdDSA", edKey(), `{"alg":"Ed25519","kid":"k-EdDSA"}`, goodPayload()), code401T, "alg", ""},
		{"J126 PEM", hs256(block), code401T, "alg", ""},
		{"J126 PEM without its line end", hs256(bytes.TrimSpace(block)), code401T, "alg", ""},
		{"J126 DER", hs256(der), code401T, "alg", ""},
		{"J126 PKCS 1", hs256(pkcs1), code401T, "alg", ""},
		{"J126 modulus", hs256(rsaKey().N.Bytes()), code401T, "alg", ""},
		{"J126 modulus in base64url", hs256([]byte(b64(rsaKey().N.Bytes()))), code401T, "alg", ""},
		{"J126 no secret", hs256(nil), code401T, "alg", ""},
		{"J127 client secret", hs256([]byte(clientSecret)), code401T, "alg", ""},
		{"J129 RS512 header, RS256 signature", compact("RS256", rsaKey(), `{"alg":"RS512","kid":"k-RS256","typ":"at+jwt"}`, goodPayload()), code401T, "kid", ""},
		{"J129 RS256 header, RS512 signature", compact("RS512", rsaKey(), `{"alg":"RS256","kid":"k-RS256","typ":"at+jwt"}`, goodPayload()), code401T, "signature", ""},
		{"J129 PS256 header, RS256 signature", compact("RS256", rsaKey(), `{"alg":"PS256","kid":"k-PS256","typ":"at+jwt"}`, goodPayload()), code401T, "signature", ""},
		{"J131 none then RS256", compact("RS256", rsaKey(), `{"alg":"none","alg":"RS256","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"J131 RS256 then none", compact("RS256", rsaKey(), `{"alg":"RS256","alg":"none","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"J131 one of them escaped", compact("RS256", rsaKey(), `{"alg":"RS256","\u0061lg":"none","kid":"k-RS256"}`, goodPayload()), code502A, "", ""},
		{"J131 kid twice", es256(`{"alg":"ES256","kid":"k-ES256","kid":"other"}`, goodPayload()), code502A, "", ""},
		{"J132 P-384 signature", compact("ES384", p384Key(), `{"alg":"ES256","kid":"k-ES384","typ":"at+jwt"}`, goodPayload()), code401T, "kid", ""},
		{"J132 P-384 key, SHA-256", compact("ES256", p384Key(), `{"alg":"ES256","kid":"k-ES384","typ":"at+jwt"}`, goodPayload()), code401T, "kid", ""},
		{"J132 P-384 signature, P-256 kid", compact("ES384", p384Key(), goodHeader, goodPayload()), code401T, "signature", ""},
		{"J132 RSA header, EC key", es256(`{"alg":"RS256","kid":"k-ES256","typ":"at+jwt"}`, goodPayload()), code401T, "kid", ""},
	})
}

// Without an algorithm in the JWK the header may choose one that fits the key;
// it is the signature that then has to be of that one.
func TestJ129KeyWithoutAlgorithm(t *testing.T) {
	as := newAS(t)
	as.jwks = answer(200, "application/json", jwks(jwk("k-RS256", "", rsaKey().Public())))
	jwt := compact("RS256", rsaKey(), `{"alg":"RS512","kid":"k-RS256"}`, goodPayload())
	as.introspect = answerJWT(jwt)
	trialOf(t, as, jwt, code401T, "signature")
}

func TestJ128SymmetricKeyInKeySet(t *testing.T) {
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

func TestJ133ECDSASignatures(t *testing.T) {
	good := es256(goodHeader, goodPayload())
	sig := signature("ES256", p256Key(), good[:strings.LastIndexByte(good, '.')])
	order := p256Key().Params().N
	num := func(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
	zero, one := make([]byte, 32), num(big.NewInt(1))
	r, s := sig[:32], sig[32:]
	der := must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)}))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, bad := range map[string][]byte{
		"r = s = 0":                  join(zero, zero),
		"r = 0":                      join(zero, s),
		"s = 0":                      join(r, zero),
		"r = s = 1":                  join(one, one),
		"r = n":                      join(num(order), s),
		"s = n":                      join(r, num(order)),
		"s = n + 1":                  join(r, num(new(big.Int).Add(order, big.NewInt(1)))),
		"r and s all ones":           bytes.Repeat([]byte{0xff}, 64),
		"65 bytes, zero in front":    join([]byte{0}, sig),
		"65 bytes, zero behind":      join(sig, []byte{0}),
		"63 bytes":                   sig[:63],
		"one byte":                   {1},
		"r and s the other way":      join(s, r),
		"r and s with zeros between": join(zero, r, zero, s),
		"DER":                        der,
	} {
		t.Run("J133 "+name, func(t *testing.T) {
			trial(t, withSignature(good, bad), code401T, "signature")
		})
	}
	t.Run("J133 the other s", func(t *testing.T) { // as valid as the first, by the nature of ECDSA
		other := new(big.Int).Sub(order, new(big.Int).SetBytes(s))
		trial(t, withSignature(good, join(r, num(other))), codeOK, "")
	})
}

func TestSignatureBytes(t *testing.T) {
	eddsa := mint("EdDSA", claims(nil))
	input := eddsa[:strings.LastIndexByte(eddsa, '.')]
	sig := signature("EdDSA", edKey(), input)
	addOrder := bytes.Clone(sig) // s + order of the group: the same point, another encoding
	order := []byte{0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10}
	carry := 0
	for i := range order {
		carry += int(addOrder[32+i]) + int(order[i])
		addOrder[32+i] = byte(carry)
		carry >>= 8
	}
	rs := mint("RS256", claims(nil))
	rsSig := signature("RS256", rsaKey(), rs[:strings.LastIndexByte(rs, '.')])
	flipped := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 1
		return b
	}
	swapped := func() string { // somebody else's payload under this signature
		other := mint("ES256", claims(map[string]any{"sub": "mallory"}))
		good := mint("ES256", claims(nil))
		return strings.Join([]string{strings.Split(good, ".")[0], strings.Split(other, ".")[1], strings.Split(good, ".")[2]}, ".")
	}
	for _, c := range []struct {
		name, jwt, want string
	}{
		{"J134 63 bytes", withSignature(eddsa, sig[:63]), code401T},
		{"J134 65 bytes", withSignature(eddsa, append(bytes.Clone(sig), 0)), code401T},
		{"J134 one byte", withSignature(eddsa, sig[:1]), code401T},
		{"J134 zeros", withSignature(eddsa, make([]byte, 64)), code401T},
		{"J134 s beyond the order", withSignature(eddsa, addOrder), code401T},
		{"J134 good", withSignature(eddsa, sig), codeOK},
		{"J134 one bit", withSignature(eddsa, flipped(sig, 40)), code401T},
		{"J129 RSA one bit", withSignature(rs, flipped(rsSig, 0)), code401T},
		{"J129 RSA 255 bytes", withSignature(rs, rsSig[1:]), code401T},
		{"J129 RSA zero in front", withSignature(rs, append([]byte{0}, rsSig...)), code401T},
		{"J129 RSA signature 1", withSignature(rs, append(make([]byte, 255), 1)), code401T},
		{"J129 RSA modulus as the signature", withSignature(rs, rsaKey().N.Bytes()), code401T},
		{"J139 payload of another token", swapped(), code401T},
		{"J139 another key under a known kid", compact("RS256", otherRSA(), `{"alg":"RS256","kid":"k-RS256"}`, goodPayload()), code401T},
	} {
		t.Run(c.name, func(t *testing.T) { trial(t, c.jwt, c.want, "signature") })
	}
}

// RFC 7518 section 3.5 leaves no choice of the salt.
func TestJ129PSSSalt(t *testing.T) {
	input := b64([]byte(`{"alg":"PS256","kid":"k-PS256"}`)) + "." + b64([]byte(goodPayload()))
	digest := sha256.Sum256([]byte(input))
	for salt, want := range map[int]string{
		rsa.PSSSaltLengthEqualsHash: codeOK, rsa.PSSSaltLengthAuto: code401T, 1: code401T, 20: code401T, 33: code401T,
	} {
		sig := must(rsa.SignPSS(rand.Reader, rsaKey(), crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt}))
		t.Run(fmt.Sprint("J129 salt ", salt), func(t *testing.T) { trial(t, input+"."+b64(sig), want, "signature") })
	}
}

func TestJWTHeader(t *testing.T) {
	crit := func(members string) string {
		return es256(`{"alg":"ES256","kid":"k-ES256","typ":"at+jwt",`+members+`}`, goodPayload())
	}
	kid := func(value string) string {
		return es256(`{"alg":"ES256","typ":"at+jwt","kid":`+value+`}`, goodPayload())
	}
	typ := func(value string) string {
		return es256(`{"alg":"ES256","kid":"k-ES256","typ":`+value+`}`, goodPayload())
	}
	runJWTCases(t, []jwtCase{
		{"J136 registered name", crit(`"crit":["exp"],"exp":1`), code401T, "crit", ""},
		{"J136 name that is not there", crit(`"crit":["exp"]`), code401T, "crit", ""},
		{"J136 empty list", crit(`"crit":[]`), code401T, "crit", ""},
		{"J136 unknown extension", crit(`"crit":["http://x"],"http://x":true`), code401T, "crit", ""},
		{"J136 string", crit(`"crit":"exp"`), code401T, "crit", ""},
		{"J136 null", crit(`"crit":null`), code401T, "crit", ""},
		{"J136 b64 listed", crit(`"crit":["b64"],"b64":true`), code401T, "crit", ""},
		{"J136 b64 alone", crit(`"b64":false`), code401T, "b64", ""},
		{"J136 zip", crit(`"zip":"DEF"`), code401T, "zip", ""},
		{"J136 enc", crit(`"enc":"A128GCM"`), code401T, "enc", ""},
		{"J136 unknown member that is not critical", crit(`"http://x":true`), codeOK, "", ""},
		{"J141 path", kid(`"../../etc/passwd"`), code401T, "kid", ""},
		{"J141 SQL", kid(`"' OR 1=1"`), code401T, "kid", ""},
		{"J141 NUL", kid(`"\u0000"`), code401T, "kid", ""},
		{"J141 NUL behind a known one", kid(`"k-ES256\u0000"`), code401T, "kid", ""},
		{"J141 line break", kid(`"k-ES256\r\nlevel=INFO"`), code401T, "kid", ""},
		{"J141 number", kid(`1`), code401T, "kid", ""},
		{"J141 array", kid(`["k-ES256"]`), code401T, "kid", ""},
		{"J141 null", kid(`null`), code401T, "kid", ""},
		{"J141 empty", kid(`""`), code401T, "kid", ""},
		{"J141 a URL", kid(`"https://evil.test/key"`), code401T, "kid", ""},
		{"J141 257 bytes", kid(`"` + strings.Repeat("k", 257) + `"`), code401T, "kid", ""},
		{"J141 7 KiB", kid(`"` + strings.Repeat("k", 7<<10) + `"`), code401T, "kid", ""},
		{"J141 9 KiB", kid(`"` + strings.Repeat("k", 9<<10) + `"`), code502A, "", ""},
		{"J141 1 MiB", kid(`"` + strings.Repeat("k", 1<<20) + `"`), code502A, "", ""},
		{"J176 header of 9 KiB", crit(`"x":"` + strings.Repeat("x", 9<<10) + `"`), code502A, "", ""},
		{"J176 header of 8 KiB at most", crit(`"x":"` + strings.Repeat("x", 8<<10-len(goodHeader)-7) + `"`), codeOK, "", ""},
		{"J142 and J144 absent", es256(`{"alg":"ES256","kid":"k-ES256"}`, goodPayload()), codeOK, "typ", code401T},
		{"J142 and J144 JWT", typ(`"JWT"`), codeOK, "typ", code401T},
		{"J142 and J144 jwt", typ(`"jwt"`), codeOK, "typ", code401T},
		{"J142 at+jwt", typ(`"at+jwt"`), codeOK, "", ""},
		{"J143 AT+JWT", typ(`"AT+JWT"`), codeOK, "", ""},
		{"J143 at+JWT", typ(`"at+JWT"`), codeOK, "", ""},
		{"J143 application/at+jwt", typ(`"application/at+jwt"`), codeOK, "", ""},
		{"J143 APPLICATION/AT+JWT", typ(`"APPLICATION/AT+JWT"`), codeOK, "", ""},
		{"J145 dpop+jwt", typ(`"dpop+jwt"`), code401T, "typ", ""},
		{"J145 token-introspection+jwt", typ(`"token-introspection+jwt"`), code401T, "typ", ""},
		{"J145 logout+jwt", typ(`"logout+jwt"`), code401T, "typ", ""},
		{"J145 secevent+jwt", typ(`"secevent+jwt"`), code401T, "typ", ""},
		{"J145 application/dpop+jwt", typ(`"application/dpop+jwt"`), code401T, "typ", ""},
		{"J145 id_token+jwt", typ(`"id_token+jwt"`), code401T, "typ", ""},
		{"J145 kb+jwt", typ(`"kb+jwt"`), code401T, "typ", ""},
		{"J145 JOSE", typ(`"JOSE"`), code401T, "typ", ""},
		{"J145 empty", typ(`""`), code401T, "typ", ""},
		{"J145 null", typ(`null`), code401T, "typ", ""},
		{"J145 number", typ(`1`), code401T, "typ", ""},
		{"J145 array", typ(`["at+jwt"]`), code401T, "typ", ""},
		{"J145 with a space", typ(`" at+jwt"`), code401T, "typ", ""},
		{"J145 with a parameter", typ(`"at+jwt; x=y"`), code401T, "typ", ""},
		{"J145 prefix", typ(`"at+jwt2"`), code401T, "typ", ""},
		{"J145 other media type", typ(`"text/at+jwt"`), code401T, "typ", ""},
	})
}

func TestJ138HeaderKeysUnused(t *testing.T) {
	attacker := otherRSA()
	header := func(alg, kid string) string {
		return string(must(json.Marshal(map[string]any{
			"alg": alg, "typ": "at+jwt", "kid": kid,
			"jku": "https://evil.test/jwks", "x5u": "https://evil.test/cert.pem",
			"jwk": jwk(kid, alg, attacker.Public()),
			"x5c": []string{"MIIB"}, "x5t": "AAAA", "x5t#S256": "AAAA",
		})))
	}
	for _, c := range []struct {
		name, jwt, want, detail string
	}{
		{"J138 rest valid", es256(header("ES256", "k-ES256"), goodPayload()), codeOK, ""},
		{"J139 known kid", compact("RS256", attacker, header("RS256", "k-RS256"), goodPayload()), code401T, "signature"},
		{"J139 unknown kid", compact("RS256", attacker, header("RS256", "evil"), goodPayload()), code401T, "kid"},
		{"J139 no kid", compact("RS256", attacker, string(must(json.Marshal(map[string]any{
			"alg": "RS256", "jwk": jwk("", "RS256", attacker.Public()), "jku": "https://evil.test/jwks",
		}))), goodPayload()), code401T, "signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(c.jwt)
			trialOf(t, as, c.jwt, c.want, c.detail)
			as.onlyAsked(t, endpointPath, jwksPath)
		})
	}
}

// onlyAsked checks that every request went to one of the issuer's paths.
func (as *fakeAS) onlyAsked(t *testing.T, paths ...string) {
	t.Helper()
	allowed := map[string]bool{}
	for _, p := range paths {
		allowed[issuer+p] = true
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, r := range as.requests {
		if !allowed[r.URL.String()] {
			t.Errorf("a request to %s", r.URL)
		}
	}
}

func TestJ140KeyWithoutKid(t *testing.T) {
	header := `{"alg":"ES256","typ":"at+jwt"}`
	jwt := es256(header, goodPayload())
	var others []map[string]any
	for range 5 {
		key := must(ecdsa.GenerateKey(p256Key().Curve, rand.Reader))
		others = append(others, jwk(fmt.Sprint("other-", len(others)), "ES256", key.Public()))
	}
	ours := jwk("ours", "ES256", p256Key().Public())
	rsa := jwk("rsa", "RS256", rsaKey().Public())
	for _, c := range []struct {
		name string
		keys []map[string]any
		want string
	}{
		{"one eligible key", []map[string]any{rsa, ours}, codeOK},
		{"two, the first verifies", []map[string]any{ours, others[0]}, codeOK},
		{"two, the second verifies", []map[string]any{others[0], rsa, ours}, codeOK},
		{"four, the last verifies", append(others[:3:3], ours), codeOK},
		{"five, the last verifies", append(others[:4:4], ours), code401T},
		{"none of two verifies", others[:2], code401T},
	} {
		t.Run("J140 "+c.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(jwt)
			as.jwks = answer(200, "application/json", jwks(c.keys...))
			trialOf(t, as, jwt, c.want, "signature")
		})
	}
	t.Run("J140 no eligible key", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(jwt)
		as.jwks = answer(200, "application/json", jwks(rsa))
		trialOf(t, as, jwt, code401T, "kid")
	})
	t.Run("J140 kid in the JWT, none in the key set", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil)))
		as.jwks = answer(200, "application/json", jwks(jwk("", "", otherRSA().Public()), jwk("", "", p256Key().Public())))
		trialOf(t, as, "", codeOK, "")
	})
	t.Run("J140 kid in the JWT, another key has it", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil)))
		other := jwk("k-ES256", "ES256", must(ecdsa.GenerateKey(p256Key().Curve, rand.Reader)).Public())
		as.jwks = answer(200, "application/json", jwks(other, jwk("", "ES256", p256Key().Public())))
		trialOf(t, as, "", code401T, "signature")
	})
}

func TestJ141KidInLog(t *testing.T) {
	as := newAS(t)
	kid := "../../etc/passwd"
	as.introspect = answerJWT(mintHeader("ES256", `{"alg":"ES256","kid":"`+kid+`"}`, claims(nil)))
	if got := as.try(as.middleware(), "opaque"); got != code401T {
		t.Error(got)
	}
	if strings.Contains(as.logs.String(), kid) {
		t.Error("what the JWT says of its key is in the log as it is")
	}
}

func TestJWTForm(t *testing.T) {
	good := es256(goodHeader, goodPayload())
	part := strings.Split(good, ".")
	signed := func(payload string) string { return es256(goodHeader, payload) }
	utf16le := func(s string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	// Another spelling of the same octets: the bits behind the last one.
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	respelt := good[:len(good)-1] + alphabet[last^1:last^1+1]
	standard := strings.NewReplacer("-", "+", "_", "/")
	escaped := strings.TrimSuffix(goodPayload(), "}") + `,"~~":"???>>>~~~"}` // whose base64 has 62 and 63
	flattened := fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2])
	general := fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, part[1], part[0], part[2])
	nested := func(depth int) string {
		return strings.TrimSuffix(goodPayload(), "}") + `,"x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + "}"
	}
	runJWTCases(t, []jwtCase{
		{"J147 JWE", b64([]byte(`{"alg":"RSA-OAEP-256","enc":"A256GCM"}`)) + ".AAAA.AAAA.AAAA.AAAA", code502A, "", ""},
		{"J147 JWE around the JWT", good + "." + part[1] + "." + part[2], code502A, "", ""},
		{"J149 flattened", flattened, code502A, "", ""},
		{"J149 general", general, code502A, "", ""},
		{"J149 compact inside JSON", `{"jwt":"` + good + `"}`, code502A, "", ""},
		{"J151 one segment", part[0], code502A, "", ""},
		{"J151 two segments", part[0] + "." + part[1], code502A, "", ""},
		{"J151 four segments", good + ".AAAA", code502A, "", ""},
		{"J151 empty header", "." + part[1] + "." + part[2], code502A, "", ""},
		{"J151 empty payload", part[0] + ".." + part[2], code502A, "", ""},
		{"J151 dots only", "..", code502A, "", ""},
		{"J151 30,000 dots", strings.Repeat(".", 30000), code502A, "", ""},
		{"J151 padding", part[0] + "." + part[1] + "." + part[2] + "==", code502A, "", ""},
		{"J151 padding of the payload", part[0] + "." + part[1] + "=." + part[2], code502A, "", ""},
		{"J151 plus and slash", standard.Replace(signed(escaped)), code502A, "", ""},
		{"J151 line break in a segment", part[0] + "." + part[1][:8] + "\r\n" + part[1][8:] + "." + part[2], code502A, "", ""},
		{"J151 space in front", " " + good, code502A, "", ""},
		{"J151 two line breaks behind", good + "\n\n", code502A, "", ""},
		{"J151 percent-encoded", strings.ReplaceAll(good, ".", "%2E"), code502A, "", ""},
		{"J151 length of no octets", part[0] + "." + part[1] + "A." + part[2] + "AAAAA", code502A, "", ""},
		{"J151 other spelling of the last octet", respelt, code502A, "", ""},
		{"J151 Bearer in front", "Bearer " + good, code502A, "", ""},
		{"J151 scheme of its own", "phantom:" + good, code502A, "", ""},
		{"J153 two objects", signed(goodPayload() + `{"sub":"b"}`), code502A, "", ""},
		{"J153 object and a byte", signed(goodPayload() + "x"), code502A, "", ""},
		{"J153 object and NUL", signed(goodPayload() + "\x00"), code502A, "", ""},
		{"J153 space around", signed(" \t\r\n" + goodPayload() + "\n"), codeOK, "", ""},
		{"J153 sub twice", signed(strings.TrimSuffix(goodPayload(), "}") + `,"sub":"b"}`), code502A, "", ""},
		{"J153 sub twice, once escaped", signed(strings.TrimSuffix(goodPayload(), "}") + `,"s\u0075b":"b"}`), code502A, "", ""},
		{"J153 act.sub twice", signed(strings.TrimSuffix(goodPayload(), "}") + `,"act":{"sub":"a","sub":"b"}}`), code502A, "", ""},
		{"J153 twice inside an array", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":[{"a":1,"a":1}]}`), code502A, "", ""},
		{"J154 null", signed("null"), code502A, "", ""},
		{"J154 array", signed("[" + goodPayload() + "]"), code502A, "", ""},
		{"J154 string", signed(`"` + "x" + `"`), code502A, "", ""},
		{"J154 number", signed("1"), code502A, "", ""},
		{"J154 true", signed("true"), code502A, "", ""},
		{"J154 BOM", signed("\ufeff" + goodPayload()), code502A, "", ""},
		{"J154 UTF-16", signed(utf16le(goodPayload())), code502A, "", ""},
		{"J154 UTF-16 with BOM", signed("\xff\xfe" + utf16le(goodPayload())), code502A, "", ""},
		{"J154 byte 0xFF in sub", signed(strings.Replace(goodPayload(), "alice", "al\xffce", 1)), code502A, "", ""},
		{"J154 overlong UTF-8", signed(strings.Replace(goodPayload(), "alice", "al\xc0\xafce", 1)), code502A, "", ""},
		{"J154 lone surrogate in sub", signed(strings.Replace(goodPayload(), "alice", `al\ud800ce`, 1)), code502A, "", ""},
		{"J154 lone surrogate in a name", signed(strings.TrimSuffix(goodPayload(), "}") + `,"\udc00":1}`), code502A, "", ""},
		{"J154 control byte in sub", signed(strings.Replace(goodPayload(), "alice", "al\nce", 1)), code502A, "", ""},
		{"J154 comment", signed("/**/" + goodPayload()), code502A, "", ""},
		{"J154 single quotes", signed(strings.ReplaceAll(goodPayload(), `"`, `'`)), code502A, "", ""},
		{"J154 trailing comma", signed(strings.TrimSuffix(goodPayload(), "}") + `,}`), code502A, "", ""},
		{"J154 NaN", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":NaN}`), code502A, "", ""},
		{"J154 leading zero", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":01}`), code502A, "", ""},
		{"J154 nested 64 deep", signed(nested(62)), codeOK, "", ""},
		{"J154 nested 10,000 deep", signed(nested(10000)), code502A, "", ""},
		{"J154 cut off", signed(strings.TrimSuffix(goodPayload(), "}")), code502A, "", ""},
		{"J154 header null", es256("null", goodPayload()), code502A, "", ""},
		{"J154 header array", es256(`["ES256"]`, goodPayload()), code502A, "", ""},
		{"J154 header with BOM", es256("\ufeff"+goodHeader, goodPayload()), code502A, "", ""},
		{"J154 bytes behind the header", es256(goodHeader+"{}", goodPayload()), code502A, "", ""},
	})
}

// An empty payload leaves an empty segment, which is no segment.
func TestJ154EmptyPayload(t *testing.T) {
	trial(t, es256(goodHeader, ""), code502A, "")
}

func TestJWTSizes(t *testing.T) {
	sized := func(jwtSize int) string { // as near below as base64 permits
		base := len(es256(goodHeader, goodPayload()))
		pad := (jwtSize-base)*3/4 - len(`,"x":""`) - 3
		jwt := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"x":"`+strings.Repeat("x", pad)+`"}`)
		if len(jwt) > jwtSize || len(jwt) < jwtSize-16 {
			panic(fmt.Sprintf("%d bytes, want %d", len(jwt), jwtSize))
		}
		return jwt
	}
	var many strings.Builder
	count := 0
	for many.Len() < 20<<10 {
		fmt.Fprintf(&many, `,"%x":%d`, count, count%10)
		count++
	}
	withMany := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+many.String()+"}")
	withValues := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"x":[1`+strings.Repeat(",1", 9999)+"]}")
	for _, c := range []struct{ name, jwt, want string }{
		{"J176 as many claims as fit 30 KiB", withMany, codeOK},
		{"J176 10,000 values in 30 KiB", withValues, codeOK},
		{"J176 30 KiB", sized(30 << 10), codeOK},
		{"J176 32 KiB", sized(32 << 10), codeOK},
		{"J176 33 KiB", sized(33 << 10), code502A},
	} {
		t.Run(c.name, func(t *testing.T) { trial(t, c.jwt, c.want, "") })
	}
}

// claim returns the default payload with one member replaced by JSON as it is
// given; no JSON removes it.
func claim(name, value string) string {
	changes := map[string]any{name: nil}
	if value != "" {
		changes[name] = json.RawMessage(value)
	}
	return es256(goodHeader, string(must(json.Marshal(claims(changes)))))
}

func TestJWTTimes(t *testing.T) {
	now := time.Now().Unix()
	num := func(n int64) string { return fmt.Sprint(n) }
	const noDate = "exp missing or out of range"
	runJWTCases(t, []jwtCase{
		{"J157 missing", claim("exp", ""), code401T, noDate, ""},
		{"J157 null", claim("exp", `null`), code401T, noDate, ""},
		{"J157 true", claim("exp", `true`), code401T, noDate, ""},
		{"J157 array", claim("exp", `[9999999999]`), code401T, noDate, ""},
		{"J157 object", claim("exp", `{"$date":9999999999}`), code401T, noDate, ""},
		{"J157 string", claim("exp", `"1999999999"`), code401T, noDate, ""},
		{"J157 date", claim("exp", `"2099-01-01T00:00:00Z"`), code401T, noDate, ""},
		{"J157 string with a space", claim("exp", `" 1999999999"`), code401T, noDate, ""},
		{"J157 empty string", claim("exp", `""`), code401T, noDate, ""},
		{"J159 far ahead", claim("exp", `9e9`), codeOK, "", ""},
		{"J159 last date", claim("exp", `253402300799`), codeOK, "", ""},
		{"J159 with a fraction of zeros", claim("exp", `4102444800.000`), codeOK, "", ""},
		{"J159 exponent", claim("exp", `41024448E+2`), codeOK, "", ""},
		{"J161 -1", claim("exp", `-1`), code401T, noDate, ""},
		{"J161 -0", claim("exp", `-0`), code401T, "exp", ""},
		{"J161 0", claim("exp", `0`), code401T, "exp", ""},
		{"J161 0.9", claim("exp", `0.9`), code401T, "exp", ""},
		{"J161 minus the date", claim("exp", num(-now-300)), code401T, noDate, ""},
		{"J161 tiny", claim("exp", `1e-400`), code401T, "exp", ""},
		{"J162 milliseconds", claim("exp", num((now+300)*1000)), code401T, noDate, ""},
		{"J162 nanoseconds", claim("exp", num((now+300)*1e9)), code401T, noDate, ""},
		{"J162 one second too late", claim("exp", `253402300800`), code401T, noDate, ""},
		{"J162 2^63", claim("exp", `9223372036854775808`), code401T, noDate, ""},
		{"J162 2^64 and a bit", claim("exp", `18446744073709551916`), code401T, noDate, ""},
		{"J162 1e400", claim("exp", `1e400`), code401T, noDate, ""},
		{"J162 huge exponent", claim("exp", `1e99999999999999999999`), code401T, noDate, ""},
		{"J161 an hour ago", claim("exp", num(now-3600)), code401T, "exp", ""},
		{"J164 string", claim("nbf", `"0"`), code401T, "nbf", ""},
		{"J164 null", claim("nbf", `null`), code401T, "nbf", ""},
		{"J164 true", claim("nbf", `true`), code401T, "nbf", ""},
		{"J164 milliseconds", claim("nbf", num(now*1000)), code401T, "nbf", ""},
		{"J164 negative", claim("nbf", `-1`), code401T, "nbf", ""},
		{"J164 past", claim("nbf", num(now-60)), codeOK, "", ""},
		{"J164 0", claim("nbf", `0`), codeOK, "", ""},
		{"J164 an hour ahead", claim("nbf", num(now+3600)), code401T, "nbf", ""},
		{"J165 10 min ahead", claim("iat", num(now+600)), code401T, "iat", ""},
		{"J165 string", claim("iat", fmt.Sprintf("%q", num(now))), code401T, "iat", ""},
		{"J165 null", claim("iat", `null`), code401T, "iat", ""},
		{"J165 milliseconds", claim("iat", num(now*1000)), code401T, "iat", ""},
		{"J165 fraction", claim("iat", num(now-1)+".999"), codeOK, "", ""},
		{"J172 no iat", claim("iat", ""), codeOK, "iat", code401T},
		{"J166 only EXP", es256(goodHeader, strings.Replace(goodPayload(), `"exp"`, `"EXP"`, 1)), code401T, "ambiguous exp", ""},
		{"J166 EXP beside exp", claim("EXP", `9999999999`), code401T, "ambiguous exp", ""},
	})
}

// In a synctest bubble the clock stands still between the steps, so that the
// boundaries are exact.
func TestTimeBoundaries(t *testing.T) {
	for _, leeway := range []time.Duration{0, 10 * time.Second, 5 * time.Minute} {
		sec := int64(leeway / time.Second)
		var extra []phantom.Option
		if leeway != 10*time.Second { // the default
			extra = append(extra, phantom.WithLeeway(leeway))
		}
		for _, c := range []struct {
			name   string
			change map[string]int64 // to the bubble's time
			want   string
			detail string
		}{
			{"J163 leeway left by a second", map[string]int64{"exp": 1 - sec, "iat": -1000}, codeOK, ""},
			{"J163 leeway over", map[string]int64{"exp": -sec, "iat": -1000}, code401T, "exp"},
			{"J164 nbf ahead by leeway", map[string]int64{"nbf": sec}, codeOK, ""},
			{"J164 nbf ahead by leeway and a second", map[string]int64{"nbf": sec + 1}, code401T, "nbf"},
			{"J165 iat ahead by leeway", map[string]int64{"iat": sec}, codeOK, ""},
			{"J165 iat ahead by leeway and a second", map[string]int64{"iat": sec + 1}, code401T, "iat"},
		} {
			t.Run(fmt.Sprintf("%s %v", c.name, leeway), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					changes := map[string]any{}
					for name, ahead := range c.change {
						changes[name] = time.Now().Unix() + ahead
					}
					as := newAS(t)
					as.introspect = answerJWT(mint("ES256", claims(changes)))
					book := as.logBook()
					m := as.middleware(append(extra, phantom.WithLogger(slog.New(book)))...)
					if got := as.try(m, "opaque"); got != c.want {
						t.Errorf("%s, want %s", got, c.want)
					}
					checkLine(t, book.take(), c.want, c.detail)
				})
			})
		}
	}
}

func TestJ158FractionOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": json.Number(fmt.Sprint(start.Unix()+100) + ".75")})))
		m := as.middleware(phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
		for _, step := range []struct {
			at    time.Duration
			want  string
			calls int64
		}{
			{0, codeOK, 1},
			{50 * time.Second, codeOK, 1},                         // cached, and
			{100 * time.Second, codeOK, 2},                        // past the floor of exp not any more,
			{110*time.Second - time.Nanosecond, codeOK, 3},        // but the leeway lets a fresh answer pass
			{110 * time.Second, code401T, 4},                      // and ends
			{110*time.Second + 749*time.Millisecond, code401T, 5}, // without regard to the fraction
		} {
			time.Sleep(time.Until(start.Add(step.at)))
			if got := as.try(m, "opaque"); got != step.want || as.calls.Load() != step.calls {
				t.Errorf("after %v: %s and %d introspections, want %s and %d", step.at, got, as.calls.Load(), step.want, step.calls)
			}
		}
	})
}

func TestJ159CachedToTheCapOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(map[string]any{"exp": json.Number("9e9")})))
		m := as.middleware(phantom.WithRefreshAhead(0))
		start := time.Now()
		for at, calls := range []int64{0: 1, 30: 1, 61: 2} {
			if calls == 0 {
				continue
			}
			time.Sleep(time.Until(start.Add(time.Duration(at) * time.Second)))
			if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != calls {
				t.Errorf("after %d s: %s, %d introspections, want %d", at, got, as.calls.Load(), calls)
			}
		}
	})
}

func TestJWTClaims(t *testing.T) {
	aud := func(value string) string { return claim("aud", value) }
	iss := func(value string) string { return claim("iss", value) }
	runJWTCases(t, []jwtCase{
		{"J167 string", aud(`"https://rs.test"`), codeOK, "", ""},
		{"J167 array", aud(`["https://other.test","https://rs.test"]`), codeOK, "", ""},
		{"J167 escaped", aud(`"https:\/\/rs\u002etest"`), codeOK, "", ""},
		{"J167 array without", aud(`["https://other.test"]`), code401T, "aud", ""},
		{"J167 missing", aud(""), code401T, "aud", ""},
		{"J167 empty", aud(`""`), code401T, "aud", ""},
		{"J167 empty array", aud(`[]`), code401T, "aud", ""},
		{"J167 null", aud(`null`), code401T, "aud", ""},
		{"J167 array of null", aud(`[null]`), code401T, "aud", ""},
		{"J167 array in array", aud(`[["https://rs.test"]]`), code401T, "aud", ""},
		{"J167 object", aud(`{"https://rs.test":1}`), code401T, "aud", ""},
		{"J167 number", aud(`1`), code401T, "aud", ""},
		{"J167 true", aud(`true`), code401T, "aud", ""},
		{"J167 ours beside a number", aud(`["https://rs.test",1]`), code401T, "aud", ""},
		{"J167 other case", aud(`"https://RS.test"`), code401T, "aud", ""},
		{"J167 extra slash", aud(`"https://rs.test/"`), code401T, "aud", ""},
		{"J167 space", aud(`" https://rs.test"`), code401T, "aud", ""},
		{"J167 two in one string", aud(`"https://rs.test https://other.test"`), code401T, "aud", ""},
		{"J167 NUL", aud(`"https://rs.test\u0000https://other.test"`), code401T, "aud", ""},
		{"J167 only AUD", es256(goodHeader, strings.Replace(goodPayload(), `"aud"`, `"AUD"`, 1)), code401T, "ambiguous aud", ""},
		{"J168 as a prefix", aud(`"https://rs.test.evil.example"`), code401T, "aud", ""},
		{"J168 with a path", aud(`"https://rs.test/../"`), code401T, "aud", ""},
		{"J168 as user information", aud(`"https://rs.test@evil.example"`), code401T, "aud", ""},
		{"J168 as a suffix", aud(`"evil+https://rs.test"`), code401T, "aud", ""},
		{"J168 cut off", aud(`"https://rs.tes"`), code401T, "aud", ""},
		{"J168 wildcard", aud(`"*"`), code401T, "aud", ""},
		{"J168 pattern", aud(`"https://.*"`), code401T, "aud", ""},
		{"J169 wrong", iss(`"https://other.test"`), code401T, "iss", ""},
		{"J169 other case", iss(`"https://AS.test"`), code401T, "iss", ""},
		{"J169 extra slash", iss(`"https://as.test/"`), code401T, "iss", ""},
		{"J169 array", iss(`["https://as.test"]`), code401T, "iss", ""},
		{"J169 missing", iss(""), code401T, "iss", ""},
		{"J169 null", iss(`null`), code401T, "iss", ""},
		{"J169 empty", iss(`""`), code401T, "iss", ""},
		{"J169 HTTPS", iss(`"HTTPS://as.test"`), code401T, "iss", ""},
		{"J169 http", iss(`"http://as.test"`), code401T, "iss", ""},
		{"J169 port", iss(`"https://as.test:443"`), code401T, "iss", ""},
		{"J169 another realm", iss(`"https://as.test/realms/evil"`), code401T, "iss", ""},
		{"J169 look-alike", iss(`"https://аs.test"`), code401T, "iss", ""},
		{"J169 NUL", iss(`"https://as.test\u0000"`), code401T, "iss", ""},
		{"J169 escaped", iss(`"https:\/\/as.test"`), codeOK, "", ""},
		{"J171 missing", claim("sub", ""), code401T, "sub", ""},
		{"J171 null", claim("sub", `null`), code401T, "sub", ""},
		{"J171 empty", claim("sub", `""`), code401T, "sub", ""},
		{"J171 number", claim("sub", `1`), code401T, "sub", ""},
		{"J171 array", claim("sub", `["alice"]`), code401T, "sub", ""},
		{"J171 any text", claim("sub", `"Ωé\u0000 \"\ud83d\ude00"`), codeOK, "", ""},
		{"J171 Sub beside sub", claim("Sub", `"root"`), code401T, "ambiguous sub", ""},
		{"J171 long s", claim("\u017fub", `"root"`), code401T, "ambiguous sub", ""},
		{"J171 only SUB", es256(goodHeader, strings.Replace(goodPayload(), `"sub"`, `"SUB"`, 1)), code401T, "ambiguous sub", ""},
		{"J172 no client_id", claim("client_id", ""), codeOK, "client_id", code401T},
		{"J172 no jti", claim("jti", ""), codeOK, "jti", code401T},
		{"J172 client_id empty", claim("client_id", `""`), codeOK, "client_id", code401T},
		{"J172 jti empty", claim("jti", `""`), codeOK, "jti", code401T},
		{"J172 client_id number", claim("client_id", `1`), code401T, "client_id", ""},
		{"J172 jti null", claim("jti", `null`), code401T, "jti", ""},
		{"J172 only azp", es256(goodHeader, strings.Replace(goodPayload(), `"client_id"`, `"azp"`, 1)), codeOK, "client_id", code401T},
		{"J172 Client_ID beside client_id", claim("Client_ID", `"admin"`), code401T, "ambiguous client_id", ""},
		{"J174 SCOPE beside scope", claim("SCOPE", `"admin"`), code401T, "ambiguous scope", ""},
	})
}

func TestJ146IDToken(t *testing.T) {
	idToken := map[string]any{
		"aud": "app", "nonce": "n-0S6_WzA2Mj", "azp": "app", "auth_time": time.Now().Unix(),
		"client_id": nil, "scope": nil, "jti": nil,
	}
	for _, c := range []struct {
		name    string
		header  string
		changes map[string]any
		option  phantom.Option
		detail  string
	}{
		{"J146 for the client", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, nil, nil, "aud"},
		{"J146 for the client, any audience", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, nil, phantom.WithoutAudienceCheck(), "not an access token: nonce"},
		{"J146 without typ", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": []string{"app", audience}}, nil, "not an access token: nonce"},
		{"J146 with at_hash", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "at_hash": "x"}, nil, "not an access token: at_hash"},
		{"J146 with c_hash", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "c_hash": "x"}, nil, "not an access token: c_hash"},
		{"J146 Keycloak's", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, map[string]any{"aud": audience, "nonce": nil, "typ": "ID"}, nil, "not an access token: typ"},
		{"J146 Keycloak's refresh token", `{"alg":"ES256","kid":"k-ES256","typ":"JWT"}`, map[string]any{"aud": audience, "nonce": nil, "typ": "Refresh"}, nil, "not an access token: typ"},
		{"J146 Curity's", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "purpose": "id"}, nil, "not an access token: purpose"},
		{"J146 Amazon's", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "token_use": "id"}, nil, "not an access token: token_use"},
		{"J146 token_use of another type", `{"alg":"ES256","kid":"k-ES256"}`, map[string]any{"aud": audience, "nonce": nil, "token_use": 1}, nil, "not an access token: token_use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes := map[string]any{}
			for _, set := range []map[string]any{idToken, c.changes} {
				for name, value := range set {
					changes[name] = value
				}
			}
			as := newAS(t)
			as.introspect = answerJWT(mintHeader("ES256", c.header, claims(changes)))
			options := as.options()
			if c.option != nil { // in place of the audience
				options[1] = c.option
			}
			book := as.logBook()
			m := must(phantom.New(append(options, phantom.WithLogger(slog.New(book)))...))
			if got := as.try(m, "opaque"); got != code401T {
				t.Error(got)
			}
			checkLine(t, book.take(), code401T, c.detail)
			strict := must(phantom.New(append(options, phantom.WithRFC9068())...))
			if got := as.try(strict, "opaque"); got != code401T {
				t.Errorf("RFC 9068: %s", got)
			}
		})
	}
	for _, word := range []string{"id", "ID_Token", "refresh", "refresh_token", "Offline", "offline_access", "logout", "DPoP"} {
		for _, name := range []string{"typ", "purpose", "token_type"} {
			t.Run("J146 "+name+" "+word, func(t *testing.T) {
				trial(t, mint("ES256", claims(map[string]any{name: word})), code401T, "not an access token: "+name)
			})
		}
	}
	for _, name := range []string{
		"ISS", "Sub", "aUD", "Exp", "Nbf", "IAT", "Jti", "Client_id", "AZP", "Scope", "CNF", "Act", "token_Use", "Token_usage", "TOKEN_TYPE",
	} {
		t.Run("J166 "+name, func(t *testing.T) {
			trial(t, mint("ES256", claims(map[string]any{name: "x"})), code401T, "ambiguous "+strings.ToLower(name))
		})
	}
	t.Run("J146 nonce in an access token that says it is one", func(t *testing.T) {
		trial(t, mint("ES256", claims(map[string]any{"nonce": "n"})), codeOK, "")
	})
	t.Run("J146 access tokens by other names", func(t *testing.T) {
		trial(t, mint("ES256", claims(map[string]any{"token_use": "access", "typ": "Bearer", "purpose": "access_token"})), codeOK, "")
	})
}

func TestWithoutAudienceCheck(t *testing.T) {
	for value, want := range map[string]string{
		``: codeOK, `"https://other.test"`: codeOK, `["a","b"]`: codeOK, `[]`: codeOK,
		`null`: code401T, `""`: code401T, `1`: code401T, `[["x"]]`: code401T, `{"x":1}`: code401T,
	} {
		t.Run("J167 "+value, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(claim("aud", value))
			options := as.options()
			options[1] = phantom.WithoutAudienceCheck()
			if got := as.try(must(phantom.New(options...)), "opaque"); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestSeveralAudiences(t *testing.T) {
	for value, want := range map[string]string{
		`"https://rs.test"`: codeOK, `"rs"`: codeOK, `["x","rs"]`: codeOK, `"https://rs.test,rs"`: code401T, `"x"`: code401T,
	} {
		t.Run("J167 "+value, func(t *testing.T) {
			if got := judge(t, claim("aud", value), phantom.WithAudience(audience, "rs")); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestRestrictedAlgorithms(t *testing.T) {
	for _, c := range []struct {
		name    string
		allowed []string
		accepts map[string]bool
	}{
		{"J129 ES256 only", []string{"ES256"}, map[string]bool{"ES256": true}},
		{"J129 RS256 and EdDSA", []string{"RS256", "EdDSA"}, map[string]bool{"RS256": true, "EdDSA": true}},
		{"J129 PS512 only", []string{"PS512"}, map[string]bool{"PS512": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
				want := code401T
				if c.accepts[alg] {
					want = codeOK
				}
				as := newAS(t)
				as.introspect = answerJWT(mint(alg, claims(nil)))
				m := as.middleware(phantom.WithAlgorithms(c.allowed...))
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

func TestScopes(t *testing.T) {
	for _, c := range []struct{ name, scope, want string }{
		{"J173 string", `"read write"`, codeOK},
		{"J173 array", `["read","write"]`, codeOK},
		{"J173 longer name", `"readonly"`, code403S},
		{"J173 absent", ``, code403S},
		{"J173 null", `null`, code403S},
		{"J173 empty", `""`, code403S},
		{"J173 array of arrays", `[["read"]]`, code403S},
		{"J173 array with a number", `["read",1]`, code403S},
		{"J173 object", `{"read":true}`, code403S},
		{"J173 true", `true`, code403S},
		{"J173 two in one element", `["read write"]`, code403S},
		{"J173 last", `"write read"`, codeOK},
		{"J173 prefix", `"rea"`, code403S},
		{"J173 quoted", `"\"read\""`, code403S},
		{"J173 wildcard", `"*"`, code403S},
		{"J174 two spaces", `"write  read"`, codeOK},
		{"J174 spaces around", `" read "`, codeOK},
		{"J174 tab", `"write\tread"`, code403S},
		{"J174 line break", `"write\nread"`, code403S},
		{"J174 no-break space", `"write\u00a0read"`, code403S},
		{"J174 comma", `"write,read"`, code403S},
		{"J174 upper case", `"READ"`, code403S},
		{"J174 NUL", `"read\u0000"`, code403S},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, extra := range [][]phantom.Option{nil, {phantom.WithRFC9068()}} {
				as := newAS(t)
				as.introspect = answerJWT(claim("scope", c.scope))
				m := as.middleware(extra...)
				next := &spy{}
				rec := serve(m.RequireScopes("read")(next), get("Bearer "+as.secret("opaque")))
				if got := as.outcome(rec, next, 0); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
				const challenge = `Bearer realm="api", error="insufficient_scope", scope="read"`
				if c.want == code403S && rec.Header().Get("WWW-Authenticate") != challenge {
					t.Errorf("challenge %q", rec.Header()["Www-Authenticate"])
				}
				// The token itself is as good as any, and known.
				if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != 1 {
					t.Errorf("without the requirement %s, %d introspections", got, as.calls.Load())
				}
			}
		})
	}
}

func TestJ175ExactNumbers(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(claim("uid", "9007199254740993"))
	next := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		got, err := phantom.Claims[struct {
			UID int64 `json:"uid"`
		}](r.Context())
		if err != nil || got.UID != 9007199254740993 {
			t.Errorf("uid %d, %v", got.UID, err)
		}
		loose, err := phantom.Claims[map[string]any](r.Context())
		if err != nil || loose["uid"] != json.Number("9007199254740993") {
			t.Errorf("uid %v (%T), %v", loose["uid"], loose["uid"], err)
		}
	}}
	if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer opaque")), next, 0); got != codeOK {
		t.Error(got)
	}
}

func TestJ177CurrentActor(t *testing.T) {
	type actor struct {
		Sub string `json:"sub"`
		Act *actor `json:"act"`
	}
	as := newAS(t)
	as.introspect = answerJWT(claim("act", `{"sub":"gateway","act":{"sub":"batch","act":{"sub":"cron"}}}`))
	next := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
		got, err := phantom.Claims[struct {
			Sub string `json:"sub"`
			Act actor  `json:"act"`
		}](r.Context())
		if err != nil || got.Sub != "alice" || got.Act.Sub != "gateway" || got.Act.Act.Sub != "batch" || got.Act.Act.Act.Sub != "cron" {
			t.Errorf("%+v, %v", got, err)
		}
		tok, _ := phantom.FromContext(r.Context())
		if tok.Subject() != "alice" {
			t.Errorf("subject %q", tok.Subject())
		}
	}}
	if got := as.outcome(serve(as.middleware().Handler(next), get("Bearer opaque")), next, 0); got != codeOK {
		t.Error(got)
	}
}

func TestJ178RetiredKey(t *testing.T) {
	old, fresh := jwk("old", "ES256", p256Key().Public()), jwk("new", "EdDSA", edKey().Public())
	signedBy := func(kid string) string {
		if kid == "old" {
			return mintHeader("ES256", `{"alg":"ES256","kid":"old","typ":"at+jwt"}`, claims(nil))
		}
		return mintHeader("EdDSA", `{"alg":"EdDSA","kid":"new","typ":"at+jwt"}`, claims(nil))
	}
	for name, before := range map[string]string{
		"J178 listed once":  jwks(old),
		"J178 listed twice": jwks(old, old),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				document := before
				as.jwks = func(w http.ResponseWriter, r *http.Request) { answer(200, "application/json", document)(w, r) }
				as.introspect = func(w http.ResponseWriter, r *http.Request) { answerJWT(signedBy(r.Form.Get("token")[:3]))(w, r) }
				m := as.middleware(phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
				for range 2 {
					if got := as.try(m, "old-1"); got != codeOK || as.calls.Load() != 1 {
						t.Fatalf("%s, %d introspections", got, as.calls.Load())
					}
				}
				document = jwks(fresh)
				if got := as.try(m, "old-1"); got != codeOK || as.calls.Load() != 1 {
					t.Errorf("before the refresh: %s, %d introspections", got, as.calls.Load())
				}
				if got := as.try(m, "new-1"); got != codeOK || as.fetches.Load() != 2 { // refreshes
					t.Errorf("new key: %s, %d fetches", got, as.fetches.Load())
				}
				calls := as.calls.Load()
				if got := as.try(m, "old-1"); got != code401T || as.calls.Load() != calls+1 {
					t.Errorf("cached verdict after the refresh: %s, %d more introspections", got, as.calls.Load()-calls)
				}
				if got := as.try(m, "old-2"); got != code401T {
					t.Errorf("uncached token of the retired key: %s", got)
				}
				if got := as.try(m, "new-1"); got != codeOK {
					t.Errorf("token of the new key: %s", got)
				}
			})
		})
	}
}

func TestJ178KeyThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		stays := jwk("k-ES256", "ES256", p256Key().Public())
		document := jwks(stays, stays)
		as.jwks = func(w http.ResponseWriter, r *http.Request) { answer(200, "application/json", document)(w, r) }
		m := as.middleware(phantom.WithMaxTTL(2*time.Minute), phantom.WithRefreshAhead(0))
		if got := as.try(m, "opaque"); got != codeOK {
			t.Fatal(got)
		}
		document = jwks(jwk("more", "EdDSA", edKey().Public()), stays)
		as.introspect = answerJWT(mintHeader("EdDSA", `{"alg":"EdDSA","kid":"more"}`, claims(nil)))
		if got := as.try(m, "other"); got != codeOK || as.fetches.Load() != 2 {
			t.Fatalf("%s, %d fetches", got, as.fetches.Load())
		}
		if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != 2 {
			t.Errorf("a verdict by a key that stayed: %s, %d introspections", got, as.calls.Load())
		}
		// It leaves at last, by the refresh of its age.
		document = jwks(jwk("more", "EdDSA", edKey().Public()))
		time.Sleep(5*time.Minute + time.Second)
		as.introspect = nil
		if got := as.try(m, "opaque"); got != codeOK { // old keys, while the refresh runs
			t.Errorf("during the refresh: %s", got)
		}
		synctest.Wait()
		if got := as.try(m, "opaque"); got != code401T {
			t.Errorf("after the refresh: %s", got)
		}
	})
}

// Each request must carry the JWT and the claims of its own lookup, however
// the lookups of one token overlap.
func TestJ179AnotherJWTEachTime(t *testing.T) {
	for name, extra := range map[string][]phantom.Option{
		"J179 uncached": {phantom.WithCacheSize(0)},
		"J179 cached":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			as := newAS(t)
			var mu sync.Mutex
			n := 0
			as.introspect = func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				n++
				id := fmt.Sprint("id-", n)
				mu.Unlock()
				answerJWT(mint("EdDSA", claims(map[string]any{"jti": id, "sub": "user-" + id})))(w, r)
			}
			m := as.middleware(extra...)
			h := m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				tok, _ := phantom.FromContext(r.Context())
				var c struct{ Sub, Jti string }
				if err := tok.Decode(&c); err != nil {
					t.Error(err)
				}
				if c.Jti != tok.ID() || c.Sub != "user-"+tok.ID() || tok.Subject() != c.Sub {
					t.Errorf("claims %v beside %q of %q", c, tok.ID(), tok.Subject())
				}
				if r.Header.Get("Authorization") != "Bearer "+tok.JWT() {
					t.Error("another JWT than the token's")
				}
			}))
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 20 {
						if rec := serve(h, get("Bearer opaque")); rec.Code != 200 {
							t.Errorf("status %d", rec.Code)
						}
					}
				})
			}
			wg.Wait()
			if name == "J179 cached" && as.calls.Load() != 1 {
				t.Errorf("%d introspections", as.calls.Load())
			}
		})
	}
}

// A JWT that is refused says so to the caller of Verify in the same terms.
func TestRefusedJWTAsAnError(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(as.secret(claim("aud", `"https://other.test"`)))
	m := as.middleware()
	tok, err := m.Verify(t.Context(), "opaque")
	var e *phantom.Error
	if tok != nil || !errors.Is(err, phantom.ErrInvalidToken) || !errors.As(err, &e) {
		t.Fatalf("%v, %v", tok, err)
	}
	if e.Reason != phantom.ReasonJWTRejected || e.Detail != "aud" || e.StatusCode() != 401 || err.Error() != "phantom: jwt_rejected: aud" {
		t.Errorf("%+v", e)
	}
	if found := as.leaks(fmt.Sprintf("%v %+v %#v", err, err, e)); found != nil {
		t.Errorf("the error holds %q", found)
	}
}

// The check of a signature must come before any check of claims, so that a
// forged JWT learns nothing of them.
func TestSignatureBeforeClaims(t *testing.T) {
	forged := compact("ES256", must(ecdsa.GenerateKey(p256Key().Curve, rand.Reader)), goodHeader,
		string(must(json.Marshal(claims(map[string]any{"iss": "https://other.test", "exp": 1})))))
	trial(t, forged, code401T, "signature")
}
