package jose

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for crypto.SHA384 and crypto.SHA512
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// MaxKeys is the largest number of JWKs in one set.
const MaxKeys = 100

// ErrPrivateKey marks a JWK that was dropped because it publishes private key
// material. Its owner must replace the key.
var ErrPrivateKey = errors.New("JWK with private key material")

// kindOf maps each algorithm to the one kind of key that it takes (RFC 7518
// section 3.1, RFC 8037 section 3.1). No other algorithm is supported.
var kindOf = map[string]string{
	"RS256": "RSA", "RS384": "RSA", "RS512": "RSA",
	"PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
	"ES256": "P-256", "ES384": "P-384", "ES512": "P-521",
	"EdDSA": "Ed25519",
}

// pssHash is the hash of each RSASSA-PSS algorithm. The salt has the size of
// the hash (RFC 7518 section 3.5).
var pssHash = map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512}

// Canonical returns the name that this package has for an algorithm. Ed25519 is
// what RFC 9864 calls EdDSA with the only curve that we know for it.
func Canonical(alg string) string {
	if alg == "Ed25519" {
		return "EdDSA"
	}
	return alg
}

// Algorithms returns the algorithms we verify, in no particular order.
func Algorithms() []string { return slices.Collect(maps.Keys(kindOf)) }

// Supported reports whether alg is one of the asymmetric algorithms we verify,
// by its canonical name.
func Supported(alg string) bool {
	_, ok := kindOf[alg]
	return ok
}

// Key is one public key that passed the filter, with the algorithms it may be
// used for. It never changes and is safe to share.
type Key struct {
	id      string
	alg     string // the one algorithm the JWK named, or "": all of its kind
	kind    string
	pub     crypto.PublicKey
	sigSize int
	jwk     []byte // the required members, see required
	sum     [sha256.Size]byte
}

// NewKey returns a key for a public key given in code: an *rsa.PublicKey, an
// *ecdsa.PublicKey or an ed25519.PublicKey. It copies the key, which must meet
// the same conditions as one from a JWK Set.
func NewKey(pub crypto.PublicKey) (*Key, error) {
	return newKey(pub, "", "")
}

func newKey(pub crypto.PublicKey, id, alg string) (*Key, error) {
	k := &Key{id: id, alg: alg}
	if err := k.set(pub); err != nil {
		return nil, err
	}
	k.jwk = k.required()
	k.sum = sha256.Sum256(fmt.Appendf(nil, "%q %q %s", id, alg, k.jwk))
	return k, nil
}

// ID returns the kid, "" when it has none.
func (k *Key) ID() string { return k.id }

// Identity is equal for two keys exactly if they have the same kid, the same
// algorithm pin and the same public key. For the public key alone there is
// [Key.Thumbprint].
func (k *Key) Identity() [32]byte { return k.sum }

// Usable reports whether the key may verify anything at all.
func (k *Key) Usable() bool { return k.kind != "" }

// Allows reports whether this key may verify alg: the algorithm fits the kind
// of key, and the JWK does not name another one (RFC 8725 section 3.1).
func (k *Key) Allows(alg string) bool {
	kind, ok := kindOf[alg]
	return ok && kind == k.kind && (k.alg == "" || k.alg == alg)
}

// Verify checks the signature of m with this key. It returns nil or a
// [*Rejection].
func (k *Key) Verify(m *Message) (err error) {
	defer func() {
		if recover() != nil {
			err = &Rejection{"signature", "not verifiable"}
		}
	}()
	if !k.Allows(m.Algorithm) {
		return &Rejection{"key", "not eligible for the algorithm of the token"}
	}
	if len(m.signature) != k.sigSize {
		return &Rejection{"signature", "wrong length"}
	}
	if k.check(m) != nil {
		return &Rejection{"signature", "does not verify"}
	}
	return nil
}

