package issuer

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// A Key is a public key of the issuer. When it leaves the issuer's set it is
// retired, and every verdict that rests on it ends.
type Key struct {
	*jose.Key
	retired atomic.Bool
}

// Retired reports whether the key has left the set. It is false for a nil Key,
// which stands for the key of a caller's KeySet.
func (k *Key) Retired() bool { return k != nil && k.retired.Load() }

// KeyList is a set of keys of one issuer. It also has the unusable ones, so
// that Verify can tell them from keys that are not there.
type KeyList []*Key

// maxCandidates bounds the keys tried for one JWT whose kid does not name
// exactly one. Google has published five keys for JWTs without a kid.
const maxCandidates = 16

// Verify checks the JWT with the keys that its kid names. If the JWT has no
// kid, Verify tries each eligible key; if no usable key has that kid, each
// eligible key without one. It returns the key that fits. The check that fails
// is "key" if there is a key of that kid and it must not be used for this JWT,
// "kid" if there is none.
func (l KeyList) Verify(msg *jose.Message) (*Key, error) { return l.verify(msg, len(l)) }

func (l KeyList) verify(msg *jose.Message, most int) (*Key, error) {
	check, named := "kid", false
	for _, key := range l {
		if msg.KeyID != "" && key.ID() == msg.KeyID {
			check, named = "key", named || key.Usable()
		}
	}
	var refused error
	tried := 0
	for _, key := range l {
		eligible := key.Allows(msg.Algorithm) &&
			(msg.KeyID == "" || key.ID() == "" && !named || key.ID() == msg.KeyID)
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
		refused = Refusal(err)
	}
	if refused == nil {
		refused = failure.New(failure.Refused, check)
	}
	return nil, refused
}

// has reports whether the list has a key with that kid.
func (l KeyList) has(kid string) bool {
	return kid != "" && slices.ContainsFunc(l, func(k *Key) bool { return k.ID() == kid })
}

// Refusal turns what jose says of a JWT into a failure: a verdict if the JWT is
// well formed, the server's fault if it is not. The verdict lasts unless other
// keys could change it.
func Refusal(err error) error {
	var r *jose.Rejection
	if !errors.As(err, &r) {
		return failure.New(failure.Protocol, "not a strict compact JWS")
	}
	f := failure.New(failure.Refused, r.Check)
	f.Lasting = r.Check != "kid" && r.Check != "key" && r.Check != "signature"
	return f
}

// Keys is the issuer's key set behind its JWKS URL. It is safe for concurrent
// use.
type Keys struct {
	document[KeyList]
	url atomic.Pointer[string] // from where they came last
}

// maxKeySetSize bounds the key set's document, in bytes.
const maxKeySetSize = 256 << 10

// NewKeys returns the key set behind the URL that the function returns. It
// fetches nothing.
func NewKeys(c Config, url func(context.Context) (string, error)) *Keys {
	k := &Keys{}
	fetch := func(ctx context.Context, old *KeyList) (*KeyList, time.Duration, error) {
		target, err := url(ctx)
		if err != nil {
			return nil, 0, err
		}
		const accept = "application/jwk-set+json, application/json"
		body, maxAge, err := c.Upstream.GetDocument(ctx, target, accept, maxKeySetSize)
		if err != nil {
			return nil, 0, noKeySet(err).At(failure.Keys, upstream.Shown(target))
		}
		parsed, unusable, dropped, err := jose.ParseKeySet(body)
		if err != nil {
			return nil, 0, noKeySet(err).At(failure.Keys, upstream.Shown(target))
		}
		c.Events.KeysDropped(dropped)
		if len(parsed) == 0 {
			// It would refuse all JWTs, but says nothing about any of them.
			none := failure.New(failure.NoKeys, "key set: no usable key in it")
			return nil, 0, none.At(failure.Keys, upstream.Shown(target))
		}
		k.url.Store(&target)
		return replaceKeys(old, append(parsed, unusable...)), maxAge, nil
	}
	k.init(failure.Keys, c, fetch)
	return k
}

