package phantom

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/fleet"
	"github.com/phantom-token/phantom/internal/gate"
	"github.com/phantom-token/phantom/internal/introspection"
	"github.com/phantom-token/phantom/internal/jose"
)

// replicas are the other Middlewares with the same Store, secret and
// configuration.
type replicas struct {
	store       Store
	broadcaster Broadcaster // nil: the Store is none
	seal        *fleet.Seal
	notes       *fleet.Notes
	hold        time.Duration // no lookup runs for longer
	log         *eventLog

	// A call that works does not make up for another kind's.
	reads, refreshes, writes, tellings fleet.Line

	heard sync.Once // the notes of ten minutes

	hits, misses, refused, failed, skipped, received atomic.Uint64
}

// What a call may take.
const (
	readTime    = 20 * time.Millisecond // a request waits
	refreshTime = 250 * time.Millisecond
	writeTime   = time.Second
)

// minShared is the shortest time for which it is worth storing an answer.
const minShared = time.Second

// noteSkew is how far the clocks of two replicas may differ. If they differ by
// more, a note that comes late forgets too little.
const noteSkew = 10 * time.Second

// join makes m one of the replicas, if there is a Store.
func (m *Middleware) join(c *config) {
	if c.store == nil {
		return
	}
	seal := m.memory.seal
	m.shared = &replicas{
		store: c.store, seal: seal, notes: fleet.NewNotes(seal), hold: c.timeout + 2*time.Second, log: m.log,
	}
	for _, line := range []*fleet.Line{&m.shared.reads, &m.shared.refreshes, &m.shared.writes, &m.shared.tellings} {
		line.Again = func(lasted time.Duration) { m.log.again(msgStoreAgain, lasted) }
	}
	if b, ok := c.store.(Broadcaster); ok {
		m.shared.broadcaster = b
		b.Receive(m.receive)
	}
}

// seal returns the Seal of those who share, or one that no other has.
func (c *config) seal() *fleet.Seal {
	secret := c.storeSecret
	if c.store == nil {
		secret = make([]byte, minStoreSecret)
		_, _ = rand.Read(secret) // never fails
	}
	source := "answer"
	switch {
	case c.given["WithMinter"]:
		source = "minter " + c.minterName
	case c.given["WithTokenExchange"]:
		source = fmt.Sprintf("exchange %q %q", c.exchangeEndpoint, c.exchangeForm.Encode())
	case c.given["WithoutJWT"]:
		source = "none"
	}
	client := ""
	if own, ok := c.auth.(*clientAuth); ok {
		client = own.id
	}
	return fleet.NewSeal(secret, c.issuer, c.endpoint, client, fmt.Sprint(c.format(), c.strictCacheControl), c.member,
		c.signedAudience, source)
}

// trouble counts and logs a call that did not work.
func (r *replicas) trouble(call string, err error) {
	if errors.Is(err, fleet.ErrSkipped) {
		r.skipped.Add(1)
		return
	}
	r.failed.Add(1)
	r.log.storeTrouble(call, err)
}

// A storedCopy is a record that was loaded, and when its question was put, at
// the latest.
type storedCopy struct {
	*fleet.Record
	asked clock.Instant
}

// load returns what the Store has of the token that is looked up; nil: nothing
// that can be used.
func (r *replicas) load(l *lookup) *storedCopy {
	type found struct {
		value []byte
		left  time.Duration
	}
	line, budget := &r.reads, readTime
	if l.refresh {
		line, budget = &r.refreshes, refreshTime
	}
	memory := l.m.memory
	name, before := memory.seal.Name(l.digest), memory.clock.Now()
	got, err := fleet.Call(line, budget, false, func(ctx context.Context) (f found, err error) {
		f.value, f.left, err = r.store.Get(ctx, name)
		return f, err
	})
	switch {
	case err != nil:
		l.isUnread = true
		r.trouble("Get", err)
		return nil
	case len(got.value) == 0:
		r.misses.Add(1)
		return nil
	}
	record, ok := memory.seal.Open(l.token, l.digest, got.value)
	if !ok {
		r.refuse("not sealed by this fleet for this token")
		return nil
	}
	age, ok := record.Age(got.left, time.Unix(0, before.Wall))
	if !ok {
		r.refuse("asked for at a time that is still to come")
		return nil
	}
	// What was forgotten before the oldest note that there was when the Store was
	// reached for the first time is not known.
	r.heard.Do(func() {
		if r.broadcaster != nil {
			memory.cutoffs.All(before.Add(noteSkew - fleet.MaxNoteAge))
		}
	})
	c := &storedCopy{record, before.Add(-age)}
	if memory.cutoffs.CoverToken(l.digest, c.forCutoffs()) {
		r.misses.Add(1)
		return nil
	}
	return c
}

// forCutoffs returns the instant to compare with those of Forget: a copy may
// look younger than it is by the time of the call that stored it.
func (c *storedCopy) forCutoffs() clock.Instant { return c.asked.Add(-writeTime) }

// refuse counts and logs a copy that is not used.
func (r *replicas) refuse(detail string) {
	r.refused.Add(1)
	r.log.copyRefused(detail)
}

