package phantom

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
	"github.com/phantom-token/phantom/internal/gate"
)

// Warm fetches the metadata and the key set in advance, unless the options make
// that needless, so that the first request does not wait. Then it asks the
// authorization server about a random token, within [WithTimeout], and so
// proves the credentials of [WithClientAuth]: that the server calls the token
// inactive is right. Credentials that it refuses, a 404 or 5xx of the endpoint,
// and any other answer that could not be used for a request are Warm's error.
//
// A [WithIntrospector] is asked in the same way. A [WithMinter] and the token
// endpoint of [WithTokenExchange] are not: they are for tokens that are active.
// With [WithoutIntrospection] there is nothing to ask. A dispatcher warms all
// its members, and returns the first error.
//
// Calling it is optional. The error is an [*Error], which names the endpoint;
// later requests retry what failed. Each call asks the server once.
func (m *Middleware) Warm(ctx context.Context) error {
	var first error
	m.each(func(member *Middleware) {
		if err := member.authority.prepare(ctx); err != nil && first == nil {
			first = rejection(m.blame(member, err))
		}
	})
	return first
}

func (a *authority) prepare(ctx context.Context) (err error) {
	decided := false
	defer failure.Recover(&decided, &err)
	for _, fetch := range a.warm {
		if err = fetch(ctx); err != nil {
			break
		}
	}
	if err == nil && a.ask != nil {
		err = a.probe(ctx)
	}
	decided = true
	return err
}

// probe asks about a random token. Like a lookup, it is a flight: a hook may be
// deaf to its context, or end its goroutine.
func (a *authority) probe(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return failure.Because(failure.Unavailable, failure.CallerLeft, err)
	}
	_, err := flight.New[struct{}](a.timeout).Do(ctx, "", func(ctx context.Context) (none struct{}, err error) {
		return none, a.gate.Do(ctx, gate.NewToken, gate.Token{}, a.askAtRandom)
	})
	if err == nil || failure.Of(err).IsVerdict() {
		return nil
	}
	return a.explain(err, gate.NewToken)
}

// askAtRandom asks about a token that cannot be a good one, and reads the
// answer.
func (a *authority) askAtRandom(ctx context.Context) error {
	answer, err := a.ask(ctx, rand.Text())
	if err == nil && a.signedAudience != "" {
		r := &reply{Answer: answer}
		if err = a.open(ctx, r, time.Now()); err == nil {
			err = r.noKeys
		}
	}
	a.watch(err)
	return err
}
