// Package proof reads proofs of possession (RFC 9449): JWTs that their sender
// signs for one request, with the key that they bring along. It knows nothing
// of the token, of time or of what was seen before.
package proof

import (
	"slices"
	"strings"

	"github.com/phantom-token/phantom/internal/jose"
)

// maxSize is the longest proof that is looked at, in bytes.
const maxSize = 8 << 10

// mediaType is the typ of a proof.
const mediaType = "dpop+jwt"

// A Fault names the check that refused a proof. It is a fixed text, and never
// holds a part of the proof.
type Fault string

// Error implements error.
func (f Fault) Error() string { return string(f) }

// The faults that Parse finds.
const (
	ErrForm      Fault = "proof" // not one compact JWS of two strict JSON objects
	ErrHeader    Fault = "header"
	ErrType      Fault = "typ"
	ErrAlgorithm Fault = "alg"
	ErrKey       Fault = "jwk"
	ErrSignature Fault = "signature"
)

// A Proof is well-formed, and its signature is that of its own key. What its
// claims say is still to be checked.
type Proof struct {
	Thumbprint string // of the key (RFC 7638), in base64url
	Claims     jose.Object
}

// Parse reads a proof and checks its signature (RFC 9449 section 4.3, items 2
// to 7). The algorithm must be one of algorithms, by its canonical name. An
// error is a [Fault].
func Parse(text string, algorithms []string) (*Proof, error) {
	if len(text) > maxSize {
		return nil, ErrForm
	}
	m, err := jose.Parse(text)
	if err != nil {
		return nil, fault(err)
	}
	if !strings.EqualFold(m.Type, mediaType) {
		return nil, ErrType
	}
	if !slices.Contains(algorithms, m.Algorithm) {
		return nil, ErrAlgorithm
	}
	jwk, _ := m.Header.Get("jwk").Object() // without one, there are no members
	key, err := jose.ParseJWK(jwk)
	if err != nil || !key.Allows(m.Algorithm) {
		return nil, ErrKey
	}
	if key.Verify(m) != nil {
		return nil, ErrSignature
	}
	return &Proof{Thumbprint: key.Thumbprint(), Claims: m.Claims}, nil
}

// fault names the check of package jose that refused a proof.
func fault(err error) Fault {
	rejection, ok := err.(*jose.Rejection) //nolint:errorlint // jose.Parse wraps none
	if !ok {
		return ErrForm
	}
	switch rejection.Check {
	case "alg":
		return ErrAlgorithm
	case "typ":
		return ErrType
	}
	return ErrHeader
}

// Text returns a claim that is a string and not empty.
func (p *Proof) Text(name string) (text string, ok bool) {
	text, _ = p.Claims.Get(name).Text()
	return text, text != ""
}
