package mint_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
)

const (
	issuer   = "https://gateway.test"
	audience = "https://rs.test"
)

// minter is what the root package asks of a Minter.
type minter interface {
	Mint(ctx context.Context, token string, answer *phantom.Introspection) (jwt string, err error)
	Issuer() (name string, keys phantom.KeySet)
}

var _ minter = (*mint.Minter)(nil)

var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	other  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newMinter returns one that signs with p256, unless keys are given.
func newMinter(t testing.TB, keys []mint.Key, opts ...mint.Option) *mint.Minter {
	t.Helper()
	if keys == nil {
		keys = []mint.Key{{Signer: p256()}}
	}
	m, err := mint.New(issuer, keys, append([]mint.Option{mint.WithAudience(audience)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answer is that of a server that called the token active.
func answer(claims string) *phantom.Introspection {
	return &phantom.Introspection{Active: true, Claims: []byte(claims)}
}

// good has all that the default profile needs.
const good = `{"active":true,"sub":"alice","client_id":"app"}`

// goodWith is good with further members.
func goodWith(members string) string { return strings.TrimSuffix(good, "}") + "," + members + "}" }

// minted mints and reads the JWT.
func minted(t testing.TB, m *mint.Minter, a *phantom.Introspection) *jose.Message {
	t.Helper()
	jwt, err := m.Mint(t.Context(), "the opaque token", a)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := jose.Parse(jwt)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// text returns a claim that is a string, "" if it is not there.
func text(msg *jose.Message, name string) string {
	s, _ := msg.Claims.Get(name).Text()
	return s
}

// date returns a claim that is a NumericDate.
func date(t testing.TB, msg *jose.Message, name string) int64 {
	t.Helper()
	sec, ok := msg.Claims.Get(name).NumericDate()
	if !ok {
		t.Fatalf("no %s in %s", name, msg.Payload)
	}
	return sec
}

// names returns the names of all claims, in their order.
func names(msg *jose.Message) string {
	var all []string
	for name := range msg.Claims.All() {
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// A device is a key that nobody can see, and counts its signatures.
type device struct {
	crypto.Signer

	signatures atomic.Int64
	err        error
}

func (d *device) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	d.signatures.Add(1)
	if d.err != nil {
		return nil, d.err
	}
	return d.Signer.Sign(r, digest, opts)
}

// A jwk is what an upstream reads of a published key.
type jwk struct {
	Kty, Crv, X, Y, N, E, Use, Alg, Kid string
}

func (k jwk) public(t testing.TB) crypto.PublicKey {
	t.Helper()
	octets := func(s string) []byte { return must(base64.RawURLEncoding.Strict().DecodeString(s)) }
	switch k.Kty + k.Crv {
	case "RSA":
		return &rsa.PublicKey{N: new(big.Int).SetBytes(octets(k.N)), E: int(new(big.Int).SetBytes(octets(k.E)).Int64())}
	case "OKPEd25519":
		return ed25519.PublicKey(octets(k.X))
	}
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Crv]
	return must(ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, octets(k.X)...), octets(k.Y)...)))
}

// verifies checks a JWT with the standard library alone.
func verifies(t testing.TB, jwt, alg string, pub crypto.PublicKey) bool {
	t.Helper()
	dot := strings.LastIndexByte(jwt, '.')
	input, signature := []byte(jwt[:dot]), must(base64.RawURLEncoding.Strict().DecodeString(jwt[dot+1:]))
	if key, ok := pub.(ed25519.PublicKey); ok {
		return ed25519.Verify(key, input, signature)
	}
	sum256, sum384, sum512 := sha256.Sum256(input), sha512.Sum384(input), sha512.Sum512(input)
	digest := map[string][]byte{"256": sum256[:], "384": sum384[:], "512": sum512[:]}[alg[2:]]
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		half := len(signature) / 2
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]))
	case *rsa.PublicKey:
		if alg[:2] == "PS" {
			return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
	}
	return false
}

// keySet returns the keys that m serves.
func keySet(t testing.TB, m *mint.Minter) []jwk {
	t.Helper()
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(get(m, "/.well-known/jwks.json").Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}
