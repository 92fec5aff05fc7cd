package phantom

import (
	"context"
	"log/slog"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/gate"
	"github.com/phantom-token/phantom/internal/upstream"
)

// What is known of the server for the log alone: where it is, and what the last
// lookup met there.

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