// replaceKeys makes the new set, or returns the old one if it has the same
// keys. A key that is in both sets stays the same Key. A key that is only in
// the old one is retired. A key that is listed twice counts once, or only one
// of the two would be retired.
func replaceKeys(old *KeyList, parsed []*jose.Key) *KeyList {
	gone := map[[32]byte]*Key{}
	if old != nil {
		for _, key := range *old {
			gone[key.Identity()] = key
		}
	}
	list := make(KeyList, 0, len(parsed))
	listed := map[[32]byte]bool{}
	news := old == nil
	for _, key := range parsed {
		id := key.Identity()
		if listed[id] {
			continue
		}
		listed[id] = true
		kept, ok := gone[id]
		if !ok {
			kept, news = &Key{Key: key}, true
		}
		delete(gone, id)
		list = append(list, kept)
	}
	if !news && len(gone) == 0 {
		return old
	}
	for _, key := range gone {
		key.retired.Store(true)
	}
	return &list
}

// Verify checks the JWT with the current keys. If none of them fits, it
// refetches the set until it has one that was requested after the JWT came. If
// it is too early for that, an unknown key is no reason to refuse the JWT yet,
// but a known one is. Verify returns the key that fits.
func (k *Keys) Verify(ctx context.Context, msg *jose.Message) (*Key, error) {
	before, received := k.current.Load(), k.clock.Now()
	set, err := k.get(ctx)
	for {
		if err != nil {
			return nil, keysUnavailable(err)
		}
		key, refused := set.value.verify(msg, maxCandidates)
		if refused == nil || set != before && set.requestedAt.Mono >= received.Mono {
			return key, k.blamed(refused)
		}
		last := set
		set, err = k.newerThan(ctx, last)
		var early *tooEarlyError
		switch {
		case !errors.As(err, &early):
		case last.value.has(msg.KeyID):
			return nil, k.blamed(refused)
		default:
			unknown := failure.New(failure.NoKeys, "unknown key, and the key set was fetched a moment ago")
			unknown.Wait = early.left
			return nil, k.blamed(unknown)
		}
	}
}

// blamed returns a failure with the place from which the keys came that did not
// fit: it may be the wrong one.
func (k *Keys) blamed(err error) error {
	url := k.url.Load()
	if err == nil || url == nil {
		return err
	}
	own := *failure.Of(err)
	own.Facts = &failure.Facts{Endpoint: failure.Keys, URL: upstream.Shown(*url)}
	return &own
}

// Unavailable returns the error of Verify while it is known without a fetch:
// there is no key set in use, and it is too early for another attempt to get
// one. Otherwise it returns nil. It does no I/O.
func (k *Keys) Unavailable() error {
	if err := k.unavailable(); err != nil {
		return keysUnavailable(err)
	}
	return nil
}

// Fetch fetches the key set unless it is there.
func (k *Keys) Fetch(ctx context.Context) error {
	if _, err := k.get(ctx); err != nil {
		return keysUnavailable(err)
	}
	return nil
}

// Stats returns how many usable keys the current set has, how long ago it was
// requested, and how many attempts to fetch it failed.
func (k *Keys) Stats() (usable int, age time.Duration, failures uint64) {
	k.mu.Lock()
	failures = k.failures
	k.mu.Unlock()
	now, s := k.clock.Now(), k.current.Load()
	if !s.usable(now) {
		return 0, 0, failures
	}
	for _, key := range *s.value {
		if key.Usable() {
			usable++
		}
	}
	return usable, time.Duration(now.Mono - s.requestedAt.Mono), failures
}

// noKeySet says why there is no key set. No answer to the request for it is a
// verdict on the JWT.
func noKeySet(err error) *failure.Error {
	none := failure.New(failure.NoKeys, "key set: "+err.Error())
	var status *upstream.StatusError
	var f *failure.Error
	switch {
	case errors.As(err, &status):
		none = upstream.NotOK(failure.NoKeys, "key set: ", status.Status)
		none.Wait = status.Wait
	case errors.As(err, &f):
		none.Detail, none.Cause, none.Facts = "key set: "+f.Detail, f.Cause, f.Facts
	}
	return none
}

// keysUnavailable turns an outage into missing keys. A fault of the metadata
// stays what it is.
func keysUnavailable(err error) error {
	f := failure.From(err, failure.NoKeys, "key set")
	if f.Class == failure.Unavailable {
		own := *f
		own.Class, own.Unanswered = failure.NoKeys, false // the token was not asked about
		return &own
	}
	return f
}
