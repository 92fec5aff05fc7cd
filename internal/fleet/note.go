package fleet

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
)

// A Kind is what a note wants forgotten.
type Kind byte

// The kinds. Their numbers go to the store.
const (
	OneToken    Kind = 1 + iota // the value is its digest
	AllTokens                   // there is no value
	Session                     // the value is the Claim of its sid
	Subject                     // the value is the Claim of its sub
	Sessionless                 // the Claim of a sub, whose tokens without a sid are meant
)

// A Claim stands for the value of a claim, which it does not reveal.
type Claim [sha256.Size]byte

// Claim returns what stands for the text of a claim.
func (s *Seal) Claim(kind Kind, text string) Claim {
	h, _ := s.claims.Get().(*claimHash)
	defer s.claims.Put(h)
	h.buf = append(append(h.buf[:0], byte(kind)), text...)
	h.Reset()
	h.Write(h.buf)
	h.buf = h.Sum(h.buf[:0])
	return Claim(h.buf)
}

// A claimHash makes Claims, one after the other. Each new token has two, and a
// new HMAC would cost seven allocations and twice the time.
type claimHash struct {
	hash.Hash
	buf []byte
}

// A Note tells the other replicas what to forget.
type Note struct {
	Kind  Kind
	Value [sha256.Size]byte
	Age   time.Duration // since it was written, by two wall clocks
}

// OfToken returns the note's digest.
func (n *Note) OfToken() cache.Key { return cache.Key(n.Value[:len(cache.Key{})]) }

// A note is, in this order: version, kind, nonce, time, value, MAC.
const (
	nonceSize = 16
	bodySize  = 2 + nonceSize + 8 + sha256.Size
	noteSize  = bodySize + sha256.Size
)

// MaxNoteAge is how old a note may be that still counts. A store keeps notes
// for as long.
const MaxNoteAge = 10 * time.Minute

// Notes are those that a replica writes and reads. A note counts once, so that
// a recorded one is of no use. Notes are safe for concurrent use.
type Notes struct {
	seal *Seal

	mu   sync.Mutex
	seen [Sessionless + 1]Once // by kind: many of one must not bring back another
}

// NewNotes returns the notes of the replicas with that Seal.
func NewNotes(seal *Seal) *Notes { return &Notes{seal: seal} }

// Write returns a note. The replica that wrote it will not take heed of it.
func (n *Notes) Write(kind Kind, value []byte) []byte {
	note := make([]byte, bodySize, noteSize)
	note[0], note[1] = version, byte(kind)
	nonce := note[2:][:nonceSize]
	_, _ = rand.Read(nonce) // never fails
	binary.BigEndian.PutUint64(note[2+nonceSize:], uint64(time.Now().UnixNano()))
	copy(note[bodySize-sha256.Size:], value)
	sum := mac(n.seal.notes, note)
	n.isNew(kind, nonce)
	return append(note, sum[:]...)
}

// Read returns what a note says. Not ok is a note of other replicas, one that
// is too old, was there before or is of a kind that this version does not know,
// and anything that is no note.
func (n *Notes) Read(note []byte) (said Note, ok bool) {
	if len(note) != noteSize || note[0] != version {
		return Note{}, false
	}
	sum := mac(n.seal.notes, note[:bodySize])
	if !hmac.Equal(sum[:], note[bodySize:]) {
		return Note{}, false
	}
	written := time.Unix(0, int64(binary.BigEndian.Uint64(note[2+nonceSize:])))
	said = Note{Kind: Kind(note[1]), Age: time.Since(written.Round(0))}
	copy(said.Value[:], note[bodySize-sha256.Size:])
	if said.Age > MaxNoteAge || said.Age < -MaxNoteAge || !n.isNew(said.Kind, note[2:][:nonceSize]) {
		return Note{}, false
	}
	return said, true
}

func (n *Notes) isNew(kind Kind, nonce []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return int(kind) < len(n.seen) && n.seen[kind].IsNew(string(nonce), 2*MaxNoteAge)
}

// maxOnce bounds each half of a Once.
const maxOnce = 1 << 15

// A Once tells what is new from what was there before. It keeps the latest
// thirty thousand at least, if they are young enough. It is not safe for
// concurrent use.
type Once struct {
	young, old map[string]struct{}
	since      time.Time // of the young ones
}

// IsNew reports whether id was not there within the time of lifetime.
func (o *Once) IsNew(id string, lifetime time.Duration) bool {
	if now := time.Now(); o.young == nil || len(o.young) >= maxOnce || now.Sub(o.since) > lifetime {
		o.old, o.young, o.since = o.young, map[string]struct{}{}, now
	}
	_, isYoung := o.young[id]
	_, isOld := o.old[id]
	o.young[id] = struct{}{}
	return !isYoung && !isOld
}
