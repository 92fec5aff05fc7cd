package conformance_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// handle is a private key of which nothing is known but what crypto.Signer
// says, such as one in hardware.
type handle struct{ crypto.Signer }

// claimsOf verifies an assertion with the standard library and returns its
// claims.
func claimsOf(t *testing.T, jwt, alg, keyID string, public crypto.PublicKey) map[string]any {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("assertion of %d parts", len(parts))
	}
	var header map[string]string
	if err := json.Unmarshal(must(base64.RawURLEncoding.Strict().DecodeString(parts[0])), &header); err != nil {
		t.Fatal(err)
	}
	wantHeader := map[string]string{"alg": alg, "kid": keyID, "typ": "JWT"}
	if keyID == "" {
		delete(wantHeader, "kid")
	}
	if !maps.Equal(header, wantHeader) {
		t.Errorf("header %v, want %v", header, wantHeader)
	}
	sig := must(base64.RawURLEncoding.Strict().DecodeString(parts[2]))
	input := parts[0] + "." + parts[1]
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	var digest []byte
	if hash != 0 {
		h := hash.New()
		h.Write([]byte(input))
		digest = h.Sum(nil)
	}
	good := false
	switch key := public.(type) {
	case *rsa.PublicKey:
		if alg[0] == 'P' {
			good = rsa.VerifyPSS(key, hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		} else {
			good = rsa.VerifyPKCS1v15(key, hash, digest, sig) == nil
		}
	case *ecdsa.PublicKey:
		n := (key.Curve.Params().BitSize + 7) / 8
		good = len(sig) == 2*n && ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case ed25519.PublicKey:
		good = ed25519.Verify(key, []byte(input), sig)
	}
	if !good {
		t.Errorf("%s: bad signature", alg)
	}
	dec := json.NewDecoder(strings.NewReader(string(must(base64.RawURLEncoding.Strict().DecodeString(parts[1])))))
	dec.UseNumber()
	var found map[string]any
	if err := dec.Decode(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// Each lookup has an assertion of its own: a new jti, the issuer as its
// audience, and a minute to live.
//
// Catalogue: A122.
func TestEachLookupHasItsOwnAssertion(t *testing.T) {
	for _, alg := range everyAlgorithm {
		t.Run(alg+" key", func(t *testing.T) { tryAssertions(t, alg, keyFor(alg)) })
		t.Run(alg+" handle", func(t *testing.T) { tryAssertions(t, alg, handle{keyFor(alg)}) })
	}
}

// tryAssertions makes lookups with assertions by the key, and checks each.
func tryAssertions(t *testing.T, alg string, key crypto.Signer) {
	t.Helper()
	lookups := 100 // ES: enough for an r or s with a leading zero
	if alg[0] == 'R' || alg[0] == 'P' || alg == "ES384" || alg == "ES512" {
		lookups = 5
	}
	as := newAS(t)
	as.introspect = reply(204, "")
	m := as.middleware(phantom.WithClientAuth(phantom.PrivateKeyJWT("gw:odd id", "key-1", alg, key)))
	before := time.Now().Unix()
	for i := range lookups {
		if got := as.try(m, fmt.Sprintf("token-%d", i)); got != code401T {
			t.Fatalf("%s\n%s", got, as.logs.String())
		}
	}
	after := time.Now().Unix()
	ids := map[string]bool{}
	for _, r := range as.recorded(endpointPath) {
		assertion := as.secret(r.PostForm.Get("client_assertion"))
		want := url.Values{
			"token": r.PostForm["token"], "token_type_hint": {"access_token"}, "client_id": {"gw:odd id"},
			"client_assertion":      {assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}
		if !maps.EqualFunc(r.PostForm, want, slices.Equal) || r.Header["Authorization"] != nil {
			t.Fatalf("form %v, Authorization %q", r.PostForm, r.Header["Authorization"])
		}
		found := claimsOf(t, assertion, alg, "key-1", key.Public())
		iat, exp := must(found["iat"].(json.Number).Int64()), must(found["exp"].(json.Number).Int64())
		if iat < before || iat > after || exp != iat+60 {
			t.Errorf("iat %d, exp %d", iat, exp)
		}
		jti, _ := found["jti"].(string)
		if len(jti) < 22 || ids[jti] {
			t.Errorf("jti %q, seen before: %v", jti, ids[jti])
		}
		ids[jti] = true
		if found["iss"] != "gw:odd id" || found["sub"] != "gw:odd id" || found["aud"] != issuer {
			t.Errorf("iss %v, sub %v, aud %v", found["iss"], found["sub"], found["aud"])
		}
		if len(found) != 6 {
			t.Errorf("claims %v", found)
		}
	}
	if len(ids) != lookups {
		t.Errorf("%d different jti in %d lookups", len(ids), lookups)
	}
}

// An assertion has no kid if the key has no name.
//
// Catalogue: A122.
func TestAssertionWithoutKeyID(t *testing.T) {
	r := oneLookup(t, phantom.PrivateKeyJWT("app", "", "ES256", p256Key()))
	claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "", p256Key().Public())
}

// One ClientAuth serves two issuers, each with its own audience.
//
// Catalogue: A122.
func TestAssertionIsForItsIssuer(t *testing.T) {
	auth := phantom.PrivateKeyJWT("app", "k", "ES256", p256Key())
	for _, iss := range []string{issuer, "https://other.test/realm", issuer} {
		as := newAS(t)
		as.introspect = reply(204, "")
		m := as.middleware(phantom.WithIssuer(iss), phantom.WithClientAuth(auth))
		if got := as.try(m, "tok"); got != code401T {
			t.Fatal(got)
		}
		sent := as.recorded(endpointPath)[0].PostForm.Get("client_assertion")
		if aud := claimsOf(t, sent, "ES256", "k", p256Key().Public())["aud"]; aud != iss {
			t.Errorf("aud %v, want %v", aud, iss)
		}
	}
}

// Behind a ClientAuth of the caller's there is no issuer to make an assertion
// for. None with an empty or a guessed audience is sent.
//
// Catalogue: A122.
func TestAssertionWithoutIssuerIsNotSent(t *testing.T) {
	as := newAS(t)
	auth := authFunc(phantom.PrivateKeyJWT("app", "k", "ES256", p256Key()).Authenticate)
	if got := as.try(as.middleware(phantom.WithClientAuth(auth)), "tok"); got != code503A || as.calls.Load() != 0 {
		t.Errorf("%s, asked %d times", got, as.calls.Load())
	}
}

// A key that a program keeps in PEM fits as it is parsed.
//
// Catalogue: A122.
func TestPrivateKeyJWTTakesAParsedKey(t *testing.T) {
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p256Key()))})
	block, _ := pem.Decode(text)
	key := must(x509.ParsePKCS8PrivateKey(block.Bytes))
	r := oneLookup(t, phantom.PrivateKeyJWT("app", "k", "ES256", key.(crypto.Signer)))
	claimsOf(t, r.PostForm.Get("client_assertion"), "ES256", "k", p256Key().Public())
}

