package mint

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
)

// A Key signs JWTs, or verifies those that another replica signs. It prints as
// a fixed text.
type Key struct {
	// ID is the kid. Default: the SHA-256 thumbprint of the public key (RFC
	// 7638). It has at most 256 bytes and no control character.
	ID string
	// Algorithm is the one algorithm that the key is used for. Default: ES256,
	// ES384, ES512 or EdDSA by the curve, RS256 for RSA. RS384, RS512, PS256,
	// PS384 and PS512 are the others for RSA, which has 2048 to 8192 bits.
	Algorithm string
	// Signer is the private key, or stands for one in a KMS or an HSM. Each
	// signature is verified before it is used.
	Signer crypto.Signer `json:"-"`
	// Public is the public key: *rsa.PublicKey, *ecdsa.PublicKey or
	// ed25519.PublicKey. Default: the Signer's. Without a Signer, the key is
	// published and never signs, so it cannot stand first. With one, the two
	// must be the same key.
	Public crypto.PublicKey
}

// String returns a fixed text in place of the key.
func (k Key) String() string { return "mint.Key(redacted)" }

// Format writes a fixed text in place of the key, for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// SetKeys replaces the keys, atomically: a JWT is signed by a key of the old
// list or of the new one. The conditions are those of [New]. An error, which
// has every mistake as a [*phantom.ConfigError], leaves the old keys.
//
// To rotate, in three steps: append the new key on every replica; when the
// upstreams' caches have it, after 5 minutes, move it to the front; remove the
// old one when the JWTs that it signed have expired, a lifetime later. A key
// for another algorithm needs one step more: go-oidc reads the algorithms when
// it starts. Restart such upstreams after the append, or name the algorithms in
// its Config.
//
// After a leak, remove the key at once, and call Purge on each Middleware that
// uses the Minter: their caches hold JWTs of the old key. An upstream that
// keeps keys takes the old one until it fetches the set again: go-oidc does so
// at the first JWT of a new key.
func (m *Minter) SetKeys(keys ...Key) error {
	var faults faults
	ring := newRing(&m.config, keys, "mint.SetKeys", &faults)
	if err := faults.join(); err != nil {
		return err
	}
	m.ring.Store(ring)
	return nil
}

// VerifySignature returns the payload of a JWT that one of the keys signed. It
// makes a Minter a [phantom.KeySet], also for the services that run beside it.
// Of the claims it checks nothing. Its error wraps [phantom.ErrInvalidToken].
func (m *Minter) VerifySignature(_ context.Context, jwt string) (payload []byte, err error) {
	msg, err := jose.Parse(jwt)
	if err != nil {
		return nil, &phantom.Error{Reason: phantom.ReasonJWTRejected, Detail: "malformed"}
	}
	for _, key := range m.ring.Load().keys {
		if key.ID() == msg.KeyID && key.Verify(msg) == nil {
			return msg.Payload, nil
		}
	}
	return nil, &phantom.Error{Reason: phantom.ReasonJWTRejected, Detail: "signature"}
}

// A ring is one list of keys and all that follows from it. It never changes.
type ring struct {
	signer   *jose.Signer
	keys     []*jose.Key
	keySet   document
	metadata document
}

// newRing reads the list. Without a fault, the ring is complete.
func newRing(c *config, keys []Key, option string, faults *faults) *ring {
	switch {
	case len(keys) == 0:
		faults.add(option, "no keys")
		return nil
	case len(keys) > jose.MaxKeys:
		faults.add(option, "%d keys are more than %d", len(keys), jose.MaxKeys)
		return nil
	}
	r := &ring{}
	first := map[string]int{}
	for i, k := range keys {
		key, err := k.published()
		if err != nil {
			faults.add(option, "key %d (ID %q): %v", i+1, k.ID, err)
			continue
		}
		if earlier, ok := first[key.ID()]; ok {
			faults.add(option, "keys %d and %d have one ID, %q", earlier, i+1, key.ID())
			continue
		}
		first[key.ID()] = i + 1
		r.keys = append(r.keys, key)
		if i == 0 {
			r.signer = c.newSigner(k, key, option, faults)
		}
	}
	r.keySet, r.metadata = keySetDocument(r.keys), c.metadataDocument(r.keys)
	return r
}

func (c *config) newSigner(k Key, key *jose.Key, option string, faults *faults) *jose.Signer {
	if isNil(k.Signer) {
		faults.add(option, "key 1 (ID %q) has no Signer, and the first key signs", key.ID())
		return nil
	}
	typ := "at+jwt"
	if c.plain {
		typ = "JWT"
	}
	signer, err := jose.NewSigner(jose.Header{Algorithm: key.Algorithm(), KeyID: key.ID(), Type: typ}, k.Signer)
	if err != nil {
		faults.add(option, "key 1 (ID %q): %v", key.ID(), err)
	}
	return signer
}

// published checks the key and returns what of it is public.
func (k Key) published() (*jose.Key, error) {
	public := k.Public
	if !isNil(k.Signer) {
		own, err := publicKey(k.Signer)
		if err != nil {
			return nil, err
		}
		if isNil(public) {
			public = own
		}
		if fault := differ(own, public); fault != nil {
			return nil, fault
		}
	}
	if isNil(public) {
		return nil, errors.New("neither Signer nor Public")
	}
	return jose.NewPublishedKey(public, k.ID, k.Algorithm)
}

// differ returns an error unless both are one public key.
func differ(own, public crypto.PublicKey) error {
	a, err := jose.NewKey(own)
	if err != nil {
		return fmt.Errorf("its Signer: %w", err)
	}
	b, err := jose.NewKey(public)
	if err != nil {
		return fmt.Errorf("its Public: %w", err)
	}
	if a.Thumbprint() != b.Thumbprint() {
		return errors.New("the Signer's key is not Public")
	}
	return nil
}

// publicKey returns an error for a Signer so broken that its Public method
// panics.
func publicKey(signer crypto.Signer) (public crypto.PublicKey, err error) {
	defer func() {
		if recover() != nil {
			public, err = nil, errors.New("the Signer panicked")
		}
	}()
	return signer.Public(), nil
}

// isNil also sees a nil pointer inside an interface.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}
