package conformance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// otherKeys are n keys for ES256 that sign nothing, with kids of their own.
func otherKeys(n int) (keys []map[string]any) {
	for i := range n {
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		keys = append(keys, jwk(fmt.Sprint("other-", i), "ES256", key.Public()))
	}
	return keys
}

// An empty kid is no kid. Without one, sixteen keys are tried, and keys that
// cannot have signed do not count.
//
// Catalogue: V5.
func TestJWTWithoutKidTriesSixteenKeys(t *testing.T) {
	ours, rsa := jwk("ours", "ES256", p256Key().Public()), jwk("rsa", "RS256", rsaKey().Public())
	for _, tc := range []struct {
		name string
		keys []map[string]any
		want string
	}{
		{"the fifth", append(otherKeys(4), ours), codeOK},
		{"the sixteenth", append(otherKeys(15), ours), codeOK},
		{"the sixteenth that is eligible", slices.Concat(slices.Repeat([]map[string]any{rsa}, 5), otherKeys(15), []map[string]any{ours}), codeOK},
		{"the seventeenth", append(otherKeys(16), ours), code401T},
		{"its own kid is empty", []map[string]any{with(ours, member{"kid": ""})}, codeOK},
	} {
		for kid, header := range map[string]string{
			"no kid": `{"alg":"ES256","typ":"at+jwt"}`, "empty kid": `{"alg":"ES256","typ":"at+jwt","kid":""}`,
		} {
			t.Run(tc.name+", "+kid, func(t *testing.T) {
				as := newAS(t)
				jwt := es256(header, goodPayload())
				as.introspect = answerJWT(jwt)
				as.jwks = answer(200, "application/json", jwks(tc.keys...))
				trialOf(t, as, jwt, tc.want, "signature")
			})
		}
	}
	t.Run("an empty kid in the key set is no name for it", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(nil))) // whose kid no key has
		as.jwks = answer(200, "application/json", jwks(with(ours, member{"kid": ""})))
		trialOf(t, as, "", codeOK, "")
	})
}

// Ed25519 is what RFC 9864 calls EdDSA on that curve. Each name stands for the
// other, in the JWT, in the key and in the options.
//
// Catalogue: V6.
func TestEd25519IsEdDSA(t *testing.T) {
	for _, inJWT := range []string{"EdDSA", "Ed25519"} {
		for _, inKey := range []string{"", "EdDSA", "Ed25519", "ES256"} {
			for _, listed := range []string{"", "EdDSA", "Ed25519", "ES256"} {
				t.Run(inJWT+"/"+inKey+"/"+listed, func(t *testing.T) {
					as := newAS(t)
					jwt := compact("EdDSA", edKey(), fmt.Sprintf(`{"alg":%q,"kid":"ed"}`, inJWT), goodPayload())
					as.introspect = answerJWT(jwt)
					as.jwks = answer(200, "application/json", jwks(jwk("ed", inKey, edKey().Public()), jwk("ec", "", p256Key().Public())))
					var options []phantom.Option
					if listed != "" {
						options = append(options, phantom.WithAlgorithms("RS256", listed))
					}
					want := codeOK
					if inKey == "ES256" || listed == "ES256" {
						want = code401T
					}
					if got := as.try(as.middleware(options...), "opaque"); got != want {
						t.Errorf("%s, want %s", got, want)
					}
				})
			}
		}
	}
	for _, alg := range []string{"ed25519", "Ed448", "ED25519", "Ed25519ph"} {
		trial(t, compact("EdDSA", edKey(), fmt.Sprintf(`{"alg":%q,"kid":"k-EdDSA"}`, alg), goodPayload()), code401T, "alg")
		if _, err := phantom.New(newAS(t).options(phantom.WithAlgorithms(alg))...); err == nil {
			t.Errorf("WithAlgorithms takes %q", alg)
		}
	}
	t.Run("StaticKeys", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(compact("EdDSA", edKey(), `{"alg":"Ed25519"}`, goodPayload()))
		options := slices.Delete(as.options(phantom.WithKeySet(phantom.StaticKeys(edKey().Public()))), 3, 4)
		if got := as.try(must(phantom.New(options...)), "opaque"); got != codeOK {
			t.Error(got)
		}
	})
}