// copied returns the Token of what another replica stored, once it has passed
// every check of this one; nil: there is none, and the server must be asked. A
// lookup that renews an entry takes only what is newer.
func (l *lookup) copied(ctx context.Context) *Token {
	shared := l.m.shared
	if shared == nil {
		return nil
	}
	c := shared.load(l)
	if c == nil {
		return nil
	}
	l.wasShared = true
	r, v, err := l.m.authority.verifyCopy(ctx, l.token, c)
	if err != nil {
		shared.refuse(failure.Of(err).Detail)
		return nil
	}
	tok := newToken(l.m, l.digest, v, r)
	memory := l.m.memory
	life := memory.life(tok.Expiry(), r.Answer, c.asked)
	switch {
	case memory.clock.Now().Reached(life.End()), l.refresh && !life.Outlives(l.fresh),
		memory.isForgotten(tok, c.forCutoffs()):
		shared.misses.Add(1)
		return nil
	}
	shared.hits.Add(1)
	l.askedAt = c.asked
	memory.questions.PutAt(l.question, c.asked)
	memory.questions.Answered(l.question, life.End())
	memory.remember(l.question, tok, life, l.forgets)
	return tok
}

// verifyCopy judges what another replica stored as if the server had just said
// it.
func (a *authority) verifyCopy(ctx context.Context, token string, c *storedCopy) (*reply, *verified, error) {
	r := &reply{Answer: &introspection.Answer{JWT: c.JWT, Expiry: c.Expiry, MaxAge: c.MaxAge}}
	if c.Members != nil {
		members, err := jose.ParseObject(c.Members)
		if err != nil {
			return nil, nil, failure.New(failure.Protocol, "not strict JSON")
		}
		r.Members, r.IsJSON = members, true
	}
	if a.answerMode {
		r.JWT = c.Signed
		if a.signedAudience != "" {
			if err := a.open(ctx, r, time.Unix(0, c.Record.Asked)); err != nil || r.noKeys != nil {
				return nil, nil, errors.Join(err, r.noKeys)
			}
		}
		if err := a.judge(r, token); err != nil {
			return nil, nil, err
		}
		r.JWT = c.JWT
	}
	v, err := a.verifyReply(ctx, r)
	return r, v, err
}

// share stores what the server said until the end of its life. No request waits
// for that.
func (l *lookup) share(r *reply, end clock.Instant) {
	shared, memory := l.m.shared, l.m.memory
	if shared == nil || !l.question.IsValid() {
		return
	}
	if memory.clock.Now().Until(end) < minShared {
		return
	}
	record := &fleet.Record{
		Asked: l.askedAt.Wall, JWT: r.JWT, Signed: r.signed, Expiry: r.Expiry, MaxAge: r.MaxAge,
	}
	switch {
	case !r.IsJSON || r.signed != "":
	case r.claims != nil:
		record.Members = r.said.JSON()
	default:
		record.Members = r.Members.JSON()
	}
	go func() {
		_, err := fleet.Call(&shared.writes, writeTime, false, func(ctx context.Context) (none struct{}, err error) {
			now := memory.clock.Now()
			record.TTL = now.Until(end).Truncate(time.Millisecond)
			record.Stored = time.Duration(now.Mono - l.askedAt.Mono)
			if record.TTL < minShared || memory.cutoffs.CoverToken(l.digest, l.askedAt) {
				return none, nil
			}
			value := memory.seal.Close(l.token, l.digest, record)
			if value == nil {
				return none, nil
			}
			return none, shared.store.Set(ctx, memory.seal.Name(l.digest), value, record.TTL)
		})
		if err != nil {
			shared.trouble("Set", err)
		}
	}()
}

// retract takes note that the server has called the token inactive, and tells
// the others if it was known. No request waits for that. This replica takes no
// older copy from now on, also if that is still to come: another one may have
// asked just before.
func (l *lookup) retract() {
	shared, isKnown := l.m.shared, l.class == gate.KnownToken || l.wasShared
	if shared == nil {
		return
	}
	if !isKnown && !l.isUnread {
		l.m.memory.cutoffs.Stranger(l.digest, l.askedAt)
		return
	}
	l.m.memory.cutoffs.Token(l.digest, l.askedAt)
	if isKnown {
		go func() { _ = shared.tell(&l.digest, fleet.OneToken, l.digest[:]) }()
	}
}

// errNotTold is what Forget returns if the others may not know.
var errNotTold = failure.New(failure.Unavailable, "forgotten here, but the other replicas could not be told")

// tell drops what is stored of a token, if there is one, and sends a note.
func (r *replicas) tell(drop *digest, kind fleet.Kind, value []byte) error {
	if r == nil {
		return nil
	}
	var calls sync.WaitGroup
	var failed atomic.Bool
	call := func(name string, f func(ctx context.Context) error) {
		calls.Go(func() {
			_, err := fleet.Call(&r.tellings, writeTime, true, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, f(ctx)
			})
			if err != nil {
				failed.Store(true)
				r.trouble(name, err)
			}
		})
	}
	if drop != nil {
		call("Drop", func(ctx context.Context) error { return r.store.Drop(ctx, r.seal.Name(*drop), r.hold) })
	}
	if r.broadcaster != nil {
		note := r.notes.Write(kind, value)
		call("Broadcast", func(ctx context.Context) error { return r.broadcaster.Broadcast(ctx, note) })
	}
	calls.Wait()
	if failed.Load() && r.broadcaster != nil {
		return rejection(errNotTold)
	}
	return nil
}

// receive does what the notes of the others say.
func (m *Middleware) receive(note []byte) {
	said, ok := m.shared.notes.Read(note)
	if !ok {
		return
	}
	m.shared.received.Add(1)
	// What it speaks of was forgotten when it was written, by another clock.
	before := m.memory.clock.Now().Add(-max(0, said.Age-noteSkew))
	switch said.Kind {
	case fleet.OneToken:
		m.memory.forget(said.OfToken(), before)
	case fleet.AllTokens:
		m.memory.purge(before)
	case fleet.Session, fleet.Subject, fleet.Sessionless:
		m.memory.forgetClaims(before, said.Value)
	}
}
