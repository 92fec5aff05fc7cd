package phantom

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
	"github.com/phantom-token/phantom/internal/gate"
	"github.com/phantom-token/phantom/internal/introspection"
	"github.com/phantom-token/phantom/internal/jose"
)

// An Introspector asks the authorization server about an opaque token. The
// built-in one is a client of RFC 7662; [WithIntrospector] replaces it.
//
// An [*Error], or an error that wraps an Err variable of this package, gets its
// own status: [ErrUpstream] gives 502; [ErrInvalidToken] and [ReasonInactive]
// give 401 and are remembered as inactive. An error of any other kind gives
// 503. A 503 with a RetryAfter of more than a second holds back the lookups of
// other tokens too, for 30 s at most. The error's text is logged, up to 512
// bytes and without the token, and never sent.
//
// A Middleware calls Introspect at most once at a time for one token, unless
// the token is forgotten in between, or a request comes later than [WithMaxTTL]
// after the call: the answer would be too old for it. The context ends with
// [WithTimeout]; what Introspect returns later than that is ignored. It carries
// no value of any request, since many may share the answer, except those that a
// [Trace] puts into it. Introspect must be safe for concurrent use.
type Introspector interface {
	Introspect(ctx context.Context, token string) (*Introspection, error)
}

// An Introspection is the authorization server's answer about one token. An
// [Introspector] returns it. Do not print it: it holds the JWT.
type Introspection struct {
	// Active is the server's verdict. If it is false, the other fields are
	// ignored.
	Active bool
	// JWT is the token's JWT. It is verified like any other.
	JWT string
	// Claims is a JSON object with the other members of a JSON answer, or nil.
	Claims []byte
	// Expiry is the answer's own exp; zero if it has none.
	Expiry time.Time
	// MaxAge bounds how long the answer may be kept; 0 if the server did not
	// say, negative if it may not be kept at all.
	MaxAge time.Duration
}

// askWith asks an Introspector and reads the members of its answer.
func askWith(ctx context.Context, introspector Introspector, token string) (*introspection.Answer, error) {
	said, err := introspector.Introspect(ctx, token)
	switch {
	case err != nil:
		f := translate(err, failure.Unavailable, "Introspector", token)
		f.Unanswered = f.Class == failure.Unavailable
		return nil, f
	case said == nil:
		return nil, failure.New(failure.Protocol, "no answer of the Introspector")
	case !said.Active:
		return nil, failure.New(failure.Inactive, "")
	}
	answer := &introspection.Answer{JWT: said.JWT, Expiry: said.Expiry, MaxAge: max(said.MaxAge, 0)}
	if said.MaxAge == 0 {
		answer.MaxAge = -1 // package introspection's word for it
	}
	if answer.IsJSON = len(said.Claims) > 0; answer.IsJSON {
		if answer.Members, err = jose.ParseObject(said.Claims); err != nil {
			return nil, failure.New(failure.Protocol, "introspection claims: not strict JSON")
		}
	}
	return answer, nil
}

// resolve answers from memory or looks the token up. What is in the memory had
// its form checked when it came; anything else is to pass the check. at is the
// present.
func (m *Middleware) resolve(
	ctx context.Context, token string, d digest, at time.Time, check func(token string) error,
) (*Token, Outcome, error) {
	found := m.memory.tokens.Get(&d, m.memory.clock.At(at))
	switch found.State {
	case cache.No:
		m.counts.negative.Add(1)
		return nil, OutcomeNegative, found.Why
	case cache.Fresh:
		m.counts.hit(&d)
		if !found.Refresh {
			return found.Value, OutcomeHit, nil
		}
	case cache.Unknown:
		if err := check(token); err != nil {
			return nil, OutcomeNone, err
		}
	}
	return m.lookUp(ctx, token, d, found)
}

