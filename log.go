package phantom

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/phantom-token/phantom/internal/failure"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/internal/upstream"
)

// The lines of the log. docs/operating.md says of each what it means and what
// to do.
const (
	msgAdmitted           = "phantom: ok"
	msgRejected           = "phantom: request rejected"
	msgLogoutRejected     = "phantom: logout token rejected"
	msgUnattended         = "phantom: a lookup failed that no request waits for"
	msgTracePanicked      = "phantom: a Trace panicked"
	msgStale              = "phantom: serving stale entries while the authorization server is unavailable"
	msgAnswersAgain       = "phantom: the authorization server answers again"
	msgMetadataNotRenewed = "phantom: cannot renew the metadata of the authorization server"
	msgKeysNotRenewed     = "phantom: cannot renew the key set of the authorization server"
	msgMetadataAgain      = "phantom: the metadata of the authorization server are there again"
	msgKeysAgain          = "phantom: the key set of the authorization server is there again"
	msgKeyNotUsed         = "phantom: a key of the issuer is not used"
	msgStoreFails         = "phantom: the Store fails; replicas share less meanwhile"
	msgStoreAgain         = "phantom: the Store works again"
	msgCopyRefused        = "phantom: a copy in the Store is refused"
	msgUnprotected        = "phantom: WithInsecureHTTP permits unsigned answers without TLS: " +
		"anyone on the path can write identities"
)

// eventLog writes what operators must know. No line holds a token, a JWT, a
// secret, or anything that a client wrote. Of what the authorization server
// wrote, it has addresses at most.
type eventLog struct {
	logger *slog.Logger // nil: slog's default
	issuer string
	named  bool // an ErrorHandler or a Trace may ask for a token's digest
	pacer  pacer

	mu       sync.Mutex
	keysSaid map[string]bool // why keys are not used
}

// asksForTokens reports whether somebody may call TokenDigest.
func (c *config) asksForTokens() bool {
	return c.errorHandler != nil || slices.ContainsFunc(c.traces, func(t *Trace) bool { return t.Decided != nil })
}

// to returns the logger. The default may be another one at each line.
func (l *eventLog) to() *slog.Logger {
	if l.logger != nil {
		return l.logger
	}
	return slog.Default()
}

// shortDigest is short enough to tell nothing, and long enough to follow a
// token in a log.
func shortDigest(d digest) string { return hex.EncodeToString(d[:4]) }

// admitted logs a request that was let through, with a token or as an anonymous
// one. It costs next to nothing if DEBUG is not logged.
func (l *eventLog) admitted(ctx context.Context, tok *Token, hit bool) {
	logger := l.to()
	if !logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{slog.String("issuer", l.issuer)}
	if tok != nil {
		attrs[0] = slog.String("issuer", tok.Issuer()) // of a dispatcher's member
		cache := "miss"
		if hit {
			cache = "hit"
		}
		attrs = append(attrs, slog.String("cache", cache), slog.String("token", shortDigest(tok.digest())))
	}
	logger.LogAttrs(ctx, slog.LevelDebug, msgAdmitted, attrs...)
}

// about names the token in an error, if a line may be written about it, or the
// user may ask.
func (l *eventLog) about(ctx context.Context, d digest, err error) error {
	f := failure.Of(err)
	if f.Token != "" || !l.named && !l.to().Enabled(ctx, kinds[f.Class].level) {
		return err
	}
	own := *f
	own.Token = shortDigest(d)
	return &own
}

// rejected logs a rejection of which the client is told this status.
func (l *eventLog) rejected(r *http.Request, msg string, e *Error, status int) {
	l.emit(r.Context(), e.level(), l.topicOf(msg, e), func() []slog.Attr {
		attrs := l.attrs(e, slog.Int("status", status))
		attrs = append(attrs, slog.String("method", method(r)))
		if r.Pattern != "" {
			attrs = append(attrs, slog.String("pattern", r.Pattern))
		}
		if scopes := scopeTokens(e.Scopes); status == http.StatusForbidden && len(scopes) > 0 {
			attrs = append(attrs, slog.String("scopes", strings.Join(scopes, " ")))
		}
		return attrs
	})
}

// level returns the level at which e is logged. A verdict is the client's
// business, unless it is on what the authorization server gave; and so is that
// it did not wait for one.
func (e *Error) level() slog.Level {
	k := e.kind()
	if e.Detail == failure.CallerLeft || k.status < http.StatusInternalServerError && k.level > slog.LevelWarn {
		return slog.LevelDebug
	}
	return k.level
}

// method returns a request's method. A client may write anything there.
func method(r *http.Request) string {
	switch r.Method {
	case "":
		return http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY":
		return r.Method
	}
	return "other"
}

// unattended logs a failure that no request is rejected for.
func (l *eventLog) unattended(err error) {
	defer l.survive()
	if e := rejection(err); e.StatusCode() >= http.StatusInternalServerError {
		l.emit(context.Background(), e.level(), l.topicOf(msgUnattended, e), func() []slog.Attr { return l.attrs(e) })
	}
}

// tracePanicked logs that a Trace panicked where there is no request to refuse.
func (l *eventLog) tracePanicked(err error) {
	defer l.survive()
	e := rejection(err)
	l.emit(context.Background(), slog.LevelError, l.topicOf(msgTracePanicked, e), func() []slog.Attr { return l.attrs(e) })
}

// stale logs that an outage is being bridged.
func (l *eventLog) stale(ctx context.Context, outage error) {
	l.emit(ctx, slog.LevelWarn, topic{msg: msgStale, issuer: l.issuer}, func() []slog.Attr {
		return l.attrs(rejection(outage))
	})
}