// The key stays the same when the server changes its name for the algorithm,
// and so do the verdicts that rest on it.
//
// Catalogue: V6.
func TestKeyThatIsRenamedToEd25519Stays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(compact("EdDSA", edKey(), `{"alg":"EdDSA","kid":"ed"}`,
			string(must(json.Marshal(claims(map[string]any{"exp": time.Now().Unix() + 3600}))))))
		as.jwks = answer(200, "application/json", jwks(jwk("ed", "EdDSA", edKey().Public())))
		m := as.middleware(phantom.WithMaxTTL(time.Hour), phantom.WithRefreshAhead(0))
		if got := as.try(m, "opaque"); got != codeOK {
			t.Fatal(got)
		}
		as.jwks = answer(200, "application/json", jwks(jwk("ed", "Ed25519", edKey().Public())))
		time.Sleep(6 * time.Minute)
		as.introspect = answerJWT(compact("EdDSA", edKey(), `{"alg":"EdDSA","kid":"ed"}`, goodPayload()))
		if got := as.try(m, "another"); got != codeOK { // starts the refresh
			t.Fatal(got)
		}
		synctest.Wait()
		if got := as.try(m, "opaque"); got != codeOK || as.calls.Load() != 2 || as.fetches.Load() != 2 {
			t.Errorf("%s, asked %d times, %d fetches", got, as.calls.Load(), as.fetches.Load())
		}
	})
}

// A key that is left out for what it says of its use has one WARN, which names
// the reason. Keys that say that they are for encryption are none of our
// business.
//
// Catalogue: V7.
func TestWhyAKeyIsLeftOutIsLogged(t *testing.T) {
	key := jwk("bad", "RS256", otherRSA().Public())
	const use, ops = "use is not sig", "key_ops has no verify"
	const unknown, unfit = "alg is not one that verifies signatures here", "alg does not fit the key"
	for _, tc := range []struct {
		name    string
		changes map[string]any
		reason  string // "": none
		use     bool   // the key is used
	}{
		{"use empty", member{"use": ""}, "", true},
		{"alg empty", member{"alg": ""}, "", true},
		{"both empty", member{"use": "", "alg": ""}, "", true},
		{"use enc", member{"use": "enc", "alg": "RSA-OAEP"}, "", false},
		{"use enc, alg of a signature", member{"use": "enc"}, "", false},
		{"use in another case", member{"use": "SIG"}, use, false},
		{"use unknown", member{"use": "signature"}, use, false},
		{"use null", member{"use": null}, "use is not a string", false},
		{"key_ops empty", member{"key_ops": []string{}}, ops, false},
		{"key_ops sign", member{"key_ops": []string{"sign"}}, ops, false},
		{"key_ops sign and encrypt", member{"key_ops": []string{"sign", "encrypt"}}, ops, false},
		{"key_ops unknown", member{"key_ops": []string{"Verify"}}, ops, false},
		{"key_ops of encryption", member{"use": nil, "key_ops": []string{"encrypt", "wrapKey"}}, "", false},
		{"key_ops of agreement", member{"use": nil, "key_ops": []string{"deriveKey", "deriveBits"}}, "", false},
		{"alg unknown", member{"alg": "RS1"}, unknown, false},
		{"alg none", member{"alg": "none"}, unknown, false},
		{"alg HS256", member{"alg": "HS256"}, unknown, false},
		{"alg in lower case", member{"alg": "rs256"}, unknown, false},
		{"alg of another kind", member{"alg": "ES256"}, unfit, false},
		{"alg of encryption", member{"alg": "RSA-OAEP-256", "use": nil}, "", false},
		{"alg of agreement", member{"alg": "ECDH-ES+A128KW", "use": nil}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			jwt := compact("RS256", otherRSA(), `{"alg":"RS256","kid":"bad"}`, goodPayload())
			as.introspect = answerJWT(jwt)
			good := jwk("k-EdDSA", "EdDSA", edKey().Public())
			document := must(json.Marshal(map[string]any{"keys": []any{good, with(key, tc.changes)}}))
			as.jwks = answer(200, "application/json", string(document))
			book := as.logBook()
			m := as.middleware(booked(book))
			if err := m.Warm(t.Context()); err != nil {
				t.Fatal(err)
			}
			said := aboveDebug(book.take())
			switch {
			case tc.reason == "" && len(said) != 0:
				t.Errorf("logged %v", said)
			case tc.reason != "" && (len(said) != 1 || said[0].level != slog.LevelWarn ||
				said[0].msg != "phantom: a key of the issuer is not used" || said[0].attrs["detail"] != "key 1: "+tc.reason):
				t.Errorf("logged %v, want %q", said, tc.reason)
			}
			want := code401T
			if tc.use {
				want = codeOK
			}
			if got := as.try(m, "opaque"); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			checkLine(t, book.take(), want, "key")
		})
	}
}

