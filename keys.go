package phantom

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/jose"
)

// A KeySet verifies the signature of a compact JWS and returns its payload. It
// has the method set of go-oidc's KeySet, so that one of those fits as it is.
//
// An error refuses the JWT, status 401, unless it wraps [ErrUnavailable], a
// context's error or a [net.Error], status 503, or [ErrUpstream], status 502:
// then there was nothing to judge with. Whatever a KeySet accepts, the JWT has
// passed the strict parser and the list of algorithms before, and the payload
// returned must be the one that was parsed.
//
// go-oidc's RemoteKeySet says of some outages, such as a status 500, no more than
// that there was an error, so that they are refusals here too: for keys behind a
// URL, [WithJWKSURL] tells them apart.
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
		s.invalid = "no keys"
	}
	for _, pub := range keys {
		key, err := jose.NewKey(pub)
		if err != nil {
			s.invalid = fmt.Sprintf("a %T: %v", pub, err)
			continue
		}
		s.keys = append(s.keys, &signingKey{Key: key})
	}
	return s
}

type staticKeys struct {
	keys    keyList
	invalid string
}

// VerifySignature makes a staticKeys a KeySet.
func (s *staticKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return verifyWith(ctx, s, jwt)
}

func (s *staticKeys) verify(_ context.Context, msg *jose.Message) (*signingKey, error) {
	return s.keys.verify(msg, len(s.keys))
}

// A signingKey is a key of the issuer. It is retired when it leaves the
// issuer's set, and with it every verdict that rests on it.
type signingKey struct {
	*jose.Key
	retired atomic.Bool
}

// isRetired is false for the nil key, which stands for a key of a KeySet whose
// keys are not ours to know.
func (k *signingKey) isRetired() bool { return k != nil && k.retired.Load() }

// keyList is a set of keys of one issuer.
type keyList []*signingKey

// maxCandidates bounds the keys tried for one JWT that has no kid, or a kid
// that several keys have.
const maxCandidates = 4

// verify checks the JWT with the keys that its kid names. Without a kid, or
// with one that meets keys without any, each eligible key is tried, up to most.
func (l keyList) verify(msg *jose.Message, most int) (*signingKey, error) {
	named := msg.KeyID != "" && slices.ContainsFunc(l, func(k *signingKey) bool { return k.ID() == msg.KeyID })
	refused := refused("kid")
	tried := 0
	for _, key := range l {
		eligible := key.Allows(msg.Algorithm) && (msg.KeyID == "" || key.ID() == "" && !named || key.ID() == msg.KeyID)
		if !eligible {
			continue
		}
		if tried++; tried > most {
			break
		}
		err := key.Verify(msg)
		if err == nil {
			return key, nil
		}
		refused = asRefused(err)
	}
	return nil, refused
}

// asRefused turns what jose says of a JWT into a rejection: a verdict if the
// JWT is well formed, the server's fault if it is not.
func asRefused(err error) *Error {
	var r *jose.Rejection
	if errors.As(err, &r) {
		return refused(r.Check)
	}
	return rejection(ReasonProtocol, "not a strict compact JWS")
}

// remoteKeys is the issuer's key set behind its JWKS URL.
type remoteKeys struct{ remote[keyList] }

// maxKeySetSize bounds the key set's document, in bytes.
const maxKeySetSize = 256 << 10

func newRemoteKeys(timeout time.Duration, client *transport, url func(context.Context) (string, error), log *eventLog) *remoteKeys {
	k := &remoteKeys{}
	k.clock = newClock()
	k.flights.timeout = timeout
	k.failed = func(err *Error) { log.notRenewed(slog.LevelWarn, "key set", err) }
	k.fetch = func(ctx context.Context, old *keyList) (*keyList, time.Duration, error) {
		target, err := url(ctx)
		if err != nil {
			return nil, 0, err
		}
		body, maxAge, err := client.getDocument(ctx, target, "application/jwk-set+json, application/json", maxKeySetSize)
		if err != nil {
			return nil, 0, noKeySet(err)
		}
		parsed, dropped, err := jose.ParseKeySet(body)
		if err != nil {
			return nil, 0, noKeySet(err)
		}
		log.droppedKeys(dropped)
		return replaceKeys(old, parsed), maxAge, nil
	}
	return k
}

