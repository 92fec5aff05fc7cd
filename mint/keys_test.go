package mint_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
)

// The published key verifies the JWT, by the standard library alone.
func TestEachAlgorithmVerifiesByThePublishedKey(t *testing.T) {
	for _, tc := range []struct {
		alg, want string
		key       crypto.Signer
	}{
		{"", "ES256", p256()},
		{"", "ES384", p384()},
		{"", "ES512", p521()},
		{"", "EdDSA", edKey()},
		{"", "RS256", rsaKey()},
		{"RS384", "RS384", rsaKey()},
		{"RS512", "RS512", rsaKey()},
		{"PS256", "PS256", rsaKey()},
		{"PS384", "PS384", rsaKey()},
		{"PS512", "PS512", rsaKey()},
		{"ES256", "ES256", &device{Signer: p256()}},
	} {
		m := newMinter(t, []mint.Key{{Algorithm: tc.alg, Signer: tc.key}})
		jwt, err := m.Mint(t.Context(), "", answer(good))
		if err != nil {
			t.Fatal(err)
		}
		set := keySet(t, m)
		msg := must(jose.Parse(jwt))
		if len(set) != 1 || msg.Algorithm != tc.want || set[0].Alg != tc.want || set[0].Kid != msg.KeyID || set[0].Use != "sig" {
			t.Fatalf("%s: %+v, alg %q, kid %q", tc.want, set, msg.Algorithm, msg.KeyID)
		}
		if pub := set[0].public(t); !verifies(t, jwt, tc.want, pub) || verifies(t, jwt[:len(jwt)-8]+"AAAAAAAA", tc.want, pub) {
			t.Errorf("%s does not verify", tc.want)
		}
		if set[0].Kid != must(jose.NewKey(tc.key.Public())).Thumbprint() {
			t.Errorf("%s: kid %q is no thumbprint", tc.want, set[0].Kid)
		}
		if payload, err := m.VerifySignature(t.Context(), jwt); err != nil || string(payload) != string(msg.Payload) {
			t.Errorf("%s: %v", tc.want, err)
		}
	}
}

// Catalogue: A10.
func TestFirstKeySignsAndAllArePublished(t *testing.T) {
	m := newMinter(t, []mint.Key{
		{ID: "new", Signer: p256()}, {ID: "old", Signer: rsaKey()}, {ID: "theirs", Public: other().Public()},
	})
	jwt := must(m.Mint(t.Context(), "", answer(good)))
	if kid := must(jose.Parse(jwt)).KeyID; kid != "new" {
		t.Errorf("kid %q", kid)
	}
	body := get(m, "/.well-known/jwks.json").Body.Bytes()
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) != 3 {
		t.Fatalf("%v, %s", err, body)
	}
	wants := [][]string{{"kty", "crv", "x", "y", "use", "alg", "kid"}, {"kty", "n", "e", "use", "alg", "kid"}, {"kty", "crv", "x", "y", "use", "alg", "kid"}}
	for i, want := range wants {
		for _, name := range want {
			if _, ok := set.Keys[i][name].(string); !ok {
				t.Errorf("key %d has no %s", i, name)
			}
		}
		if len(set.Keys[i]) != len(want) {
			t.Errorf("key %d has more than %q: %v", i, want, set.Keys[i])
		}
	}
	if keys, unusable, dropped, err := jose.ParseKeySet(body); err != nil || len(keys) != 3 || len(unusable)+len(dropped) != 0 {
		t.Errorf("phantom reads %d keys, drops %v, %v", len(keys), dropped, err)
	}
}

// faulty is a Signer whose Public method panics.
type faulty struct{ crypto.Signer }

func (faulty) Public() crypto.PublicKey { panic("PKCS#11") }