// lookUp asks the authorization server about a token.
func (m *Middleware) lookUp(
	ctx context.Context, token string, d digest, found cache.Finding[*Token],
) (*Token, Outcome, error) {
	if err := ctx.Err(); err != nil && found.State != cache.Fresh {
		return nil, m.counts.miss(false), failure.Because(failure.Unavailable, failure.CallerLeft, err)
	}
	l := m.newLookup(token, d, found)
	if l.refresh {
		if err := l.begin(ctx); err != nil {
			return nil, OutcomeHit, err
		}
		m.flights.Start(l.question.Key(), l.run)
		return found.Value, OutcomeHit, nil
	}
	if found.State == cache.Stale && l.joined {
		// The lookup under way is a probe, for which nobody else need wait.
		if stale := m.bridge(ctx, d, m.authority.gate.Closed(l.class, gate.Token(d))); stale != nil {
			return stale, m.counts.bridged(true), nil
		}
	}
	began := time.Now()
	tok, err := l.fly(ctx)
	for err == flight.ErrOver && time.Since(began) < m.authority.timeout { //nolint:errorlint // it comes as it is
		l = m.newLookup(token, d, found)
		tok, err = l.fly(ctx)
	}
	if err == flight.ErrTimeout { //nolint:errorlint // as above
		err = m.memory.questions.Timeout(l.question)
	}
	if err == nil {
		return tok, m.counts.miss(l.joined), nil
	}
	if failure.Of(err).Detail == failure.CallerLeft {
		l.unattended.Store(true)
	}
	err = m.authority.explain(err, l.class)
	if found.State == cache.Stale {
		if stale := m.bridge(ctx, d, err); stale != nil {
			return stale, m.counts.bridged(l.joined), nil
		}
	}
	return nil, m.counts.miss(l.joined), err
}

// bridge returns the remembered token that serves past its life because the
// lookup met an outage. It returns nil if the error is no outage, the caller
// has left, or the server has called the token inactive since.
func (m *Middleware) bridge(ctx context.Context, d digest, outage error) *Token {
	if outage == nil || ctx.Err() != nil || !failure.Of(outage).Unanswered {
		return nil
	}
	found := m.memory.look(&d)
	if found.Value != nil {
		m.log.stale(ctx, outage)
	}
	return found.Value
}

// A lookup asks the authorization server about one token, verifies the answer
// and remembers it.
type lookup struct {
	m        *Middleware
	token    string
	digest   digest
	question *flight.Question
	class    gate.Class
	refresh  bool // of an entry that is still good
	hasEntry bool // that is good, or serves in an outage
	// No request waits, or the one that asked has left: nothing but a line of its
	// own tells of a failure.
	unattended atomic.Bool
	askedAt    clock.Instant
	forgets    uint64 // how many claims had been forgotten by then

	fresh     clock.Instant // until when the entry serves that is to be refreshed
	wasShared bool          // the Store has a copy
	isUnread  bool          // the Store may have one: it did not answer

	joined   bool          // another request has put the question
	isCopy   bool          // the answer is out of the Store
	isMemory bool          // the answer is out of the memory
	waited   time.Duration // for a place at the server
}

func (m *Middleware) newLookup(token string, d digest, found cache.Finding[*Token]) *lookup {
	question, isNew := m.memory.questions.Join(d, m.hooks.lookups)
	l := &lookup{
		m: m, token: token, digest: d, question: question, joined: !isNew,
		refresh: found.Refresh, hasEntry: found.Value != nil,
	}
	l.unattended.Store(found.Refresh)
	if found.WasGood {
		l.class = gate.KnownToken
	}
	if found.Refresh {
		l.fresh = found.Value.entry.Fresh()
	}
	return l
}

// run is the flight that all who want to know of the token share.
func (l *lookup) run(ctx context.Context) (*Token, error) {
	base, err := l.m.memory.questions.Begin(ctx, l.question)
	if err != nil {
		return nil, err
	}
	defer l.m.memory.questions.End(l.digest, l.question)
	var tok *Token
	if base != nil {
		tok, err = l.traced(ctx, base)
	} else {
		tok, err = l.find(ctx)
	}
	// No request joins a question that is over. So all who wait came before any
	// logout that is not known by now. What was found in the memory must still be
	// there: a logout that was on its way through it does not count as new.
	l.m.memory.questions.End(l.digest, l.question)
	if tok != nil && (l.m.memory.isForgottenSince(tok, l.forgets) || l.isMemory && !l.m.memory.has(tok)) {
		tok = nil                       // ask anew: its session ended while we asked
		if s, ok := err.(*spoilt); ok { //nolint:errorlint // it comes as it is
			err = &spoilt{s.panicked, flight.ErrOver}
		} else {
			err = flight.ErrOver
		}
	}
	return tok, err
}

