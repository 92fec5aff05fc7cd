package phantomtest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"maps"
	"time"
)

// IssueBound is [AuthorizationServer.Issue] for a token that is bound to a key
// of its client. method is the member of the claim cnf, thumbprint its value:
// "jkt" with [ProofKey.Thumbprint], or "x5t#S256" with [CertificateThumbprint].
func (s *AuthorizationServer) IssueBound(method, thumbprint string, claims map[string]any) string {
	all := map[string]any{"cnf": map[string]string{method: thumbprint}}
	maps.Copy(all, claims)
	return s.Issue(all)
}

// CertificateThumbprint returns what a token is bound to by RFC 8705.
func CertificateThumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return encode(sum[:])
}

// A ProofKey is the key with which a client proves that a token is its own (RFC
// 9449). It signs with ES256. Its methods may be called concurrently.
type ProofKey struct{ private *ecdsa.PrivateKey }

// NewProofKey returns a new key.
func NewProofKey() *ProofKey { return &ProofKey{newSigningKey().private} }

// Thumbprint returns what a token is bound to by RFC 9449 (RFC 7638).
func (k *ProofKey) Thumbprint() string {
	required, err := json.Marshal(k.jwk()) // ordered by name, without white space
	if err != nil {
		panic(err) // strings only
	}
	sum := sha256.Sum256(required)
	return encode(sum[:])
}

// jwk returns the members that the thumbprint covers.
func (k *ProofKey) jwk() map[string]string {
	point, err := k.private.PublicKey.Bytes() // 0x04, x, y
	if err != nil {
		panic(err) // the key was generated on its curve
	}
	return map[string]string{
		"kty": "EC", "crv": "P-256",
		"x": encode(point[1 : 1+coordinate]), "y": encode(point[1+coordinate:]),
	}
}

// A Proof is what a proof says. It is good if it names the request and the
// token that it comes with.
type Proof struct {
	Method string // of the request
	URI    string // that the client uses, such as "https://rs.test/orders"
	Token  string // the opaque token; empty: the proof names none
	Nonce  string // what the service demanded in DPoP-Nonce; empty: none
	// Header and Claims are added to what a good proof has, and win over it. A
	// nil value removes. That makes wrong proofs, of each kind that there is.
	Header, Claims map[string]any
}

// Sign returns the proof, for the field DPoP of one request: each has another
// jti. Its iat is now.
func (k *ProofKey) Sign(p Proof) string {
	header := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": k.jwk()}
	claims := map[string]any{"jti": rand.Text(), "htm": p.Method, "htu": p.URI, "iat": time.Now().Unix()}
	if p.Token != "" {
		hash := sha256.Sum256([]byte(p.Token))
		claims["ath"] = encode(hash[:])
	}
	if p.Nonce != "" {
		claims["nonce"] = p.Nonce
	}
	return signES256(k.private, change(header, p.Header), change(claims, p.Claims))
}

// change adds and removes members, and returns JSON.
func change(members, changes map[string]any) []byte {
	maps.Copy(members, changes)
	maps.DeleteFunc(members, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(members)
	if err != nil {
		panic("phantomtest: proof: " + err.Error())
	}
	return text
}