// Catalogue: A10, A11.
func TestUnfitKeysAreRefused(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	fit := mint.Key{ID: "fit", Signer: p256()}
	var noDevice *device
	for _, tc := range []struct {
		name, want string
		keys       []mint.Key
	}{
		{"no keys", "no keys", nil},
		{"two with one ID", `keys 1 and 2 have one ID, "fit"`, []mint.Key{fit, {ID: "fit", Signer: edKey()}}},
		{"one key twice", "keys 1 and 2 have one ID", []mint.Key{{Signer: p256()}, {Public: p256().Public()}}},
		{"first without Signer", `key 1 (ID "theirs") has no Signer`, []mint.Key{{ID: "theirs", Public: other().Public()}, fit}},
		{"Public of another", `key 1 (ID ""): the Signer's key is not Public`, []mint.Key{{Signer: p256(), Public: other().Public()}}},
		{"Public of another, later", `key 2 (ID "b"): the Signer's key is not Public`, []mint.Key{fit, {ID: "b", Signer: edKey(), Public: other().Public()}}},
		{"neither", `key 2 (ID ""): neither Signer nor Public`, []mint.Key{fit, {}}},
		{"nil in an interface", "neither Signer nor Public", []mint.Key{{Signer: noDevice}}},
		{"nil key in an interface", "neither Signer nor Public", []mint.Key{{Signer: (*ecdsa.PrivateKey)(nil)}}},
		{"empty Ed25519", "the Signer panicked", []mint.Key{{Signer: ed25519.PrivateKey(nil)}}},
		{"Signer panics", "the Signer panicked", []mint.Key{{Signer: faulty{}}}},
		{"RSA 1024", "RSA modulus of 1024 bits", []mint.Key{{Signer: weak}}},
		{"RSA 1024, published", "RSA modulus of 1024 bits", []mint.Key{fit, {Public: &weak.PublicKey}}},
		{"P-224", "EC curve not supported", []mint.Key{{Signer: p224}}},
		{"HMAC secret", "public key type []uint8 not supported", []mint.Key{fit, {Public: []byte("secret"), Algorithm: "HS256"}}},
		{"HS256", "algorithm not supported", []mint.Key{{Signer: p256(), Algorithm: "HS256"}}},
		{"none", "algorithm not supported", []mint.Key{{Signer: p256(), Algorithm: "none"}}},
		{"of another kind", "a key of kind P-256 cannot sign RS256", []mint.Key{{Signer: p256(), Algorithm: "RS256"}}},
		{"private as Public", "Public: public key type *ecdsa.PrivateKey not supported", []mint.Key{{Signer: p256(), Public: p256()}}},
		{"ID with a line break", "key id not usable", []mint.Key{{ID: "k\n", Signer: p256()}}},
		{"ID too long", "key id not usable", []mint.Key{{ID: strings.Repeat("k", 257), Signer: p256()}}},
		{"too many", "101 keys are more than 100", make([]mint.Key, 101)},
	} {
		m, err := mint.New(issuer, tc.keys, mint.WithAudience(audience))
		if m != nil {
			t.Errorf("%s: accepted", tc.name)
		}
		wantConfig(t, err, "mint.New", tc.want)

		m = newMinter(t, nil)
		before := get(m, "/.well-known/jwks.json").Body.String()
		wantConfig(t, m.SetKeys(tc.keys...), "mint.SetKeys", tc.want)
		if get(m, "/.well-known/jwks.json").Body.String() != before {
			t.Errorf("%s: the old keys are gone", tc.name)
		}
		minted(t, m, answer(good))
	}
}

// A kid that is no UTF-8 could not be compared with what a JWT says.
func TestKeyIDIsText(t *testing.T) {
	_, err := mint.New(issuer, []mint.Key{{ID: "\xff", Signer: p256()}}, mint.WithAudience(audience))
	wantConfig(t, err, "mint.New", "key id not usable")
}

func TestBrokenSignerIsAnOutage(t *testing.T) {
	liar := &device{Signer: other()}
	for name, signer := range map[string]crypto.Signer{
		"error":       &device{Signer: p256(), err: errors.New("secret text of a KMS")},
		"another key": struct{ crypto.Signer }{swapped{liar, p256().Public()}},
	} {
		jwt, err := newMinter(t, []mint.Key{{Signer: signer}}).Mint(t.Context(), "", answer(good))
		if !errors.Is(err, phantom.ErrUnavailable) || jwt != "" || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", name, jwt, err)
		}
	}
}

// swapped claims another public key than its own.
type swapped struct {
	crypto.Signer

	public crypto.PublicKey
}

func (s swapped) Public() crypto.PublicKey { return s.public }

