package phantomtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
)

// algorithm is the one that all signatures here are made with: its keys take
// next to no time to make.
const algorithm = "ES256"

// coordinate is the size of a number in a P-256 key or signature.
const coordinate = 32

// A signingKey makes signatures.
type signingKey struct {
	id      string
	private *ecdsa.PrivateKey
}

func newSigningKey() *signingKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // only a reader other than rand.Reader fails
	}
	return &signingKey{id: rand.Text(), private: private}
}

// jwk returns the public key as RFC 7517 writes it.
func (k *signingKey) jwk() any {
	point, err := k.private.PublicKey.Bytes() // 0x04, x, y
	if err != nil {
		panic(err) // the key was generated on its curve
	}
	return map[string]string{
		"kty": "EC",
		"crv": "P-256",
		"alg": algorithm,
		"use": "sig",
		"kid": k.id,
		"x":   encode(point[1 : 1+coordinate]),
		"y":   encode(point[1+coordinate:]),
	}
}

// sign returns a compact JWS of RFC 7515.
func (k *signingKey) sign(typ string, payload []byte) string {
	header, err := json.Marshal(map[string]string{"alg": algorithm, "kid": k.id, "typ": typ})
	if err != nil {
		panic(err) // strings only
	}
	return signES256(k.private, header, payload)
}

// signES256 returns the compact JWS of a header and a payload in JSON.
func signES256(key *ecdsa.PrivateKey, header, payload []byte) string {
	input := encode(header) + "." + encode(payload)
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	var signature [2 * coordinate]byte
	r.FillBytes(signature[:coordinate])
	s.FillBytes(signature[coordinate:])
	return input + "." + encode(signature[:])
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
