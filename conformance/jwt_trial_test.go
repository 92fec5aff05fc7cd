package conformance_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/phantom-token/phantom"
)

// A logLine is one line of the log, to be compared as a whole.
type logLine struct {
	level slog.Level
	msg   string
	attrs map[string]string
}

// A logBook keeps log lines and passes them on to the server's log, where
// secrets are looked for.
type logBook struct {
	slog.Handler
	mu    sync.Mutex
	lines []logLine
}

func (b *logBook) Handle(ctx context.Context, r slog.Record) error {
	line := logLine{r.Level, r.Message, map[string]string{}}
	r.Attrs(func(a slog.Attr) bool {
		line.attrs[a.Key] = a.Value.String()
		return true
	})
	b.mu.Lock()
	b.lines = append(b.lines, line)
	b.mu.Unlock()
	return b.Handler.Handle(ctx, r)
}

// take returns the lines since the last call.
func (b *logBook) take() []logLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := b.lines
	b.lines = nil
	return lines
}

func (as *fakeAS) logBook() *logBook {
	return &logBook{Handler: slog.NewTextHandler(&as.logs, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

// levels are those at which an outcome is logged, reasons what it is called.
var (
	levels = map[string]slog.Level{
		codeOK: slog.LevelDebug, code401T: slog.LevelWarn, code403S: slog.LevelDebug,
		code502A: slog.LevelError, code503A: slog.LevelError, code500I: slog.LevelError,
	}
	reasons = map[string]string{
		code401T: "jwt_rejected", code403S: "scope",
		code502A: "as_protocol", code503A: "keys_unavailable", code500I: "internal",
	}
)

// checkLine checks the one line that a request leaves in the log.
func checkLine(t *testing.T, lines []logLine, code, detail string) {
	t.Helper()
	if len(lines) != 1 {
		t.Errorf("%d lines in the log, want 1: %v", len(lines), lines)
		return
	}
	line := lines[0]
	if line.level != levels[code] || line.attrs["reason"] != reasons[code] || line.attrs["issuer"] != issuer {
		t.Errorf("%s is logged as %v", code, line)
	}
	if code == code401T && line.attrs["detail"] != detail {
		t.Errorf("refused by %q, want %q", line.attrs["detail"], detail)
	}
}

// trial has the server answer with jwt and sends one token twice. It checks the
// outcome against want, and what goes with it: the one line in the log with
// the name of the check, what is cached, how often the key set is fetched.
func trial(t *testing.T, jwt, want, detail string, extra ...phantom.Option) {
	t.Helper()
	as := newAS(t)
	as.introspect = answerJWT(jwt)
	trialOf(t, as, jwt, want, detail, extra...)
}

func trialOf(t *testing.T, as *fakeAS, jwt, want, detail string, extra ...phantom.Option) {
	t.Helper()
	if jwt != "" {
		as.secret(jwt)
	}
	book := as.logBook()
	m := as.middleware(append([]phantom.Option{phantom.WithLogger(slog.New(book))}, extra...)...)
	if got := as.try(m, "opaque-token-of-alice"); got != want {
		t.Errorf("%s, want %s", got, want)
		return
	}
	if n := as.fetches.Load(); n > 1 {
		t.Errorf("%d key set fetches for one request", n)
	}
	checkLine(t, book.take(), want, detail)
	if got := as.try(m, "opaque-token-of-alice"); got != want {
		t.Errorf("the second time %s, want %s", got, want)
	}
	calls, lines := as.calls.Load(), len(book.take())
	switch want {
	case codeOK:
		if calls != 1 || lines != 1 {
			t.Errorf("%d introspections, %d more lines; want a hit in the cache", calls, lines)
		}
	case code401T: // Y7
		passes := map[string]bool{
			"kid": true, "key": true, "signature": true, "exp": true, "exp missing or out of range": true, "nbf": true,
		}[detail]
		// An iat in the future passes; one that is missing does not.
		if (calls == 2) != passes && detail != "iat" || lines != 0 {
			t.Errorf("%d introspections, %d more lines; may pass: %v", calls, lines, passes)
		}
	default:
		if calls != 2 || lines != 0 {
			t.Errorf("%d introspections, %d more lines; want nothing cached and nothing logged again", calls, lines)
		}
	}
}

// es256 signs any header and payload with the fixture's P-256 key.
func es256(header, payload string) string { return compact("ES256", p256Key(), header, payload) }

const goodHeader = `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`

func goodPayload() string { return string(must(json.Marshal(claims(nil)))) }

// withSignature replaces the third segment.
func withSignature(jwt string, sig []byte) string {
	return jwt[:strings.LastIndexByte(jwt, '.')+1] + b64(sig)
}

// claim returns the default payload with one member replaced by JSON as it is
// given; no JSON removes it.
func claim(name, value string) string {
	changes := map[string]any{name: nil}
	if value != "" {
		changes[name] = json.RawMessage(value)
	}
	return es256(goodHeader, string(must(json.Marshal(claims(changes)))))
}

// jwtCase is a JWT with its outcome in the default profile and, if that is
// another one, in that of RFC 9068.
type jwtCase struct {
	name   string
	jwt    string
	want   string
	detail string // the check that refuses it
	strict string
}

// runJWTCases tries each case in both profiles.
func runJWTCases(t *testing.T, cases []jwtCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { trial(t, tc.jwt, tc.want, tc.detail) })
		t.Run(tc.name+" RFC 9068", func(t *testing.T) {
			if tc.strict == "" {
				tc.strict = tc.want
			}
			trial(t, tc.jwt, tc.strict, tc.detail, phantom.WithRFC9068())
		})
	}
}
