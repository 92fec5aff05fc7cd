package phantom

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

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
		cache := "miss"
		if hit {
			cache = "hit"
		}
		// Short enough to tell nothing, long enough to follow a token in a log.
		attrs = append(attrs, slog.String("cache", cache), slog.String("token", hex.EncodeToString(tok.digest[:4])))
	}
	l.logger.LogAttrs(ctx, slog.LevelDebug, "phantom: ok", attrs...)
}

// rejected logs a rejection; those that are nobody's verdict at most once per
// logPause and reason.
func (l *eventLog) rejected(ctx context.Context, e *Error) {
	k := e.kind()
	if k.status >= 500 && !l.due(string(e.Reason)+e.Detail, logPause) {
		return
	}
	l.write(ctx, k.level, "phantom: request rejected", e, slog.Int("status", k.status))
}

// stale logs that an outage is being bridged.
func (l *eventLog) stale(ctx context.Context, e *Error) {
	if l.due("stale", logPause) {
		l.write(ctx, slog.LevelWarn, "phantom: serving stale entries while the authorization server is unavailable", e)
	}
}

// notRenewed logs that a document of the authorization server could not be
// renewed and that the previous one stays in use.
func (l *eventLog) notRenewed(level slog.Level, document string, e *Error) {
	if l.due(document, logPause) {
		l.write(context.Background(), level, "phantom: cannot renew the "+document+" of the authorization server", e)
	}
}

func (l *eventLog) write(ctx context.Context, level slog.Level, msg string, e *Error, attrs ...slog.Attr) {
	if l.logger == nil {
		return
	}
	attrs = append(attrs, slog.String("reason", string(e.Reason)), slog.String("issuer", l.issuer))
	if e.Detail != "" {
		attrs = append(attrs, slog.String("detail", e.Detail))
	}
	var p *panicError
	if errors.As(e.Err, &p) {
		attrs = append(attrs, slog.String("panic", p.text), slog.String("stack", string(p.stack)))
	}
	l.logger.LogAttrs(ctx, level, msg, attrs...)
}

// droppedKeys logs the keys of a key set that are not used.
func (l *eventLog) droppedKeys(dropped []error) {
	for _, err := range dropped {
		level := slog.LevelWarn
		if errors.Is(err, jose.ErrPrivateKey) {
			level = slog.LevelError
		}
		// Once, not at each refresh.
		if l.due("key: "+err.Error(), math.MaxInt64) {
			l.logger.LogAttrs(context.Background(), level, "phantom: a key of the issuer is not used",
				slog.String("detail", err.Error()), slog.String("issuer", l.issuer))
		}
	}
}

// due reports whether the last line about the topic, if any, is long enough
// ago for another one.
func (l *eventLog) due(topic string, pause time.Duration) bool {
	if l.logger == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[topic]; ok && now.Sub(last) < pause {
		return false
	}
	// Topics are fixed texts, few; the bound is against surprises.
	if l.last == nil || len(l.last) >= 256 {
		l.last = map[string]time.Time{}
	}
	l.last[topic] = now
	return true
}
