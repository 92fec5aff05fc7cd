package conformance_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
)

// headerWith returns the default JWT with more members in its header.
func headerWith(members string) string {
	return es256(`{"alg":"ES256","kid":"k-ES256","typ":"at+jwt",`+members+`}`, goodPayload())
}

// A header with a critical extension is refused: we know of none. An unknown
// member that is not critical does no harm.
//
// Catalogue: J136.
func TestCriticalExtensionIsRefused(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"registered name", headerWith(`"crit":["exp"],"exp":1`), code401T, "crit", ""},
		{"name that is not there", headerWith(`"crit":["exp"]`), code401T, "crit", ""},
		{"empty list", headerWith(`"crit":[]`), code401T, "crit", ""},
		{"unknown extension", headerWith(`"crit":["http://x"],"http://x":true`), code401T, "crit", ""},
		{"crit is a string", headerWith(`"crit":"exp"`), code401T, "crit", ""},
		{"crit is null", headerWith(`"crit":null`), code401T, "crit", ""},
		{"b64 listed", headerWith(`"crit":["b64"],"b64":true`), code401T, "crit", ""},
		{"b64 alone", headerWith(`"b64":false`), code401T, "b64", ""},
		{"zip", headerWith(`"zip":"DEF"`), code401T, "zip", ""},
		{"enc", headerWith(`"enc":"A128GCM"`), code401T, "enc", ""},
		{"unknown member that is not critical", headerWith(`"http://x":true`), codeOK, "", ""},
	})
}

// A kid is a name to compare with those of the key set, and nothing else.
//
// Catalogue: J141.
func TestHostileKidFindsNoKey(t *testing.T) {
	kid := func(value string) string {
		return es256(`{"alg":"ES256","typ":"at+jwt","kid":`+value+`}`, goodPayload())
	}
	runJWTCases(t, []jwtCase{
		{"a path", kid(`"../../etc/passwd"`), code401T, "kid", ""},
		{"an SQL condition", kid(`"' OR 1=1"`), code401T, "kid", ""},
		{"NUL alone", kid(`"\u0000"`), code401T, "kid", ""},
		{"NUL behind a known one", kid(`"k-ES256\u0000"`), code401T, "kid", ""},
		{"a line break inside", kid(`"k-ES256\r\nlevel=INFO"`), code401T, "kid", ""},
		{"a number", kid(`1`), code401T, "kid", ""},
		{"an array", kid(`["k-ES256"]`), code401T, "kid", ""},
		{"null", kid(`null`), code401T, "kid", ""},
		{"an empty string", kid(`""`), codeOK, "", ""}, // V5
		{"a URL", kid(`"https://evil.test/key"`), code401T, "kid", ""},
		{"257 bytes", kid(`"` + strings.Repeat("k", 257) + `"`), code401T, "kid", ""},
		{"7 KiB", kid(`"` + strings.Repeat("k", 7<<10) + `"`), code401T, "kid", ""},
		{"9 KiB", kid(`"` + strings.Repeat("k", 9<<10) + `"`), code502A, "", ""},
		{"1 MiB", kid(`"` + strings.Repeat("k", 1<<20) + `"`), code502A, "", ""},
	})
}

// The header of a JWT has 8 KiB at most.
//
// Catalogue: J176.
func TestHeaderSizeIsBounded(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"header of 9 KiB", headerWith(`"x":"` + strings.Repeat("x", 9<<10) + `"`), code502A, "", ""},
		{"header of 8 KiB at most", headerWith(`"x":"` + strings.Repeat("x", 8<<10-len(goodHeader)-7) + `"`), codeOK, "", ""},
	})
}

// typed returns the default JWT with another typ in its header.
func typed(typ string) string {
	return es256(`{"alg":"ES256","kid":"k-ES256","typ":`+typ+`}`, goodPayload())
}

// An access token says at+jwt in its typ. The default profile takes plain JWTs
// too; that of RFC 9068 does not.
//
// Catalogue: J142, J143, J144.
func TestAccessTokenTypeIsAccepted(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"absent", es256(`{"alg":"ES256","kid":"k-ES256"}`, goodPayload()), codeOK, "typ", code401T},
		{"JWT", typed(`"JWT"`), codeOK, "typ", code401T},
		{"jwt", typed(`"jwt"`), codeOK, "typ", code401T},
		{"at+jwt", typed(`"at+jwt"`), codeOK, "", ""},
		{"AT+JWT", typed(`"AT+JWT"`), codeOK, "", ""},
		{"at+JWT", typed(`"at+JWT"`), codeOK, "", ""},
		{"application/at+jwt", typed(`"application/at+jwt"`), codeOK, "", ""},
		{"APPLICATION/AT+JWT", typed(`"APPLICATION/AT+JWT"`), codeOK, "", ""},
	})
}