// find finds out about the token. A panic is told here if no request is there
// to tell of it.
func (l *lookup) find(ctx context.Context) (tok *Token, err error) {
	decided := false
	defer func() {
		if !decided && l.unattended.Load() {
			l.m.log.unattended(err)
		}
	}()
	defer failure.Recover(&decided, &err)
	tok, err = l.answer(ctx)
	decided = true
	return tok, err
}

// answer takes the answer from the memory, the Store or the server.
func (l *lookup) answer(ctx context.Context) (*Token, error) {
	l.forgets = l.m.memory.cutoffs.Claims() // first: what is forgotten from here on covers the answer
	if tok, err := l.answeredMeanwhile(); tok != nil || err != nil {
		l.isMemory = true
		return tok, err
	}
	if tok := l.copied(ctx); tok != nil {
		l.isCopy = true
		return tok, nil
	}
	r, err := l.ask(ctx)
	if err != nil {
		return nil, l.rememberFailure(err)
	}
	l.m.memory.questions.Answered(l.question, l.m.memory.life(time.Time{}, r.Answer, l.askedAt).End())
	tok, err := l.verify(ctx, r)
	if err != nil {
		return nil, l.rememberFailure(err)
	}
	life := l.m.memory.life(tok.Expiry(), r.Answer, l.askedAt)
	l.m.memory.questions.Answered(l.question, life.End())
	l.m.memory.remember(l.question, tok, life, l.forgets)
	if !l.m.memory.isForgottenSince(tok, l.forgets) {
		l.share(r, life.End())
	}
	return tok, nil
}

// answeredMeanwhile finds the answer of an earlier flight that ended after the
// caller looked into the memory.
func (l *lookup) answeredMeanwhile() (*Token, error) {
	if l.refresh {
		return nil, nil
	}
	switch found := l.m.memory.look(&l.digest); found.State {
	case cache.No:
		return nil, found.Why
	case cache.Fresh:
		return found.Value, nil
	default:
		return nil, nil
	}
}

// ask asks the authorization server, once the gate permits. Without
// introspection, the token itself is the JWT.
func (l *lookup) ask(ctx context.Context) (r *reply, err error) {
	if l.m.authority.ask == nil { // what is no JWT is refused without keys
		l.put()
		return &reply{Answer: &introspection.Answer{JWT: l.token, MaxAge: -1}}, nil
	}
	if err := l.m.authority.ready(); err != nil {
		return nil, err
	}
	arrived := time.Now()
	err = l.m.authority.gate.Do(ctx, l.class, gate.Token(l.digest), func(ctx context.Context) (err error) {
		l.put()
		l.waited = time.Since(arrived)
		r, err = l.m.authority.question(ctx, l.token)
		l.m.authority.watch(err)
		if !l.m.memory.questions.InTime(l.question) {
			// A hook was deaf to its context, or the machine slept: the answer may
			// be older than anybody waits for.
			f := failure.Because(failure.Unavailable, "timeout", context.DeadlineExceeded)
			f.Unanswered = true
			return f
		}
		return err
	})
	if l.askedAt == (clock.Instant{}) {
		l.waited = time.Since(arrived)
	}
	return r, err
}

// put takes note that the question is put to the server now.
func (l *lookup) put() {
	l.forgets = l.m.memory.cutoffs.Claims() // first, as above
	l.askedAt = l.m.memory.questions.Put(l.question)
}

// verify makes the Token of a reply.
func (l *lookup) verify(ctx context.Context, r *reply) (*Token, error) {
	v, err := l.m.authority.verifyReply(ctx, r)
	if err != nil {
		return nil, err
	}
	return newToken(l.m, l.digest, v, r), nil
}

// rememberFailure remembers a refusal that will last: the server's word
// "inactive" above all. Any other verdict removes what was known before. The
// absence of a verdict, lasting or not, leaves an entry alone.
func (l *lookup) rememberFailure(err error) error {
	err = failure.Of(err).Without(l.token)
	if l.unattended.Load() {
		l.m.log.unattended(l.m.authority.explain(err, l.class))
	}
	if failure.Of(err).Class == failure.Inactive {
		l.retract()
	}
	switch f := failure.Of(err); {
	case !f.IsVerdict() && l.hasEntry:
	case f.Lasting || f.Class == failure.Inactive:
		l.m.memory.rememberRefusal(l.digest, l.question, f, l.askedAt)
	case f.IsVerdict():
		l.m.memory.tokens.Remove(&l.digest)
	}
	return err
}
