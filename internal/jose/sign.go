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
	if !Supported(alg) {
		return nil, errors.New("algorithm not supported")
	}
	key, err := NewKey(pub)
	if err != nil {
		return nil, err
	}
	if !key.Allows(alg) {
		return nil, fmt.Errorf("a key of kind %s cannot sign %s", key.kind, alg)
	}
	return key, nil
}

// opaque hides the type of a private key, so that jws can use it only through
// Sign and Public. A key in hardware and one in memory take the same path.
type opaque struct{ crypto.Signer }

// Sign makes a compact JWS over payload (RFC 7515 section 5.1). An empty keyID
// or typ leaves that header parameter out. Sign checks the signature before it
// returns, so that nothing from a faulty signer is ever sent.
func Sign(alg, keyID, typ string, key crypto.Signer, payload []byte) (jwt string, err error) {
	defer func() {
		if recover() != nil {
			jwt, err = "", errors.New("signer panicked")
		}
	}()
	if !validKeyID(keyID) {
		return "", errors.New("key id not usable")
	}
	public, err := signerKey(alg, key.Public())
	if err != nil {
		return "", err
	}
	header, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid,omitempty"`
		Typ string `json:"typ,omitempty"`
	}{alg, keyID, typ})
	if err != nil {
		return "", err
	}
	m := &Message{Algorithm: alg}
	m.input = strictBase64.AppendEncode(m.input, header)
	m.input = append(m.input, '.')
	m.input = strictBase64.AppendEncode(m.input, payload)
	signer, err := jws.NewSigner(jwa.SignatureAlgorithm(alg))
	if err != nil {
		return "", err
	}
	if m.signature, err = signer.Sign(m.input, opaque{key}); err != nil {
		return "", err
	}
	if err := public.Verify(m); err != nil {
		return "", fmt.Errorf("signer's own %w", err)
	}
	return string(m.input) + "." + strictBase64.EncodeToString(m.signature), nil
}