// A JWT of any other type is no access token in either profile.
//
// Catalogue: J145.
func TestOtherTypeIsRefused(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"dpop+jwt", typed(`"dpop+jwt"`), code401T, "typ", ""},
		{"token-introspection+jwt", typed(`"token-introspection+jwt"`), code401T, "typ", ""},
		{"logout+jwt", typed(`"logout+jwt"`), code401T, "typ", ""},
		{"secevent+jwt", typed(`"secevent+jwt"`), code401T, "typ", ""},
		{"application/dpop+jwt", typed(`"application/dpop+jwt"`), code401T, "typ", ""},
		{"id_token+jwt", typed(`"id_token+jwt"`), code401T, "typ", ""},
		{"kb+jwt", typed(`"kb+jwt"`), code401T, "typ", ""},
		{"JOSE", typed(`"JOSE"`), code401T, "typ", ""},
		{"an empty string", typed(`""`), code401T, "typ", ""},
		{"null", typed(`null`), code401T, "typ", ""},
		{"a number", typed(`1`), code401T, "typ", ""},
		{"an array", typed(`["at+jwt"]`), code401T, "typ", ""},
		{"a space in front", typed(`" at+jwt"`), code401T, "typ", ""},
		{"with a parameter", typed(`"at+jwt; x=y"`), code401T, "typ", ""},
		{"at+jwt with a letter behind", typed(`"at+jwt2"`), code401T, "typ", ""},
		{"another media type", typed(`"text/at+jwt"`), code401T, "typ", ""},
	})
}

// The keys and the URLs that a header brings along are not used. They make no
// JWT good, and no request goes to those URLs.
func TestKeysInTheHeaderAreNotUsed(t *testing.T) {
	attacker := otherRSA()
	header := func(alg, kid string) string {
		return string(must(json.Marshal(map[string]any{
			"alg": alg, "typ": "at+jwt", "kid": kid,
			"jku": "https://evil.test/jwks", "x5u": "https://evil.test/cert.pem",
			"jwk": jwk(kid, alg, attacker.Public()),
			"x5c": []string{"MIIB"}, "x5t": "AAAA", "x5t#S256": "AAAA",
		})))
	}
	for _, tc := range []struct {
		name, jwt, want, detail string
	}{
		{"good signature", es256(header("ES256", "k-ES256"), goodPayload()), codeOK, ""},                            // J138
		{"known kid", compact("RS256", attacker, header("RS256", "k-RS256"), goodPayload()), code401T, "signature"}, // J139
		{"unknown kid", compact("RS256", attacker, header("RS256", "evil"), goodPayload()), code401T, "kid"},        // J139
		{"no kid", compact("RS256", attacker, string(must(json.Marshal(map[string]any{
			"alg": "RS256", "jwk": jwk("", "RS256", attacker.Public()), "jku": "https://evil.test/jwks",
		}))), goodPayload()), code401T, "signature"}, // J139
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(tc.jwt)
			trialOf(t, as, tc.jwt, tc.want, tc.detail)
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

// A JWT without a kid is tried with the keys that fit; V5 has how many. A kid
// in it also fits keys that have none.
//
// Catalogue: J140.
func TestJWTWithoutKidTriesEachKeyThatFits(t *testing.T) {
	header := `{"alg":"ES256","typ":"at+jwt"}`
	jwt := es256(header, goodPayload())
	others := otherKeys(2)
	ours := jwk("ours", "ES256", p256Key().Public())
	rsa := jwk("rsa", "RS256", rsaKey().Public())
	for _, tc := range []struct {
		name string
		keys []map[string]any
		want string
	}{
		{"one eligible key", []map[string]any{rsa, ours}, codeOK},
		{"two, the first verifies", []map[string]any{ours, others[0]}, codeOK},
		{"two, the second verifies", []map[string]any{others[0], rsa, ours}, codeOK},
		{"none of two verifies", others, code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(jwt)
			as.jwks = answer(200, "application/json", jwks(tc.keys...))
			trialOf(t, as, jwt, tc.want, "signature")
		})
	}
	t.Run("no eligible key", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(jwt)
		as.jwks = answer(200, "application/json", jwks(rsa))
		trialOf(t, as, jwt, code401T, "kid")
	})
	t.Run("kid in the JWT, none in the key set", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil)))
		as.jwks = answer(200, "application/json", jwks(jwk("", "", otherRSA().Public()), jwk("", "", p256Key().Public())))
		trialOf(t, as, "", codeOK, "")
	})
	t.Run("kid in the JWT, another key has it", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil)))
		other := jwk("k-ES256", "ES256", must(ecdsa.GenerateKey(p256Key().Curve, rand.Reader)).Public())
		as.jwks = answer(200, "application/json", jwks(other, jwk("", "ES256", p256Key().Public())))
		trialOf(t, as, "", code401T, "signature")
	})
}

// What a JWT says of its key is not in the log as it is.
//
// Catalogue: J141.
func TestKidIsNotLoggedAsItIs(t *testing.T) {
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