// A strangeSigner has an ordinary public key and does something else with what
// it is to sign.
type strangeSigner struct {
	public crypto.PublicKey
	sign   func(digest []byte) ([]byte, error)
}

func (s strangeSigner) Public() crypto.PublicKey { return s.public }

func (s strangeSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.sign(digest)
}

// A signer that fails, panics or signs wrongly is an outage. Nothing is sent,
// and what it says is not shown.
//
// Catalogue: A122.
func TestFaultySignerIsAnOutage(t *testing.T) {
	for _, tc := range []struct {
		name   string
		alg    string
		public crypto.Signer
		sign   func(digest []byte) ([]byte, error)
	}{
		{"error", "ES256", p256Key(), func([]byte) ([]byte, error) { return nil, errors.New("PIN 1234 refused") }},
		{"nothing", "ES256", p256Key(), func([]byte) ([]byte, error) { return nil, nil }},
		{"junk", "RS256", rsaKey(), func([]byte) ([]byte, error) { return make([]byte, 256), nil }},
		{"another's", "RS256", rsaKey(), func(d []byte) ([]byte, error) { return otherRSA().Sign(rand.Reader, d, crypto.SHA256) }},
		{"panic", "EdDSA", edKey(), func([]byte) ([]byte, error) { panic("PIN 1234") }},
		{"raw, not ASN.1", "ES256", p256Key(), func([]byte) ([]byte, error) { return make([]byte, 64), nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("PIN 1234")
			key := strangeSigner{tc.public.Public(), tc.sign}
			m := as.middleware(phantom.WithClientAuth(phantom.PrivateKeyJWT("app", "k", tc.alg, key)))
			if got := as.try(m, "tok"); got != code503A {
				t.Error(got)
			}
			if n := as.calls.Load(); n != 0 {
				t.Errorf("sent %d times all the same", n)
			}
		})
	}
}
