package phantom

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/flight"
	"github.com/phantom-token/phantom/internal/gate"
	"github.com/phantom-token/phantom/internal/upstream"
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

// watch takes note of what a lookup met at the server.
func (a *authority) watch(err error) {
	if err != nil {
		if f := failure.Of(err); f.IsOutage() {
			a.outage.Store(f)
			return
		}
	}
	if a.outage.Load() != nil {
		a.outage.Store(nil)
	}
}

// placed takes note of the introspection endpoint.
func (a *authority) placed(endpoint func(context.Context) (string, error)) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		url, err := endpoint(ctx)
		if err != nil {
			return "", err
		}
		if shown, known := upstream.Shown(url), a.place.Load(); known == nil || known.URL != shown {
			a.place.Store(&failure.Facts{Endpoint: failure.Introspection, URL: shown})
		}
		return url, nil
	}
}

// where names the introspection endpoint in a line.
func (a *authority) where() []slog.Attr {
	at := a.place.Load()
	if at == nil {
		return nil
	}
	return []slog.Attr{slog.String("endpoint", at.Endpoint), slog.String("url", at.URL)}
}

// explain adds, for the log, what a lookup that was not let to the server, or
// got no answer in its time, cannot say itself: where it would have gone, and
// what the last one met there.
func (a *authority) explain(err error, class gate.Class) error {
	f := failure.Of(err)
	if f.Facts != nil || f.Class != failure.Unavailable || f.Carried != nil || f.Detail == failure.CallerLeft {
		return err
	}
	facts := failure.Facts{Tokens: "new"}
	if class == gate.KnownToken {
		facts.Tokens = "known"
	}
	if at := a.place.Load(); at != nil {
		facts.Endpoint, facts.URL = at.Endpoint, at.URL
	}
	if last := a.outage.Load(); last != nil {
		facts.Words = last.Error()
		if met := last.Facts; met != nil {
			if met.Endpoint != "" {
				facts.Endpoint, facts.URL = met.Endpoint, met.URL
			}
			if met.Words != "" {
				facts.Words += ": " + met.Words
			}
		}
	}
	own := *f
	own.Facts = &facts
	return &own
}
