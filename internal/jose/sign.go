package jose

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// SignerMatches returns an error unless the owner of pub can sign with alg. The
// key must meet the same conditions as one that verifies.
func SignerMatches(alg string, pub crypto.PublicKey) error {
	_, err := signerKey(alg, pub)
	return err
}

func signerKey(alg string, pub crypto.PublicKey) (*Key, error) {
	key, err := NewKey(pub)
	if err != nil {
		return nil, err
	}
	return key, key.canSign(alg)
}

func (k *Key) canSign(alg string) error {
	switch {
	case !Supported(alg):
		return errors.New("algorithm not supported")
	case !k.Allows(alg):
		return fmt.Errorf("a key of kind %s cannot sign %s", k.kind, alg)
	}
	return nil
}

// opaque hides the type of a private key, so that jws can use it only through
// Sign and Public. A key in hardware and one in memory take the same path.
type opaque struct{ crypto.Signer }

// A Header is the JOSE header of the JWTs that a Signer makes. Of an empty
// field there is no parameter.
type Header struct {
	Algorithm string          `json:"alg"`
	KeyID     string          `json:"kid,omitempty"`
	Type      string          `json:"typ,omitempty"`
	JWK       json.RawMessage `json:"jwk,omitempty"` // as in a DPoP proof (RFC 9449 section 4.2); not checked
}

// A Signer makes JWTs that differ in their payload alone. It is as safe for
// concurrent use as its key.
type Signer struct {
	key    opaque
	public *Key
	alg    string
	header []byte // in base64url, with the dot behind it
}

// NewSigner returns a Signer, unless the key is unfit for the algorithm or the
// key id is not usable. Of the key it calls Public alone.
func NewSigner(h Header, key crypto.Signer) (s *Signer, err error) {
	defer func() {
		if recover() != nil {
			s, err = nil, errors.New("signer panicked")
		}
	}()
	if !validKeyID(h.KeyID) {
		return nil, errors.New("key id not usable")
	}
	public, err := signerKey(h.Algorithm, key.Public())
	if err != nil {
		return nil, err
	}
	header, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	header = append(strictBase64.AppendEncode(nil, header), '.')
	return &Signer{opaque{key}, public, h.Algorithm, header}, nil
}

// Sign makes a compact JWS over payload (RFC 7515 section 5.1). It checks the
// signature before it returns, so that nothing from a faulty signer is ever
// sent.
func (s *Signer) Sign(payload []byte) (jwt string, err error) {
	defer func() {
		if recover() != nil {
			jwt, err = "", errors.New("signer panicked")
		}
	}()
	signer, err := jws.NewSigner(jwa.SignatureAlgorithm(s.alg))
	if err != nil {
		return "", err
	}
	m := &Message{Algorithm: s.alg}
	m.input = make([]byte, 0, len(s.header)+strictBase64.EncodedLen(len(payload)))
	m.input = strictBase64.AppendEncode(append(m.input, s.header...), payload)
	if m.signature, err = signer.Sign(m.input, s.key); err != nil {
		return "", err
	}
	if err := s.public.Verify(m); err != nil {
		return "", fmt.Errorf("signer's own %w", err)
	}
	return string(m.input) + "." + strictBase64.EncodeToString(m.signature), nil
}

// Sign makes one JWT as [Signer.Sign] does. An empty keyID or typ leaves that
// header parameter out.
func Sign(alg, keyID, typ string, key crypto.Signer, payload []byte) (string, error) {
	s, err := NewSigner(Header{Algorithm: alg, KeyID: keyID, Type: typ}, key)
	if err != nil {
		return "", err
	}
	return s.Sign(payload)
}
