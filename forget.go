package phantom

import (
	"cmp"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"

	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/fleet"
)

// Forget drops what m remembers about an opaque token. It is for logout and
// revocation webhooks. The result of a lookup under way is not remembered
// either.
//
// With a [Broadcaster] ([WithStore]) the other replicas forget it too. The
// error, an [*Error] that wraps [ErrUnavailable], says that they could not be
// told within a second: then they may serve it until [WithMaxTTL] is over. With
// a mere Store, only what is stored goes, and the error is nil, as it is
// without a Store. [Middleware.Purge], [Middleware.ForgetSession] and
// [Middleware.ForgetSubject] then reach this process alone.
func (m *Middleware) Forget(token string) error {
	return m.forget(func(member *Middleware) func() error {
		return member.forgetDigest(member.digests.of(token))
	})
}

// Forget drops what the Middleware remembers about the opaque token behind t,
// for handlers that end a session. It does what [Middleware.Forget] does, the
// error included.
func (t *Token) Forget() error { return t.owner.forgetDigest(t.digest())() }

func (m *Middleware) forgetDigest(d digest) (tell func() error) {
	m.memory.forget(d, m.memory.clock.Now())
	return func() error { return m.shared.tell(&d, fleet.OneToken, d[:]) }
}

// Purge is Forget for every token. Nothing is deleted in a Store, but no
// replica takes what it has from before.
func (m *Middleware) Purge() error {
	return m.forget(func(member *Middleware) func() error {
		member.memory.purge(member.memory.clock.Now())
		return func() error { return member.shared.tell(nil, fleet.AllTokens, nil) }
	})
}

// forget has each member forget something, and only then tell the others.
func (m *Middleware) forget(local func(member *Middleware) (tell func() error)) error {
	var tellings []func() error
	m.each(func(member *Middleware) {
		if tell := local(member); member.shared != nil {
			tellings = append(tellings, tell)
		}
	})
	told := make(chan error, len(tellings))
	for _, tell := range tellings {
		go func() { told <- tell() }()
	}
	var first error
	for range tellings {
		if err := <-told; first == nil {
			first = err
		}
	}
	return first
}

// ForgetSession is Forget for all tokens whose sid is that of the session: that
// claim of the JWT or, if the answer itself is judged ([WithMinter],
// [WithoutJWT], [WithTokenExchange]), that member of the answer. Tokens without
// a sid stay, see [Middleware.ForgetSubject]. An empty sid is an error.
func (m *Middleware) ForgetSession(sid string) error { return m.forgetNamed(named{fleet.Session, sid}) }

// ForgetSubject is Forget for all tokens of the subject ([Token.Subject]). An
// empty sub is an error.
func (m *Middleware) ForgetSubject(sub string) error { return m.forgetNamed(named{fleet.Subject, sub}) }

var errEmptyClaim = errors.New("phantom: an empty sid or sub names no tokens")

// A named claim, of a kind that has one.
type named struct {
	kind fleet.Kind
	text string
}

func (m *Middleware) forgetNamed(all ...named) error {
	for _, one := range all {
		if one.text == "" {
			return errEmptyClaim
		}
	}
	return m.forget(func(member *Middleware) func() error {
		claims := make([]fleet.Claim, len(all))
		for i, one := range all {
			claims[i] = member.memory.seal.Claim(one.kind, one.text)
		}
		<-member.memory.forgetClaims(member.memory.clock.Now(), claims...)
		return func() error {
			errs := make([]error, len(all))
			var tellings sync.WaitGroup
			for i, one := range all {
				tellings.Go(func() { errs[i] = member.shared.tell(nil, one.kind, claims[i][:]) })
			}
			tellings.Wait()
			return cmp.Or(errs...)
		}
	})
}

// forgetClaims drops what is known of all tokens that have one of the claims.
// Answers of lookups under way about such tokens do not count any more. What is
// remembered is gone when the channel is closed.
func (m *memory) forgetClaims(before clock.Instant, claims ...fleet.Claim) (gone <-chan struct{}) {
	for _, claim := range claims {
		m.cutoffs.Claim(claim, before)
	}
	return m.sweeps.add(m, claims)
}

// sweeps look through the memory for tokens that have a claim. One goroutine at
// a time does so, for all claims that came meanwhile: many logouts must not
// take all processors, nor hold up the notes about single tokens.
type sweeps struct {
	mu         sync.Mutex
	claims     []fleet.Claim
	gone       chan struct{} // of these claims
	isUnderWay bool
}

func (s *sweeps) add(m *memory, claims []fleet.Claim) (gone <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = make(chan struct{})
	}
	s.claims = append(s.claims, claims...)
	if !s.isUnderWay {
		s.isUnderWay = true
		go s.run(m)
	}
	return s.gone
}

func (s *sweeps) run(m *memory) {
	for {
		runtime.Gosched() // who is about to come need not wait for the next sweep
		s.mu.Lock()
		claims, gone := s.claims, s.gone
		s.claims, s.gone = nil, nil
		if s.isUnderWay = gone != nil; !s.isUnderWay {
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		m.removeClaims(claims)
		close(gone)
	}
}

// removeClaims looks at all tokens. It parses none but those whose tag fits.
func (m *memory) removeClaims(claims []fleet.Claim) {
	wanted, tags := map[fleet.Claim]bool{}, map[claimTag]bool{}
	for _, claim := range claims {
		wanted[claim], tags[tagOf(claim)] = true, true
	}
	m.tokens.RemoveIf(func(t *Token) bool {
		if !tags[t.claimTags[0]] && !tags[t.claimTags[1]] {
			return false
		}
		for _, claim := range m.claimsOf(t) {
			if wanted[claim] {
				return true
			}
		}
		return false
	})
}

// A claimTag is the beginning of a [fleet.Claim]. It tells most of them apart.
type claimTag uint32

func tagOf(claim fleet.Claim) claimTag { return claimTag(binary.BigEndian.Uint32(claim[:])) }

// claimsOf returns the claims by which a token can be forgotten.
func (m *memory) claimsOf(t *Token) [2]fleet.Claim { return m.claimsFor(t.Subject(), t.said("sid")) }

// claimsFor is claimsOf for a token with these claims; no sid is empty.
func (m *memory) claimsFor(sub, sid string) [2]fleet.Claim {
	second := m.seal.Claim(fleet.Sessionless, sub)
	if sid != "" {
		second = m.seal.Claim(fleet.Session, sid)
	}
	return [2]fleet.Claim{m.seal.Claim(fleet.Subject, sub), second}
}

// isForgottenSince reports whether tokens with a claim of this one were
// forgotten since there were so many forgets.
func (m *memory) isForgottenSince(t *Token, forgets uint64) bool {
	if !m.cutoffs.HaveClaims() {
		return false
	}
	claims := m.claimsOf(t)
	return m.cutoffs.CoverClaimSince(claims[:], forgets)
}

// isForgotten is isForgottenSince for a question that another replica put.
func (m *memory) isForgotten(t *Token, asked clock.Instant) bool {
	if !m.cutoffs.HaveClaims() {
		return false
	}
	claims := m.claimsOf(t)
	return m.cutoffs.CoverClaim(claims[:], asked)
}
