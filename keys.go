package phantom

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
)

// A KeySet verifies the signature of a compact JWS and returns its payload. Its
// method set is that of go-oidc's KeySet, so those fit unchanged.
//
// An error refuses the JWT with status 401, unless it says that there was
// nothing to judge with: one that wraps [ErrUnavailable], a context's error or
// a [net.Error] gives 503, one that wraps [ErrUpstream] 502. Before a KeySet is
// asked, the JWT has passed the strict parser and the list of algorithms. The
// KeySet must return the payload that was parsed.
//
// go-oidc's RemoteKeySet does not tell some outages, such as a status 500, from
// a bad signature, so they refuse the JWT here too. For keys behind a URL,
// [WithJWKSURL] tells them apart.
//
// A KeySet must be safe for concurrent use.
type KeySet interface {
	VerifySignature(ctx context.Context, jwt string) (payload []byte, err error)
}

// StaticKeys returns a KeySet of public keys that never change: *rsa.PublicKey
// (2048 to 8192 bits), *ecdsa.PublicKey (P-256, P-384, P-521) and
// ed25519.PublicKey. [New] refuses the set if it is empty or one of its keys is
// unfit.
func StaticKeys(keys ...crypto.PublicKey) KeySet {
	s := &staticKeys{}
	if len(keys) == 0 {
		s.invalid = "no keys: StaticKeys needs at least one"
	}
	for _, pub := range keys {
		key, err := jose.NewKey(pub)
		if err != nil {
			s.invalid = fmt.Sprintf("a %T: %v", pub, err)
			continue
		}
		s.keys = append(s.keys, &issuer.Key{Key: key})
	}
	return s
}

type staticKeys struct {
	keys    issuer.KeyList
	invalid string
}

func (s *staticKeys) unfit(*config) string { return s.invalid }

// verify makes a staticKeys ownKeys.
func (s *staticKeys) verify(msg *jose.Message) (*issuer.Key, error) { return s.keys.Verify(msg) }

// ownKeys is a KeySet of this package, which need not parse a JWT again.
type ownKeys interface {
	verify(msg *jose.Message) (*issuer.Key, error)
}

// VerifySignature implements [KeySet].
func (s *staticKeys) VerifySignature(_ context.Context, jwt string) ([]byte, error) {
	msg, err := jose.Parse(jwt)
	if err != nil {
		return nil, rejection(issuer.Refusal(err))
	}
	if _, err := s.keys.Verify(msg); err != nil {
		return nil, rejection(err)
	}
	return msg.Payload, nil
}

// callersKeys verifies signatures with a caller's KeySet.
func callersKeys(keys KeySet) signatures {
	if own, ok := keys.(ownKeys); ok {
		return func(_ context.Context, _ string, msg *jose.Message) (*issuer.Key, error) { return own.verify(msg) }
	}
	return func(ctx context.Context, jwt string, msg *jose.Message) (*issuer.Key, error) {
		return nil, verifyWith(ctx, keys, jwt, msg)
	}
}

// verifyWith checks the JWT with a caller's KeySet, which does not reveal the
// key.
func verifyWith(ctx context.Context, keys KeySet, jwt string, msg *jose.Message) error {
	payload, err := keys.VerifySignature(ctx, jwt)
	var failed net.Error
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded), errors.As(err, &failed):
		return failure.New(failure.NoKeys, "key set")
	case errors.Is(err, ErrUpstream):
		return failure.New(failure.Protocol, "key set")
	default:
		return failure.New(failure.Refused, "signature")
	}
	if !bytes.Equal(payload, msg.Payload) {
		return failure.New(failure.Refused, "payload")
	}
	return nil
}
