package phantom

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/issuer"
	"github.com/phantom-token/phantom/internal/jose"
)

// logPause is the time between two lines about the same trouble.
const logPause = 10 * time.Second

// eventLog writes what operators must know. No line holds a token, a JWT, a
// secret, or anything that a client or the authorization server wrote.
type eventLog struct {
	logger *slog.Logger // nil: nothing is logged
	issuer string
	mu     sync.Mutex
	last   map[string]time.Time
}

// admitted logs a request that was let through, with a token or as an anonymous
// one. It costs nothing without a logger.
func (l *eventLog) admitted(ctx context.Context, tok *Token, hit bool) {
	if l.logger == nil || !l.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("issuer", l.issuer)}
	if tok != nil {
		attrs[0] = slog.String("issuer", tok.Issuer()) // of a dispatcher's member
		cache := "miss"
		if hit {
			cache = "hit"
		}
		// Short enough to tell nothing, long enough to follow a token in a log.
		d := tok.digest()
		attrs = append(attrs, slog.String("cache", cache), slog.String("token", hex.EncodeToString(d[:4])))
	}
	l.logger.LogAttrs(ctx, slog.LevelDebug, "phantom: ok", attrs...)
}

// rejected logs a rejection. What an operator has to mend has one line per
// logPause for each reason and detail.
func (l *eventLog) rejected(ctx context.Context, e *Error) {
	k := e.kind()
	if l.logger == nil || !l.logger.Enabled(ctx, k.level) ||
		k.level >= slog.LevelWarn && !l.mayLog(string(e.Reason)+e.Detail, logPause) {
		return
	}
	l.write(ctx, k.level, "phantom: request rejected", e, slog.Int("status", k.status))
}

// unprotected logs that plain http is permitted for answers that are not
// signed: anyone on the path can write identities.
func (l *eventLog) unprotected() {
	if l.logger != nil {
		l.logger.LogAttrs(context.Background(), slog.LevelWarn,
			"phantom: WithInsecureHTTP permits unsigned answers without TLS: anyone on the path can write identities",
			slog.String("issuer", l.issuer))
	}
}

// stale logs that an outage is being bridged.
func (l *eventLog) stale(ctx context.Context, outage error) {
	if l.mayLog("stale", logPause) {
		const msg = "phantom: serving stale entries while the authorization server is unavailable"
		l.write(ctx, slog.LevelWarn, msg, rejection(outage))
	}
}

// storeTrouble logs that a call to the Store did not work. What the Store said
// is its own: the text could contain anything.
func (l *eventLog) storeTrouble(call string, err error) {
	if !l.mayLog("store "+call, logPause) {
		return
	}
	detail := "error"
	if errors.Is(err, context.DeadlineExceeded) {
		detail = "no answer in time"
	}
	l.logger.LogAttrs(context.Background(), slog.LevelWarn, "phantom: the Store fails; replicas share less meanwhile",
		slog.String("call", call), slog.String("detail", detail), slog.String("issuer", l.issuer))
}

// copyRefused logs that a copy in the Store does not pass a check.
func (l *eventLog) copyRefused(detail string) {
	if l.mayLog("copy "+detail, logPause) {
		l.logger.LogAttrs(context.Background(), slog.LevelWarn, "phantom: a copy in the Store is refused",
			slog.String("detail", detail), slog.String("issuer", l.issuer))
	}
}

// notRenewed logs that a document of the authorization server could not be
// renewed and that the previous one stays in use.
func (l *eventLog) notRenewed(document string, f *failure.Error) {
	level := slog.LevelWarn
	if document == issuer.MetadataDocument && f.Class == failure.Protocol {
		level = slog.LevelError // it will not pass by itself, and may be an attack
	}
	if l.mayLog(document, logPause) {
		msg := "phantom: cannot renew the " + document + " of the authorization server"
		l.write(context.Background(), level, msg, rejection(f))
	}
}

func (l *eventLog) write(ctx context.Context, level slog.Level, msg string, e *Error, attrs ...slog.Attr) {
	if l.logger == nil {
		return
	}
	attrs = append(attrs, slog.String("reason", string(e.Reason)), slog.String("issuer", cmp.Or(e.issuer, l.issuer)))
	if e.Detail != "" {
		attrs = append(attrs, slog.String("detail", e.Detail))
	}
	var p *failure.Panic
	if errors.As(e.Err, &p) {
		attrs = append(attrs, slog.String("panic", p.Text), slog.String("stack", string(p.Stack)))
	}
	l.logger.LogAttrs(ctx, level, msg, attrs...)
}

// keysDropped logs why keys of a key set are not used.
func (l *eventLog) keysDropped(reasons []error) {
	for _, err := range reasons {
		level := slog.LevelWarn
		if errors.Is(err, jose.ErrPrivateKey) {
			level = slog.LevelError
		}
		// Once, not at each refresh.
		if l.mayLog("key: "+err.Error(), math.MaxInt64) {
			l.logger.LogAttrs(context.Background(), level, "phantom: a key of the issuer is not used",
				slog.String("detail", err.Error()), slog.String("issuer", l.issuer))
		}
	}
}

// mayLog reports whether the last line about the topic, if any, is old enough
// for another one.
func (l *eventLog) mayLog(topic string, pause time.Duration) bool {
	if l.logger == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[topic]; ok && now.Sub(last) < pause {
		return false
	}
	// Topics are a few fixed texts. The bound guards against surprises.
	if l.last == nil || len(l.last) >= 256 {
		l.last = map[string]time.Time{}
	}
	l.last[topic] = now
	return true
}