func TestVerifySignatureRefuses(t *testing.T) {
	m := newMinter(t, []mint.Key{{ID: "a", Signer: p256()}, {ID: "b", Public: other().Public()}})
	jwt := must(m.Mint(t.Context(), "", answer(good)))
	foreign := must(newMinter(t, []mint.Key{{ID: "a", Signer: other()}}).Mint(t.Context(), "", answer(good)))
	unnamed := must(jose.Sign("ES256", "", "at+jwt", p256(), []byte(`{}`)))
	for name, bad := range map[string]string{
		"empty": "", "cut": jwt[:len(jwt)-1], "no JWT": "opaque", "kid of another key": foreign, "no kid": unnamed,
		"other payload": strings.Join([]string{strings.Split(jwt, ".")[0], strings.Split(foreign, ".")[1], strings.Split(jwt, ".")[2]}, "."),
	} {
		if payload, err := m.VerifySignature(t.Context(), bad); !errors.Is(err, phantom.ErrInvalidToken) || payload != nil {
			t.Errorf("%s: %s, %v", name, payload, err)
		}
	}
}

// The three steps, and what each replica and each upstream sees.
//
// Catalogue: A15.
func TestRotation(t *testing.T) {
	older, newer := mint.Key{ID: "older", Signer: p256()}, mint.Key{ID: "newer", Signer: other()}
	m := newMinter(t, []mint.Key{older})
	first := must(m.Mint(t.Context(), "", answer(good)))
	for _, step := range []struct {
		keys       []mint.Key
		kid        string
		stillKnown bool
	}{
		{[]mint.Key{older, newer}, "older", true},
		{[]mint.Key{newer, older}, "newer", true},
		{[]mint.Key{newer}, "newer", false},
	} {
		if err := m.SetKeys(step.keys...); err != nil {
			t.Fatal(err)
		}
		if msg := minted(t, m, answer(good)); msg.KeyID != step.kid {
			t.Errorf("kid %q, want %q", msg.KeyID, step.kid)
		}
		if _, err := m.VerifySignature(t.Context(), first); (err == nil) != step.stillKnown {
			t.Errorf("%d keys: the first JWT: %v", len(step.keys), err)
		}
		if set := keySet(t, m); len(set) != len(step.keys) || set[0].Kid != step.kid {
			t.Errorf("%+v", set)
		}
	}
}

// Catalogue: A14.
func TestSetKeysWhileMinting(t *testing.T) {
	lists := [][]mint.Key{
		{{ID: "a", Signer: p256()}, {ID: "b", Public: other().Public()}},
		{{ID: "b", Signer: other()}, {ID: "a", Public: p256().Public()}},
		{{ID: "c", Signer: edKey()}},
	}
	all := newMinter(t, []mint.Key{lists[0][0], lists[1][0], lists[2][0]})
	m := newMinter(t, lists[0])
	stop := make(chan struct{})
	var setting, minting sync.WaitGroup
	setting.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := m.SetKeys(lists[i%len(lists)]...); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 64 {
		minting.Go(func() {
			for range 20 {
				jwt, err := m.Mint(t.Context(), "", answer(good))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := all.VerifySignature(t.Context(), jwt); err != nil {
					t.Error(err)
				}
				keySet(t, m)
			}
		})
	}
	minting.Wait()
	close(stop)
	setting.Wait()
}

func TestKeysAreNotPrinted(t *testing.T) {
	key := mint.Key{ID: "k", Signer: edKey()}
	m := newMinter(t, []mint.Key{key})
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "keys", []mint.Key{key}, "minter", m)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "keys", []mint.Key{key}, "minter", m)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		fmt.Fprintf(&log, verb+verb+verb+verb, key, &key, []mint.Key{key}, m)
	}
	seed := edKey().Seed()
	for _, secret := range []string{
		string(seed), fmt.Sprintf("%x", seed), strings.Trim(fmt.Sprint(seed[:8]), "[]"), strings.Trim(fmt.Sprintf("%#v", seed[:8]), "[]byte{}"),
		string(must(json.Marshal(edKey())))[1:40],
	} {
		if strings.Contains(log.String(), secret) {
			t.Error("the private key is in it")
		}
	}
}
