package phantom

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/fleet"
	"github.com/phantom-token/phantom/internal/flight"
	"github.com/phantom-token/phantom/internal/introspection"
)

// A memory is what a Middleware remembers of tokens: facts, never decisions.
// This file decides what is remembered, for how long and under which key.
// Package cache keeps it.
type memory struct {
	clock       clock.Clock
	tokens      *cache.Cache[*Token]
	questions   *flight.Questions[digest] // the lookups under way
	maxTTL      time.Duration             // of a verified token
	negativeTTL time.Duration             // of a lasting refusal, the server's or ours
	size        int                       // of tokens
	seal        *fleet.Seal
	cutoffs     *fleet.Cutoffs // for what is in a Store
	isShared    bool           // there is one
	sweeps      sweeps
}

func newMemory(c *config) *memory {
	now := clock.New()
	m := &memory{
		clock:       now,
		questions:   flight.NewQuestions[digest](now, c.maxTTL, c.timeout),
		maxTTL:      c.maxTTL,
		negativeTTL: c.negativeTTL,
		size:        c.cacheSize,
		seal:        c.seal(),
		cutoffs:     fleet.NewCutoffs(now, c.maxTTL+c.timeout),
		isShared:    c.store != nil,
	}
	if c.maxTTL == 0 { // then the cache has tombstones alone
		m.negativeTTL = 0
	}
	m.tokens = cache.New(cache.Config[*Token]{
		Size: c.cacheSize, RefreshAhead: c.refreshAhead, Stale: c.staleIfError, Retired: (*Token).isRetired,
	})
	return m
}

// A digest stands for an opaque token. It is keyed with a secret, so that a
// remembered digest does not reveal the token.
type digest = cache.Key

// A digestKey is the secret that digests are keyed with. Replicas with a Store
// have one in common. All other Middlewares of this process share another one:
// what a dispatcher has made serves its member.
type digestKey [oneBlock + 1]byte

var processKey = func() *digestKey {
	k := &digestKey{}
	_, _ = rand.Read(k[:]) // never fails
	return k
}()

// digestKey returns the key of those who share, or that of the process.
func (c *config) digestKey() *digestKey {
	if c.store == nil {
		return processKey
	}
	k := &digestKey{}
	copy(k[:], fleet.DigestSecret(c.storeSecret, len(k)))
	return k
}

// keyOf returns the key of the members, if they have one in common.
func keyOf(members []*Middleware) *digestKey {
	for _, member := range members {
		if *member.digests != *members[0].digests {
			return processKey
		}
	}
	return members[0].digests
}

// oneBlock is the longest message that SHA-256 pads to one block.
const oneBlock = 55

// of returns the digest of an opaque token. A usual token is padded to
// oneBlock and mixed with the secret. A longer one stands behind the secret, in
// a message that is longer than oneBlock: no message is that of two tokens.
func (k *digestKey) of(token string) digest {
	if len(token) >= oneBlock {
		return k.ofLong(token)
	}
	var block [oneBlock + 1]byte                // whole words; the last byte is not used
	block[copy(block[:oneBlock], token)] = 0x80 // where the padding begins
	for i := 0; i < len(block); i += 8 {
		word := binary.NativeEndian.Uint64(block[i:]) ^ binary.NativeEndian.Uint64(k[i:])
		binary.NativeEndian.PutUint64(block[i:], word)
	}
	sum := sha256.Sum256(block[:oneBlock])
	return digest(sum[:len(digest{})])
}

func (k *digestKey) ofLong(token string) digest {
	var buf [1 << 10]byte // on the stack, and enough for most tokens
	b := append(buf[:0], k[:]...)
	b = append(b, token...)
	sum := sha256.Sum256(b)
	return digest(sum[:len(digest{})])
}

// look looks a token up.
func (m *memory) look(d *digest) cache.Finding[*Token] { return m.tokens.Get(d, m.clock.Now()) }

// has reports whether the token is remembered, and still serves.
func (m *memory) has(t *Token) bool {
	d := t.digest()
	found := m.look(&d)
	return found.State == cache.Fresh && found.Value == t
}

// remember keeps a verified token for its life. forgets is how many claims had
// been forgotten when the server was asked.
func (m *memory) remember(q *flight.Question, token *Token, life cache.Life, forgets uint64) {
	m.tokens.Put(token.entry, life, func() bool {
		return q.IsValid() && !m.isForgottenSince(token, forgets)
	})
}

// life returns how long a token with that expiry is remembered: until it or the
// answer expires, but at most for maxTTL and the server's max-age.
func (m *memory) life(expiry time.Time, answer *introspection.Answer, askedAt clock.Instant) cache.Life {
	if expiry.IsZero() { // it has none
		expiry = time.Unix(0, askedAt.Wall).AddDate(1, 0, 0)
	}
	if !answer.Expiry.IsZero() && answer.Expiry.Before(expiry) {
		expiry = answer.Expiry
	}
	if answer.MaxAge < 0 { // the server did not say
		return cache.NewLife(askedAt, expiry, m.maxTTL)
	}
	return cache.NewLife(askedAt, expiry, m.maxTTL, answer.MaxAge)
}

// rememberRefusal keeps a refusal that will last, in place of what was known
// before.
func (m *memory) rememberRefusal(d digest, q *flight.Question, why error, askedAt clock.Instant) {
	if m.negativeTTL == 0 {
		m.tokens.Remove(&d)
		return
	}
	m.tokens.PutNo(&d, why, askedAt.Add(m.negativeTTL), q.IsValid)
}

// forget drops what is known of a token. The answer of a lookup under way is
// not remembered either, and no answer to an earlier question is taken from a
// Store.
func (m *memory) forget(d digest, before clock.Instant) {
	if m.isShared {
		m.cutoffs.Token(d, before)
	}
	m.questions.Forget(d)
	m.tokens.Remove(&d)
}

// purge is forget for every token.
func (m *memory) purge(before clock.Instant) {
	m.cutoffs.All(before)
	m.questions.Purge()
	m.tokens.Purge()
}