// The check that refuses a JWT is "key" if there is a key of its kid that must
// not be used for it, and "kid" if there is none.
//
// Catalogue: V7.
func TestUnusableKeyOfTheKidIsToldFromNone(t *testing.T) {
	ec := jwk("bad", "", p256Key().Public())
	jwt := es256(`{"alg":"ES256","kid":"bad"}`, goodPayload())
	for _, tc := range []struct {
		name  string
		keys  []any
		want  string
		check string
	}{
		{"no key of that kid", []any{with(ec, member{"kid": "other"})}, code401T, "kid"},
		{"in another case", []any{with(ec, member{"kid": "BAD", "use": "enc"})}, code401T, "kid"},
		{"for encryption", []any{with(ec, member{"use": "enc"})}, code401T, "key"},
		{"pinned to another algorithm", []any{jwk("bad", "RS256", rsaKey().Public())}, code401T, "key"},
		{"of another kind", []any{jwk("bad", "", rsaKey().Public())}, code401T, "key"},
		{"of an unknown kind", []any{member{"kty": "AKP", "kid": "bad"}}, code401T, "key"},
		{"on an unknown curve", []any{with(ec, member{"crv": "secp256k1"})}, code401T, "key"},
		{"broken", []any{with(ec, member{"y": ec["x"]})}, code401T, "key"},
		{"with private members", []any{with(ec, member{"d": "AA"})}, code401T, "key"},
		{"symmetric", []any{member{"kty": "oct", "kid": "bad", "k": "AAAA"}}, code401T, "key"},
		{"unusable first, then usable", []any{with(ec, member{"use": "enc"}), ec}, codeOK, ""},
		{"unusable beside another signer's", []any{
			with(ec, member{"use": "enc"}), jwk("bad", "", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).Public()),
		}, code401T, "signature"},
		{"unusable beside the right one without a kid", []any{with(ec, member{"use": "enc"}), jwk("", "", p256Key().Public())}, codeOK, ""},
		{"a kid that is no text", []any{with(ec, member{"kid": []string{"bad"}})}, code401T, "kid"},
		{"no object", []any{"bad"}, code401T, "kid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.introspect = answerJWT(jwt)
			keys := append([]any{jwk("k-EdDSA", "EdDSA", edKey().Public())}, tc.keys...)
			as.jwks = answer(200, "application/json", string(must(json.Marshal(map[string]any{"keys": keys}))))
			m := as.middleware()
			err := errOf(m.Verify(t.Context(), "opaque"))
			if got, want := fmt.Sprint(err), "phantom: jwt_rejected: "+tc.check+" (keys https://as.test/jwks)"; tc.want == codeOK && err != nil || tc.want != codeOK && got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	t.Run("no kid in the JWT", func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(es256(`{"alg":"ES256"}`, goodPayload()))
		as.jwks = answer(200, "application/json", jwks(jwk("", "", edKey().Public()), with(jwk("", "", p256Key().Public()), member{"use": "enc"})))
		if err := errOf(as.middleware().Verify(t.Context(), "opaque")); fmt.Sprint(err) != "phantom: jwt_rejected: kid (keys https://as.test/jwks)" {
			t.Error(err)
		}
	})
}

func errOf(_ *phantom.Token, err error) error { return err }
