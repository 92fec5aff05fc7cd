// Package fleet has what replicas of one service need to share what they know
// through a store that they need not trust: the seal on values and notes, the
// way to the store, and what was forgotten when.
//
// # The seal
//
// Everything is derived from the secret of the fleet and from the parts that
// name the configuration, so that two fleets, and two configurations of one
// fleet, never meet in one store:
//
//	digest of a token  SHA-256, keyed by the secret alone; the cache's key too
//	name of a value    HMAC-SHA-256 of the digest
//	key of a value     HKDF over the token itself, salted with the secret
//	note               HMAC-SHA-256
//
// A value opens only with the token and the secret together. It is bound to its
// key and its version.
//
// # What the store can do
//
// It can lose a value, or give an old one back. What it cannot do is make one,
// or make one serve for longer: see [Record.Age].
package fleet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
)

// version is the first byte of all that goes to the store. Replicas of two
// versions do not see each other's values and notes.
const version = 1

// MaxValue bounds a value. An answer of the authorization server fits.
const MaxValue = 1 << 20

// A Seal seals what the replicas with one secret and one configuration share.
// It is safe for concurrent use.
type Seal struct {
	names  []byte
	values []byte
	notes  []byte
	claims sync.Pool // of *claimHash
}

// NewSeal returns the Seal for a secret of 32 bytes or more. The parts name the
// configuration.
func NewSeal(secret []byte, parts ...string) *Seal {
	context := []byte{}
	for _, part := range parts {
		context = binary.AppendUvarint(context, uint64(len(part)))
		context = append(context, part...)
	}
	derive := func(label string, size int) []byte { return derive(secret, label+" "+string(context), size) }
	claimKey := derive("claim", sha256.Size)
	return &Seal{
		names:  derive("name", sha256.Size),
		values: derive("value", sha256.Size),
		notes:  derive("note", sha256.Size),
		claims: sync.Pool{New: func() any { return &claimHash{Hash: hmac.New(sha256.New, claimKey)} }},
	}
}

// DigestSecret returns the secret of the digests of tokens, which depends on
// the fleet alone: two Middlewares behind one dispatcher can have the same.
func DigestSecret(secret []byte, size int) []byte { return derive(secret, "digest", size) }

func derive(secret []byte, label string, size int) []byte {
	// It fails for secrets that are too short and keys that are too long.
	key, _ := hkdf.Key(sha256.New, secret, nil, "phantom "+string([]byte{'0' + version})+" "+label, size)
	return key
}

// Name returns the key of a token in the store: 32 characters of base64url.
func (s *Seal) Name(digest cache.Key) string {
	name := mac(s.names, digest[:])
	return base64.RawURLEncoding.EncodeToString(name[:24])
}

// A Record is what the authorization server said of a token, and when. It has
// facts alone: each replica judges them anew.
type Record struct {
	Asked  int64         // by the wall clock of the replica that asked, in nanoseconds
	Stored time.Duration // how old the answer was when it was stored
	TTL    time.Duration // for which it was stored

	JWT     string
	Signed  string // the answer as it came, if it was signed
	Members []byte // JSON; nil: none
	Expiry  time.Time
	MaxAge  time.Duration
}

// maxLie is how far a stamp may be ahead of us if the store's clock does not
// vouch for it, and maxSkew if it does.
const (
	maxLie  = 10 * time.Second
	maxSkew = 5 * time.Minute
)

// Age returns how old the answer is now, which is the greater of what two
// clocks say: the store's, which has counted down to left, and the wall clock.
// Neither a slow clock nor a store that lies makes it younger than the other
// one says. Not ok is a stamp of a time that is still to come.
func (r *Record) Age(left time.Duration, now time.Time) (age time.Duration, ok bool) {
	byWall := now.Sub(time.Unix(0, r.Asked))
	byStore := r.Stored + max(r.TTL-max(left, 0), 0)
	isSane := left > 0 && left <= r.TTL
	ok = byWall >= -maxLie || isSane && byWall >= -maxSkew
	return max(byWall, byStore), ok
}

// Close seals a record of the token. It returns nil if the record is too large.
func (s *Seal) Close(token string, digest cache.Key, r *Record) []byte {
	aead, err := s.aead(token)
	if err != nil {
		return nil
	}
	plain := r.encode()
	if len(plain)+aead.Overhead()+1 > MaxValue {
		return nil
	}
	return aead.Seal([]byte{version}, nil, plain, digest[:])
}

// Open returns the record in a value, if it is one of this token.
func (s *Seal) Open(token string, digest cache.Key, value []byte) (*Record, bool) {
	if len(value) == 0 || len(value) > MaxValue || value[0] != version {
		return nil, false
	}
	aead, err := s.aead(token)
	if err != nil {
		return nil, false
	}
	plain, err := aead.Open(nil, nil, value[1:], digest[:])
	if err != nil {
		return nil, false
	}
	return decode(plain)
}

// aead returns the cipher for the value of a token. The version is in its key.
func (s *Seal) aead(token string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(token), s.values, "phantom value", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// encode writes the numbers and then the texts, each with its length.
func (r *Record) encode() []byte {
	expiry := int64(0)
	if !r.Expiry.IsZero() {
		expiry = max(r.Expiry.Unix(), 1)
	}
	b := make([]byte, 0, 64+len(r.JWT)+len(r.Signed)+len(r.Members))
	for _, n := range []int64{r.Asked, int64(r.Stored), int64(r.TTL), expiry, int64(r.MaxAge)} {
		b = binary.AppendVarint(b, n)
	}
	for _, text := range []string{r.JWT, r.Signed, string(r.Members)} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	return b
}

// decode reads what encode wrote. It was authenticated, so only another version
// of this package could have written anything else.
func decode(b []byte) (*Record, bool) {
	var numbers [5]int64
	for i := range numbers {
		n, size := binary.Varint(b)
		if size <= 0 {
			return nil, false
		}
		numbers[i], b = n, b[size:]
	}
	var texts [3]string
	for i := range texts {
		length, size := binary.Uvarint(b)
		if size <= 0 || length > uint64(len(b)-size) {
			return nil, false
		}
		texts[i], b = string(b[size:][:length]), b[size:][length:]
	}
	r := &Record{
		Asked: numbers[0], Stored: time.Duration(numbers[1]), TTL: time.Duration(numbers[2]),
		MaxAge: time.Duration(numbers[4]), JWT: texts[0], Signed: texts[1],
	}
	if numbers[3] != 0 {
		r.Expiry = time.Unix(numbers[3], 0)
	}
	if texts[2] != "" {
		r.Members = []byte(texts[2])
	}
	return r, len(b) == 0
}

// mac returns the HMAC of a message.
func mac(key []byte, message ...[]byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, key)
	for _, part := range message {
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}
