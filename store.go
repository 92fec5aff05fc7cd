package phantom

import (
	"context"
	"slices"
	"time"
)

// A Store lets the replicas of one service share what the authorization server
// said of a token, so that one of them asks for all. [WithStore] takes it.
//
// It is trusted with availability alone. Keys and values tell nothing of tokens
// and JWTs without the secret of the fleet. A value opens only with that secret
// and the token together, its JWT is verified again by each replica, and no
// replica takes it for longer than [WithMaxTTL] after the server was asked.
//
// A key is 32 characters of base64url, a value at most 1 MiB. A Store must be
// safe for concurrent use, must come back when the context ends, and must not
// change a value. It may lose what it keeps at any time. What it does wrong,
// panics included, costs a lookup.
type Store interface {
	// Get returns what is kept under key and for how much longer, by the Store's
	// own clock. Without a value it returns nil and no error.
	Get(ctx context.Context, key string) (value []byte, left time.Duration, err error)
	// Set keeps value under key for ttl, at least a second and in whole
	// milliseconds, unless key was dropped and the hold of that is not over.
	// That is no error.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Drop forgets what is kept under key and lets nothing be set there for the
	// time of hold.
	Drop(ctx context.Context, key string, hold time.Duration) error
}

// A Broadcaster is a Store through which the replicas can tell each other what
// to forget. With one, [Middleware.Forget] reaches what the others have in
// their memories; with a mere Store, only what is in the Store.
type Broadcaster interface {
	Store
	// Broadcast hands a note to all who receive, this process included. Notes
	// are authenticated, and say when they were written: it does no harm if one
	// comes twice, late, or changed.
	Broadcast(ctx context.Context, note []byte) error
	// Receive has f called with each note from now on, and with those of the
	// last ten minutes. It does not block, and neither does f for long. After
	// an interruption of less than ten minutes, what was missed comes later.
	// There is no end to it.
	Receive(f func(note []byte))
}

// minStoreSecret is in bytes.
const minStoreSecret = 32

// WithStore shares what the authorization server says of tokens with the other
// replicas of this service through the Store. A lookup looks there before it
// asks the server, for 20 ms at most, and puts there what the server says, for
// which no request waits. A Store that is slow, silent or gone costs a request
// no more than that, and after five failures in a row it is tried once a
// second.
//
// The secret is at least 32 random bytes, the same on all replicas, and kept
// like a private key. A new secret is an empty Store. Replicas share only if
// their issuer, introspection endpoint, client id, source of the JWT,
// [WithJSONResponse] and [WithStrictCacheControl] are the same; several
// services and issuers may use one Store. With an [Introspector], a [Minter]
// or a [ClientAuth] of your own, it is for you to see that all replicas with
// one secret ask and mint alike. JWTs of [WithMinter] are shared if each
// replica verifies what the others signed.
//
// It excludes [WithoutIntrospection], and needs a cache: neither [WithMaxTTL]
// nor [WithCacheSize] may be 0. The Store keeps what it receives with for as
// long as it lives, and so the Middleware.
func WithStore(store Store, secret []byte) Option {
	secret = slices.Clone(secret)
	return with("WithStore", func(c *config) { c.store, c.storeSecret = store, secret })
}

// shared checks the Store and what it needs.
func (v *validator) shared() {
	if !v.given["WithStore"] {
		return
	}
	if isNil(v.store) {
		v.fault("WithStore", nilOption)
	}
	if len(v.storeSecret) < minStoreSecret {
		v.fault("WithStore", "a secret of %d bytes; it must have at least %d, as of openssl rand -base64 32",
			len(v.storeSecret), minStoreSecret)
	}
	if v.cacheSize == 0 {
		v.fault("WithStore", "needs a cache, which WithCacheSize(0) turns off")
	}
	if v.maxTTL == 0 {
		v.fault("WithStore", "needs a cache, which WithMaxTTL(0) turns off")
	}
	v.exclude("WithStore", "WithoutIntrospection")
}