// check tests one signature with one key and one algorithm that belong
// together.
func (k *Key) check(m *Message) error {
	if hash, ok := pssHash[m.Algorithm]; ok {
		// The verifier of jwx takes any salt length.
		h := hash.New()
		h.Write(m.input)
		pub, ok := k.pub.(*rsa.PublicKey)
		if !ok {
			return errors.New("no RSA key") // cannot happen: Allows was asked
		}
		return rsa.VerifyPSS(pub, hash, h.Sum(nil), m.signature,
			&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	verifier, err := jws.NewVerifier(jwa.SignatureAlgorithm(m.Algorithm))
	if err != nil {
		return err
	}
	return verifier.Verify(m.input, m.signature, k.pub)
}

// ParseKeySet reads a JWK Set (RFC 7517 section 5). The document as a whole
// must be strict JSON. Each JWK stands for itself, so that one of a kind that
// we do not know cannot cost the others. Keys with equal kid are all kept.
//
// For each JWK with a kid that is left out, unusable has a Key that allows
// nothing. For each one that is broken, dangerous, or unclear about its use,
// dropped has an error. None is there for a JWK of an unknown kind or one that
// says it is for encryption.
func ParseKeySet(data []byte) (keys, unusable []*Key, dropped []error, err error) {
	set, err := ParseObject(data)
	if err != nil {
		return nil, nil, nil, err
	}
	list := set.Get("keys")
	if list.first() != '[' {
		return nil, nil, nil, malformed("JWK Set without an array of keys")
	}
	var entries []Value
	for entry := range list.elements() {
		if len(entries) == MaxKeys {
			return nil, nil, nil, malformed("too many keys in the JWK Set")
		}
		entries = append(entries, entry)
	}
	for i, entry := range entries {
		o, ok := entry.Object()
		if !ok {
			dropped = append(dropped, fmt.Errorf("key %d: not an object", i))
			continue
		}
		key, err := parseKey(o)
		if err == nil {
			keys = append(keys, key)
			continue
		}
		if !errors.Is(err, errNotForUs) {
			dropped = append(dropped, fmt.Errorf("key %d: %w", i, err))
		}
		if id, err := keyID(o); err == nil && id != "" {
			unusable = append(unusable, &Key{id: id, sum: sha256.Sum256(fmt.Appendf(nil, "unusable %q", id))})
		}
	}
	return keys, unusable, dropped, nil
}

// errNotForUs marks a JWK that is of an unknown kind or not for signatures, and
// so is no fault of anybody's.
var errNotForUs = errors.New("not for us")

func parseKey(o Object) (key *Key, err error) {
	defer func() {
		if recover() != nil {
			key, err = nil, errors.New("unusable JWK")
		}
	}()
	kty, ok := o.Get("kty").Text()
	if !ok {
		return nil, errors.New("kty missing or not a string")
	}
	if !slices.Contains([]string{"RSA", "EC", "OKP", "oct"}, kty) {
		return nil, errNotForUs
	}
	if kty == "oct" {
		return nil, errors.New("symmetric key")
	}
	for _, name := range [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if o.Get(name).Exists() {
			return nil, ErrPrivateKey
		}
	}
	if err := checkUse(o); err != nil {
		return nil, err
	}
	id, err := keyID(o)
	if err != nil {
		return nil, err
	}
	material, err := readMaterial(kty, o)
	if err != nil {
		return nil, err
	}
	alg, err := pinnedAlgorithm(o)
	if err != nil {
		return nil, err
	}
	pub, err := material.publicKey()
	if err != nil {
		return nil, err
	}
	if key, err = newKey(pub, id, alg); err != nil {
		return nil, err
	}
	if alg != "" && !key.Allows(alg) {
		return nil, errors.New("alg does not fit the key")
	}
	return key, nil
}

// keyID reads the kid (RFC 7517 section 4.5). An empty one is none.
func keyID(o Object) (id string, err error) {
	if kid := o.Get("kid"); kid.Exists() {
		var ok bool
		if id, ok = kid.Text(); !ok || !validKeyID(id) {
			return "", errors.New("kid is not a usable string")
		}
	}
	return id, nil
}

// forEncryption are the key operations of keys that are for encryption alone
// (RFC 7517 section 4.3).
var forEncryption = []string{"encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"}

// checkUse reads what the JWK says about its purpose (RFC 7517 sections 4.2 and
// 4.3). Some servers leave use empty, which says nothing.
func checkUse(o Object) error {
	if v := o.Get("use"); v.Exists() {
		switch use, ok := v.Text(); {
		case !ok:
			return errors.New("use is not a string")
		case use == "enc":
			return errNotForUs
		case use != "" && use != "sig":
			return errors.New("use is not sig")
		}
	}
	if v := o.Get("key_ops"); v.Exists() {
		ops, ok := v.Texts()
		isOther := func(op string) bool { return !slices.Contains(forEncryption, op) }
		switch {
		case !ok:
			return errors.New("key_ops is not an array of strings")
		case slices.Contains(ops, "verify"):
		case len(ops) > 0 && !slices.ContainsFunc(ops, isOther):
			return errNotForUs
		default:
			return errors.New("key_ops has no verify")
		}
	}
	return nil
}

// pinnedAlgorithm reads the one algorithm that the JWK is for (RFC 7517 section
// 4.4), "" if it names none.
func pinnedAlgorithm(o Object) (string, error) {
	v := o.Get("alg")
	alg, ok := v.Text()
	switch {
	case v.Exists() && !ok:
		return "", errors.New("alg is not a string")
	case strings.HasPrefix(alg, "RSA-OAEP"), strings.HasPrefix(alg, "ECDH-ES"), alg == "RSA1_5":
		return "", errNotForUs // encryption
	case alg != "" && !Supported(Canonical(alg)):
		return "", errors.New("alg is not one that verifies signatures here")
	}
	return Canonical(alg), nil
}

// coordinateSize is the number of octets of one coordinate of a point, leading
// zeros included (RFC 7518 section 6.2.1.2, RFC 8037 section 2).
var coordinateSize = map[string]int{"EC P-256": 32, "EC P-384": 48, "EC P-521": 66, "OKP Ed25519": 32}

// material is what a JWK says of its public key.
type material struct {
	curve string // of EC and OKP
	n, e  []byte // RSA
	x, y  []byte // EC; of OKP x alone
}

// readMaterial checks the form and size of each member before anything
// calculates with it.
func readMaterial(kty string, o Object) (m material, err error) {
	if kty == "RSA" {
		// RFC 7518 section 6.3.1 wants the fewest octets, but a leading zero is
		// common and harmless: the number decides the size.
		var errE error
		m.n, err = octets(o, "n", 1, maxRSABits/8+1)
		m.e, errE = octets(o, "e", 1, 4)
		return m, cmp.Or(err, errE)
	}
	crv, ok := o.Get("crv").Text()
	if !ok {
		return m, errors.New("crv missing or not a string")
	}
	size, ok := coordinateSize[kty+" "+crv]
	if !ok {
		return m, errNotForUs
	}
	m.curve = crv
	if m.x, err = octets(o, "x", size, size); kty == "OKP" || err != nil {
		return m, err
	}
	m.y, err = octets(o, "y", size, size)
	return m, err
}

// octets decodes a base64url member of between least and most octets.
func octets(o Object, name string, least, most int) ([]byte, error) {
	text, ok := o.Get(name).Text()
	if ok && len(text) <= strictBase64.EncodedLen(most) {
		if octets, err := decodeBase64([]byte(text)); err == nil && len(octets) >= least {
			return octets, nil
		}
	}
	return nil, fmt.Errorf("%s is not base64url of the right size", name)
}

// publicKey makes the key, which newKey is still to judge.
func (m material) publicKey() (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch m.curve {
	case "":
		e := new(big.Int).SetBytes(m.e)
		return &rsa.PublicKey{N: new(big.Int).SetBytes(m.n), E: int(e.Int64())}, nil
	case "Ed25519":
		return ed25519.PublicKey(m.x), nil
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	default:
		curve = elliptic.P521()
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, m.x, m.y))
	if err != nil {
		return nil, errors.New("EC point not on the curve")
	}
	return pub, nil
}
