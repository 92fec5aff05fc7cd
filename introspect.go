package phantom

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/phantom-token/phantom/internal/cache"
	"github.com/phantom-token/phantom/internal/clock"
	"github.com/phantom-token/phantom/internal/failure"
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
// 503. A 503 with a RetryAfter of more than a second holds back all lookups,
// for 30 s at most.
//
// A Middleware calls Introspect at most once at a time for one token, unless
// the token is forgotten in between. The context ends with [WithTimeout].
// Introspect must be safe for concurrent use.
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
	// MaxAge bounds how long the answer may be kept; negative if the server
	// did not say, 0 if it may not be kept at all.
	MaxAge time.Duration
}

// askWith asks an Introspector and reads the members of its answer.
func askWith(ctx context.Context, introspector Introspector, token string) (*introspection.Answer, error) {
	said, err := introspector.Introspect(ctx, token)
	switch {
	case err != nil:
		f := translate(err, failure.Unavailable, "Introspector")
		f.Unanswered = f.Class == failure.Unavailable
		return nil, f
	case said == nil:
		return nil, failure.New(failure.Protocol, "no answer of the Introspector")
	case !said.Active:
		return &introspection.Answer{}, nil
	}
	answer := &introspection.Answer{
		Active: true, JWT: said.JWT, Text: said.Claims, Expiry: said.Expiry, MaxAge: said.MaxAge,
	}
	if len(said.Claims) > 0 {
		if answer.Members, err = jose.ParseObject(said.Claims); err != nil {
			return nil, failure.New(failure.Protocol, "introspection claims: not strict JSON")
		}
	}
	return answer, nil
}

// A lookup asks the authorization server about one token, verifies the answer
// and remembers it.
type lookup struct {
	m          *Middleware
	token      string
	digest     digest
	generation cache.Generation
	wasGood    bool // the token was verified before: its lookup has priority
	refresh    bool // the entry is still good and renewed ahead of its end
	askedAt    clock.Instant
}

// key names the flight. A Forget or Purge changes it, so that no later lookup
// joins an older flight.
func (l *lookup) key() string {
	return string(binary.BigEndian.AppendUint64(l.digest[:], uint64(l.generation)))
}

// run is the flight that all requests with the token share.
func (l *lookup) run(ctx context.Context) (*Token, error) {
	if tok, err := l.answeredMeanwhile(); tok != nil || err != nil {
		return tok, err
	}
	answer, err := l.ask(ctx)
	if err != nil {
		return nil, l.rememberFailure(err)
	}
	tok, err := l.verify(ctx, answer)
	if err != nil {
		return nil, l.rememberFailure(err)
	}
	l.m.memory.remember(l.digest, l.generation, tok, answer, l.askedAt)
	return tok, nil
}

// answeredMeanwhile returns the result of an earlier flight that ended after
// this lookup's first look into the memory.
func (l *lookup) answeredMeanwhile() (*Token, error) {
	if l.refresh {
		return nil, nil
	}
	switch found := l.m.memory.look(l.digest); found.State {
	case cache.No:
		return nil, failure.New(failure.Inactive, "")
	case cache.Fresh:
		return found.Value, nil
	default:
		return nil, nil
	}
}

// ask asks the authorization server once the gate permits it.
func (l *lookup) ask(ctx context.Context) (answer *introspection.Answer, err error) {
	class := gate.NewToken
	if l.wasGood {
		class = gate.KnownToken
	}
	err = l.m.authority.gate.Do(ctx, class, func(ctx context.Context) (err error) {
		l.askedAt = l.m.memory.clock.Now()
		answer, err = l.m.authority.ask(ctx, l.token)
		return err
	})
	if err == nil && !answer.Active {
		err = failure.New(failure.Inactive, "")
	}
	return answer, err
}

// verify makes the Token of an answer.
func (l *lookup) verify(ctx context.Context, answer *introspection.Answer) (*Token, error) {
	key, set, err := l.m.authority.verifyAnswer(ctx, answer)
	if err != nil {
		return nil, err
	}
	return newToken(l.m, l.digest, key, answer.JWT, set, answer.Text), nil
}

// rememberFailure remembers the server's word "inactive". Any other verdict
// drops what was remembered; the absence of one changes nothing.
func (l *lookup) rememberFailure(err error) error {
	switch f := failure.From(err, failure.Internal, ""); {
	case f.Class == failure.Inactive:
		l.m.memory.rememberInactive(l.digest, l.generation, l.askedAt)
	case f.IsVerdict():
		l.m.memory.tokens.Remove(l.digest)
	}
	return err
}