// notRenewed logs that a document of the authorization server could not be
// renewed and that the previous one stays in use.
func (l *eventLog) notRenewed(document string, f *failure.Error) {
	defer l.survive()
	level, msg := slog.LevelWarn, msgKeysNotRenewed
	if document == failure.Metadata {
		if msg = msgMetadataNotRenewed; f.Class == failure.Protocol {
			level = slog.LevelError // it will not pass by itself, and may be an attack
		}
	}
	e := rejection(f)
	l.emit(context.Background(), level, l.topicOf(msg, e), func() []slog.Attr { return l.attrs(e) })
}

// topicOf returns the topic of a line about a failure.
func (l *eventLog) topicOf(msg string, e *Error) topic {
	t := topic{msg: msg, reason: string(e.Reason), detail: e.Detail, issuer: cmp.Or(e.issuer, l.issuer)}
	if e.facts != nil {
		t.endpoint = e.facts.Endpoint
	}
	if len(t.detail) > maxTopicDetail { // a hook's
		t.detail = strings.Clone(t.detail[:maxTopicDetail])
	}
	return t
}

// attrs returns what a line says of a failure, after what it says first.
func (l *eventLog) attrs(e *Error, first ...slog.Attr) []slog.Attr {
	attrs := append(make([]slog.Attr, 0, 16), first...)
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	add("reason", string(e.Reason))
	add("issuer", cmp.Or(e.issuer, l.issuer))
	add("detail", failure.Words(e.Detail))
	add("token", e.token)
	facts := cmp.Or(e.facts, &failure.Facts{})
	add("endpoint", facts.Endpoint)
	add("url", facts.URL)
	add("expected", facts.Expected)
	add("got", facts.Got)
	add("tokens", facts.Tokens)
	var p *failure.Panic
	switch {
	case errors.As(e.Err, &p):
		add("panic", p.Text)
		add("stack", string(p.Stack))
	case facts.Words != "":
		add("error", facts.Words)
	case e.Err != nil:
		add("error", failure.Words(e.Err.Error()))
	}
	return attrs
}

// again logs that a state has ended.
func (l *eventLog) again(msg string, lasted time.Duration, attrs ...slog.Attr) {
	defer l.survive()
	l.emit(context.Background(), slog.LevelInfo, topic{msg: msg, issuer: l.issuer}, func() []slog.Attr {
		return append(attrs, slog.Duration("lasted", lasted), slog.String("issuer", l.issuer))
	})
}

// documentAgain logs that a document could be fetched again.
func (l *eventLog) documentAgain(document string, lasted time.Duration) {
	msg := msgKeysAgain
	if document == failure.Metadata {
		msg = msgMetadataAgain
	}
	l.again(msg, lasted, slog.String("endpoint", document))
}

// storeTrouble logs that a call to the Store did not work. What the Store said
// is its own, and could contain anything: only the network's words are kept.
func (l *eventLog) storeTrouble(call string, err error) {
	defer l.survive()
	detail := "error"
	if errors.Is(err, context.DeadlineExceeded) {
		detail = "no answer in time"
	}
	topic := topic{msg: msgStoreFails, detail: call, issuer: l.issuer}
	l.emit(context.Background(), slog.LevelWarn, topic, func() []slog.Attr {
		attrs := []slog.Attr{
			slog.String("call", call), slog.String("detail", detail), slog.String("issuer", l.issuer),
		}
		if cause := upstream.Cause(err); cause != nil {
			attrs = append(attrs, slog.String("error", cause.Error()))
		}
		return attrs
	})
}

// copyRefused logs that a copy in the Store does not pass a check.
func (l *eventLog) copyRefused(detail string) {
	defer l.survive()
	l.emit(context.Background(), slog.LevelWarn, topic{msg: msgCopyRefused, detail: detail, issuer: l.issuer},
		func() []slog.Attr {
			return []slog.Attr{slog.String("detail", detail), slog.String("issuer", l.issuer)}
		})
}

// unprotected logs that plain http is permitted for answers that are not
// signed.
func (l *eventLog) unprotected() {
	l.to().LogAttrs(context.Background(), slog.LevelWarn, msgUnprotected, slog.String("issuer", l.issuer))
}

// keysDropped logs why keys of a key set are not used: once, not at each
// refresh.
func (l *eventLog) keysDropped(reasons []error) {
	defer l.survive()
	for _, err := range reasons {
		level := slog.LevelWarn
		if errors.Is(err, jose.ErrPrivateKey) {
			level = slog.LevelError
		}
		if l.isNewKeyFault(err.Error()) {
			l.to().LogAttrs(context.Background(), level, msgKeyNotUsed,
				slog.String("detail", err.Error()), slog.String("issuer", l.issuer))
		}
	}
}

func (l *eventLog) isNewKeyFault(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keysSaid[text] {
		return false
	}
	if l.keysSaid == nil || len(l.keysSaid) >= maxTopics { // a few fixed texts, for each place in the set
		l.keysSaid = map[string]bool{}
	}
	l.keysSaid[text] = true
	return true
}

// emit writes a line. Above DEBUG it writes one in a pause for each topic.
func (l *eventLog) emit(ctx context.Context, level slog.Level, topic topic, attrs func() []slog.Attr) {
	logger := l.to()
	if !logger.Enabled(ctx, level) {
		return
	}
	if level <= slog.LevelDebug {
		logger.LogAttrs(ctx, level, topic.msg, attrs()...)
		return
	}
	suppressed, ok := l.pacer.next(topic, time.Now())
	if !ok {
		return
	}
	all := attrs()
	if suppressed > 0 {
		all = append(all, slog.Int("suppressed", suppressed))
	}
	logger.LogAttrs(ctx, level, topic.msg, all...)
}

// survive is for lines that no request stands behind, or several. A logger that
// panics there would end the process, or cost them all.
func (l *eventLog) survive() { _ = recover() }
