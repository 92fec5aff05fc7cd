package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// defaultAlgorithm is the algorithm that most servers use with each kind of
// key. For a curve there is no other.
var defaultAlgorithm = map[string]string{
	"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA",
}

// NewPublishedKey returns a key as its owner publishes it, for one algorithm
// and with a kid. An empty id stands for the thumbprint, an empty alg for the
// default of its kind: RS256, ES256, ES384, ES512 or EdDSA. The key must meet
// the same conditions as one from a JWK Set.
func NewPublishedKey(pub crypto.PublicKey, id, alg string) (*Key, error) {
	bare, err := NewKey(pub)
	switch {
	case err != nil:
		return nil, err
	case !validKeyID(id):
		return nil, errors.New("key id not usable")
	}
	if alg == "" {
		alg = defaultAlgorithm[bare.kind]
	}
	if err := bare.canSign(alg); err != nil {
		return nil, err
	}
	if id == "" {
		id = bare.Thumbprint()
	}
	return newKey(pub, id, alg)
}

// ParseJWK reads one public JWK (RFC 7517 section 4), such as the jwk of a JOSE
// header. It applies the conditions of [ParseKeySet], and an error is all there
// is for a key of an unknown kind or for encryption. One that has a private
// member is [ErrPrivateKey].
func ParseJWK(o Object) (*Key, error) {
	key, err := parseKey(o)
	if errors.Is(err, errNotForUs) {
		return nil, errors.New("not a signature key of a supported kind")
	}
	return key, err
}

// Algorithm returns the one algorithm that the key is for, "" if it is for all
// of its kind.
func (k *Key) Algorithm() string { return k.alg }

// JWK returns the public key as a JWK: kty, crv, x and y, or kty, n and e, then
// use, and alg and kid if the key has them. It returns nil for a key that is
// not usable.
func (k *Key) JWK() []byte {
	if k.jwk == nil {
		return nil
	}
	jwk := append(slices.Clone(k.jwk[:len(k.jwk)-1]), `,"use":"sig"`...)
	if k.alg != "" {
		jwk = fmt.Appendf(jwk, `,"alg":%q`, k.alg)
	}
	if k.id != "" {
		id, _ := json.Marshal(k.id) // a string always has a text
		jwk = append(append(jwk, `,"kid":`...), id...)
	}
	return append(jwk, '}')
}

// Thumbprint returns the SHA-256 thumbprint of the public key (RFC 7638) in
// base64url. It is "" for a key that is not usable.
func (k *Key) Thumbprint() string {
	if k.jwk == nil {
		return ""
	}
	sum := sha256.Sum256(k.jwk)
	return strictBase64.EncodeToString(sum[:])
}

// required returns the members that a key of its kind must have, in the order
// of their names and without any space (RFC 7638 section 3, RFC 8037 section
// 2).
func (k *Key) required() []byte {
	text := strictBase64.EncodeToString
	switch pub := k.pub.(type) {
	case *rsa.PublicKey:
		return fmt.Appendf(nil, `{"e":%q,"kty":"RSA","n":%q}`, text(big.NewInt(int64(pub.E)).Bytes()), text(pub.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := pub.Bytes()
		if err != nil {
			return nil // cannot happen: the key is on its curve
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:] // the first byte says that both follow
		return fmt.Appendf(nil, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.kind, text(x), text(y))
	case ed25519.PublicKey:
		return fmt.Appendf(nil, `{"crv":%q,"kty":"OKP","x":%q}`, k.kind, text(pub))
	}
	return nil
}