// replaceKeys makes the new set. A key that is in both sets stays the same
// signingKey; one that is not is retired. One that is listed twice counts once,
// or only one of the two would be retired.
func replaceKeys(old *keyList, parsed []*jose.Key) *keyList {
	gone := map[[32]byte]*signingKey{}
	if old != nil {
		for _, key := range *old {
			gone[key.Thumbprint()] = key
		}
	}
	list := make(keyList, 0, len(parsed))
	listed := map[[32]byte]bool{}
	for _, key := range parsed {
		id := key.Thumbprint()
		if listed[id] {
			continue
		}
		listed[id] = true
		kept, ok := gone[id]
		if !ok {
			kept = &signingKey{Key: key}
		}
		delete(gone, id)
		list = append(list, kept)
	}
	for _, key := range gone {
		key.retired.Store(true)
	}
	return &list
}

// VerifySignature makes a remoteKeys a KeySet.
func (k *remoteKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return verifyWith(ctx, k, jwt)
}

// verify checks the JWT with the current keys and, if none of them fits, with
// those of a refetched set: until there is one that was asked for after the
// JWT had come, or the next refetch has to wait.
func (k *remoteKeys) verify(ctx context.Context, msg *jose.Message) (*signingKey, error) {
	before, received := k.current.Load(), k.now()
	v, err := k.get(ctx)
	for {
		if err != nil {
			return nil, keysUnavailable(err)
		}
		key, refused := v.doc.verify(msg, maxCandidates)
		if refused == nil || v != before && v.asked.mono >= received.mono {
			return key, refused
		}
		last := v
		if v, err = k.newer(ctx, last); err == nil && v == last {
			return nil, refused
		}
	}
}

// noKeySet says why there is no key set: whatever the answer to the request for
// it was, it is no verdict on the JWT.
func noKeySet(err error) *Error {
	detail := err.Error() // of a status, or of what is wrong with the JSON
	var e *Error
	if errors.As(err, &e) {
		detail = e.Detail
	}
	return rejection(ReasonKeysUnavailable, "key set: "+detail)
}

// keysUnavailable is the absence of a verdict. What the metadata is to blame
// for stays what it is.
func keysUnavailable(err error) *Error {
	e := asError(err, ReasonKeysUnavailable, "key set")
	if e.Reason == ReasonUnavailable {
		e.Reason = ReasonKeysUnavailable
	}
	return e
}

// ownKeys are the key sets of this package, which need not parse a JWT again
// and tell the key.
type ownKeys interface {
	verify(ctx context.Context, msg *jose.Message) (*signingKey, error)
}

// verifySignature checks the JWT with the Middleware's keys. The key is nil if
// they are a KeySet of the caller's.
func (m *Middleware) verifySignature(ctx context.Context, jwt string, msg *jose.Message) (*signingKey, error) {
	if own, ok := m.keys.(ownKeys); ok {
		return own.verify(ctx, msg)
	}
	payload, err := m.keys.VerifySignature(ctx, jwt)
	var failed net.Error
	switch {
	case err == nil:
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded), errors.As(err, &failed):
		return nil, rejection(ReasonKeysUnavailable, "key set")
	case errors.Is(err, ErrUpstream):
		return nil, rejection(ReasonProtocol, "key set")
	default:
		return nil, refused("signature")
	}
	if !bytes.Equal(payload, msg.Payload) {
		return nil, refused("payload")
	}
	return nil, nil
}

// verifyWith is VerifySignature for the key sets of this package.
func verifyWith(ctx context.Context, keys ownKeys, jwt string) ([]byte, error) {
	msg, err := jose.Parse(jwt)
	if err != nil {
		return nil, asRefused(err)
	}
	if _, err := keys.verify(ctx, msg); err != nil {
		return nil, err
	}
	return msg.Payload, nil
}
