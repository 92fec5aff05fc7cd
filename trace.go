package phantom

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
)

// A Trace is told what a Middleware does, for metrics, spans and audits. Every
// function may be nil. All are called by many goroutines at once, and hold up
// what they are told of: be quick.
//
// A function that panics has its own request refused with 500, and no other.
// What was remembered by then stays.
type Trace struct {
	// Attach is called once, by [New] or [Dispatch], if it returns no error. What
	// it gets is [Middleware.Stats], until the Middleware is not used any more:
	// from then on ok is false. To keep the function does not keep the Middleware
	// alive.
	Attach func(stats func() (s Stats, ok bool))

	// LookupStart is called before a lookup, in the goroutine of the request, or
	// the caller of [Middleware.Verify] or [Middleware.Authenticate], that starts
	// it, with the context of that one. It is not called for those who join. What
	// it returns is the context of the lookup, less cancellation and deadline: an
	// [Introspector], a [Minter], a [KeySet], a [ClientAuth] and the transport of
	// [WithHTTPClient] see its values.
	//
	// A lookup can outlive the request, and many may share it. Some routers use
	// the values of a request's context again for the next request. So take what
	// you need out of ctx, and return [context.Background] with that. Without a
	// LookupStart, a lookup has no value of any request. The fetches of keys and
	// metadata never have any.
	//
	// With several Traces, each finds in its ctx also what those before have
	// returned, and the lookup has the values of all.
	LookupStart func(ctx context.Context) context.Context

	// LookupDone is called at the end of each lookup for which LookupStart was
	// called, before anyone gets the result. The context is that of the lookup.
	// Of several Traces the last one comes first.
	LookupDone func(ctx context.Context, l Lookup)

	// Decided is called for each request to a handler of the Middleware, with its
	// context: before the next handler, or before the rejection is written. A
	// request that passes two handlers comes twice. It is not called for Verify,
	// Authenticate and [Middleware.Reject].
	Decided func(ctx context.Context, d Decision)
}

// A Lookup is what a [Trace] is told of one.
type Lookup struct {
	Shared   bool          // the answer was a copy out of the [Store]: the server was not asked
	Refresh  bool          // it renewed a token that was still remembered: no request waited for it
	Duration time.Duration // all of it
	Waited   time.Duration // of this, for a place at the server ([WithMaxInFlight])
	Err      *Error        // nil: it found a verified token. Do not change it.
}

// A Decision is what a [Trace] is told of a request.
type Decision struct {
	// Token is the verified token. It is nil for an anonymous request, and for one
	// that was rejected before its token was verified.
	Token *Token
	// Outcome says what was remembered of the token.
	Outcome Outcome
	// Err is the rejection; nil if the request was let through. Do not change it.
	Err *Error
}

// An Outcome says what was found of a token in the memory.
type Outcome string

// The outcomes.
const (
	OutcomeHit      Outcome = "hit"      // it was remembered
	OutcomeStale    Outcome = "stale"    // it served past its life, in an outage ([WithStaleIfError])
	OutcomeNegative Outcome = "negative" // its refusal was remembered
	OutcomeMiss     Outcome = "miss"     // nothing was: a lookup had to find out
	OutcomeNone     Outcome = "none"     // the memory was not asked: there is no token, it is malformed, or the context had it
)

// WithTrace adds a [Trace], of which it takes a copy. Default: none.
func WithTrace(t *Trace) Option {
	if t != nil {
		own := *t
		t = &own
	}
	return with("WithTrace", func(c *config) { c.traces = append(c.traces, t) })
}

// hooks are the functions of all Traces, in the order in which they are called.
type hooks struct {
	lookups bool // there is a start or a done
	start   []func(context.Context) context.Context
	done    []func(context.Context, Lookup)
	decided []func(context.Context, Decision)
}

func newHooks(traces []*Trace) hooks {
	var h hooks
	for _, t := range traces {
		if t.LookupStart != nil {
			h.start = append(h.start, t.LookupStart)
		}
		if t.LookupDone != nil {
			h.done = slices.Insert(h.done, 0, t.LookupDone)
		}
		if t.Decided != nil {
			h.decided = append(h.decided, t.Decided)
		}
	}
	h.lookups = len(h.start)+len(h.done) > 0
	return h
}

// rejected tells the Traces that a request is rejected. It returns why: for the
// reason given, or because one of them panicked.
func (h *hooks) rejected(ctx context.Context, tok *Token, outcome Outcome, why error) (err error) {
	if h.decided == nil {
		return why
	}
	told := false
	defer failure.Recover(&told, &err)
	for _, decided := range h.decided {
		decided(ctx, Decision{Token: tok, Outcome: cmp.Or(outcome, OutcomeNone), Err: rejection(why)})
	}
	told = true
	return why
}

// begin calls LookupStart if it is this request that starts the lookup. Those
// who have joined wait for that; if it fails, they ask anew.
func (l *lookup) begin(ctx context.Context) (err error) {
	if l.joined || !l.m.hooks.lookups {
		return nil
	}
	var base context.Context
	begun := false
	defer func() { l.m.memory.questions.Release(l.digest, l.question, base) }()
	defer failure.Recover(&begun, &err)
	of := context.Background()
	for _, start := range l.m.hooks.start {
		of = &valuesOf{of, context.WithoutCancel(start(&valuesOf{ctx, of}))}
	}
	base = of
	begun = true
	return nil
}

// A valuesOf is a context with the values of another one too, which come first.
type valuesOf struct {
	context.Context
	other context.Context
}

// Value returns the value for the key.
func (c *valuesOf) Value(key any) any {
	if v := c.other.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// fly joins or starts the lookup's flight and waits for its end.
func (l *lookup) fly(ctx context.Context) (*Token, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	tok, err := l.m.flights.Do(ctx, l.question.Key(), l.run)
	if s, ok := err.(*spoilt); ok { //nolint:errorlint // it comes as it is
		if !l.joined {
			return nil, s.panicked
		}
		return tok, s.found
	}
	return tok, err
}

// A spoilt is the error of a flight after which a LookupDone panicked. That is
// for the request that started the lookup. Those who joined get what was found.
type spoilt struct{ panicked, found error }

func (s *spoilt) Error() string { return s.panicked.Error() }

// traced is find with the context that LookupStart returned. It calls
// LookupDone, also if a hook panics or ends its goroutine.
func (l *lookup) traced(ctx, base context.Context) (tok *Token, err error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(base, deadline)
	defer cancel()
	began := time.Now()
	defer func() {
		told := Lookup{Shared: l.isCopy, Refresh: l.refresh, Duration: time.Since(began), Waited: l.waited}
		if tok == nil && err != nil {
			told.Err = rejection(err)
		}
		if panicked := l.m.hooks.end(ctx, told); panicked != nil {
			if l.refresh { // there is no request to refuse
				l.m.log.tracePanicked(panicked)
			}
			err = &spoilt{panicked, err}
		}
	}()
	decided := false
	defer failure.Recover(&decided, &err)
	tok, err = l.find(ctx)
	decided = true
	return tok, err
}

// end tells the Traces of a lookup. The error is that of a hook that panicked.
func (h *hooks) end(ctx context.Context, l Lookup) (panicked error) {
	for _, done := range h.done {
		if err := tell(ctx, done, l); err != nil && panicked == nil {
			panicked = err
		}
	}
	return panicked
}

func tell(ctx context.Context, done func(context.Context, Lookup), l Lookup) (err error) {
	told := false
	defer failure.Recover(&told, &err)
	done(ctx, l)
	told = true
	return nil
}
