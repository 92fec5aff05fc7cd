package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A thousand requests whose JWT is for another audience, most of them answered
// from memory, leave one line in 10 s. The next one counts those left out.
//
// Catalogue: O5.
func TestLinesArePacedAndTheRestIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answerJWT(mint("ES256", claims(map[string]any{"aud": "x", "exp": time.Now().Add(time.Hour).Unix()})))
		book := as.logBook()
		m := as.middleware(booked(book))
		for range 1000 {
			if got := as.try(m, "opaque-token"); got != code401T {
				t.Fatal(got)
			}
			time.Sleep(30 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		_ = as.try(m, "opaque-token")
		lines := book.take()
		if len(lines) != 4 {
			t.Fatalf("%d lines: %v", len(lines), lines)
		}
		told := 0
		for _, line := range lines {
			n, _ := strconv.Atoi(line.attrs["suppressed"])
			if told += 1 + n; line.level != slog.LevelWarn || line.attrs["detail"] != "aud" {
				t.Errorf("logged %v", line)
			}
		}
		if told != 1001 {
			t.Errorf("lines tell of %d requests, want 1001", told)
		}
	})
}

// Each reason, detail and endpoint has a pace of its own. Details that a hook
// makes up have one together, once there are too many: neither the log nor what
// is remembered of it grows with them.
//
// Catalogue: O6.
func TestDetailsThatAreMadeUpFillNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = newToken
		n := 0
		book := as.logBook()
		m := as.middleware(booked(book), phantom.WithRequirements(func(*phantom.Token) error {
			n++
			return &phantom.Error{Reason: phantom.ReasonUnavailable, Detail: fmt.Sprint("detail ", n, strings.Repeat("x", 1<<10))}
		}))
		for round := range 3 {
			for range 2000 {
				_ = as.try(m, "opaque-token")
			}
			lines := aboveDebug(book.take())
			told := 0
			for _, line := range lines {
				suppressed, _ := strconv.Atoi(line.attrs["suppressed"])
				told += 1 + suppressed
			}
			if len(lines) < 200 || len(lines) > 257 || round > 0 && told < 2000 {
				t.Errorf("round %d: %d lines tell of %d", round, len(lines), told)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// No client causes a line above DEBUG by what it sends, however much of it: junk
// of any kind, tokens that lack a scope, a request that it does not wait for.
//
// Catalogue: O7.
func TestClientsCauseNoLineAboveDebug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Form.Get("token"), "good") {
				wait(500*time.Millisecond, newToken)(w, r)
				return
			}
			answer(204, "", "")(w, r)
		}
		book := as.logBook()
		m := as.middleware(booked(book))
		h := m.RequireScopes("admin")(&spy{})
		for i := range 500 {
			for _, authorization := range []string{
				fmt.Sprint("Bearer junk-", i), "Bearer a b", "Bearer " + strings.Repeat("x", 1<<15), "Basic Zm9v", "",
			} {
				serve(h, get(authorization))
			}
		}
		if rec := serve(h, get("Bearer good-token")); rec.Code != 403 {
			t.Error(rec.Code)
		}
		soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		serve(h, get("Bearer good-but-slow").WithContext(soon))
		time.Sleep(time.Second) // until the lookup has ended
		lines := book.take()
		if said := aboveDebug(lines); len(said) != 0 {
			t.Errorf("logged %v", said)
		}
		tokens := map[string]bool{}
		for _, line := range lines {
			if line.attrs["reason"] == "inactive" {
				tokens[line.attrs["token"]] = true
			}
		}
		if len(lines) != 2502 || len(tokens) != 500 {
			t.Errorf("%d lines, %d tokens told apart", len(lines), len(tokens))
		}
	})
}

// Junk on which the server fails costs a few lines, which say that it is new
// tokens that are kept out, and by what.
//
// Catalogue: O7.
func TestJunkOnWhichTheServerFailsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		as.introspect = answer(500, "", "")
		book := as.logBook()
		m := as.middleware(booked(book))
		for i := range 3000 {
			_ = as.try(m, fmt.Sprint("junk-token-", i))
			time.Sleep(10 * time.Millisecond)
		}
		lines := aboveDebug(book.take())
		if len(lines) > 9 { // three details, three times
			t.Errorf("%d lines", len(lines))
		}
		kept := slices.ContainsFunc(lines, func(l logLine) bool {
			return l.attrs["tokens"] == "new" && l.attrs["error"] == "status 500" && l.attrs["suppressed"] != ""
		})
		if !kept {
			t.Errorf("logged %v", lines)
		}
	})
}

// A rejected line has the method, the pattern, the token's digest as in the line
// of a request that passes, and for 403 the scopes. It has no path and no query.
//
// Catalogue: O8.
func TestRejectedLineSaysWhichRequest(t *testing.T) {
	as := newAS(t)
	book := as.logBook()
	m := as.middleware(booked(book))
	mux := http.NewServeMux()
	mux.Handle("/orders/{id}", m.RequireScopes("read", "admin")(&spy{}))
	mux.Handle("/open/{id}", m.Handler(&spy{}))
	request := func(method, target string) {
		r := get("Bearer " + as.secret("opaque-token-of-alice"))
		r.Method, r.URL = method, must(r.URL.Parse(target))
		serve(mux, r)
	}
	as.secret("4711")
	as.secret("alice@")
	request(http.MethodGet, "/open/4711?q=alice@")
	request(http.MethodPut, "/orders/4711?q=alice@")
	request(as.secret("METHOD-OF-A-CLIENT"), "/orders/4711")
	lines := book.take()
	if len(lines) != 3 {
		t.Fatalf("logged %v", lines)
	}
	want := map[string]string{
		"status": "403", "reason": "scope", "issuer": issuer, "method": "PUT", "pattern": "/orders/{id}",
		"scopes": "read admin", "token": lines[0].attrs["token"],
	}
	if fmt.Sprint(lines[1].attrs) != fmt.Sprint(want) || len(want["token"]) != 8 || lines[2].attrs["method"] != "other" {
		t.Errorf("logged %v\nwant %v", lines, want)
	}
}

// atLevel drops what is below a level.
type atLevel struct {
	slog.Handler
	level slog.Level
}

func (h atLevel) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// An error handler and a Trace have the digits of a token that the log has, also
// when the log has no line about it.
//
// Catalogue: O15.
func TestErrorHasTheDigitsOfTheLog(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelError} {
		as := newAS(t)
		book := as.logBook()
		var handled, traced string
		m := as.middleware(phantom.WithLogger(slog.New(atLevel{book, level})),
			phantom.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, e *phantom.Error) { handled = e.TokenDigest() }),
			phantom.WithTrace(&phantom.Trace{Decided: func(_ context.Context, d phantom.Decision) { traced = d.Err.TokenDigest() }}))
		handler := m.RequireScopes("admin")(&spy{})
		for _, active := range []bool{true, false} {
			handled = ""
			if !active {
				as.introspect = answer(204, "", "")
			}
			serve(handler, get("Bearer "+as.secret(fmt.Sprint("token-that-is-active-", active))))
			if len(handled) != 8 || traced != handled {
				t.Errorf("%v: the error handler has %q, the Trace %q", level, handled, traced)
			}
			if lines := book.take(); level == slog.LevelDebug && (len(lines) != 1 || lines[0].attrs["token"] != handled) {
				t.Errorf("logged %v, handled %q", lines, handled)
			}
		}
		serve(handler, get())
		if handled != "" || traced != "" {
			t.Errorf("without a token: %q, %q", handled, traced)
		}
	}
}

// Without WithLogger, lines go to slog's default of the moment.
//
// Catalogue: O9.
func TestDefaultLoggerIsAskedForAtEachLine(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	as := newAS(t)
	as.introspect = answer(500, "", "")
	m := must(phantom.New(as.options()[:7]...))
	silent := must(phantom.New(append(as.options(), phantom.WithLogger(slog.New(slog.DiscardHandler)))...))
	for range 2 {
		book := as.logBook()
		slog.SetDefault(slog.New(book))
		serve(m.Handler(&spy{}), get("Basic Zm9v"))
		serve(silent.Handler(&spy{}), get("Basic Zm9v"))
		if lines := book.take(); len(lines) != 1 || lines[0].attrs["reason"] != "no_credentials" {
			t.Errorf("logged %v", lines)
		}
	}
}

// Warm proves the credentials, by one random token each time, in each mode.
//
// Catalogue: O10.
func TestWarmProvesTheCredentials(t *testing.T) {
	inactive := answerJSON(`{"active":false}`)
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"inactive", inactive, codeOK},
		{"no content", answer(204, "", ""), codeOK},
		{"unsupported token type", answer(400, "application/json", `{"error":"unsupported_token_type"}`), codeOK},
		{"401", answer(401, "", ""), code502A},
		{"403", answer(403, "", ""), code502A},
		{"invalid_client", answer(400, "application/json", `{"error":"invalid_client"}`), code502A},
		{"404", answer(404, "", ""), code502A},
		{"500", answer(500, "", ""), code503A},
		{"503", answer(503, "", ""), code503A},
		{"a page", answer(200, "text/html", "<html>"), code502A},
	} {
		for _, mode := range []struct {
			name string
			with []phantom.Option
			drop int // of the options: the key set
		}{
			{"JWT", nil, 0},
			{"member", []phantom.Option{phantom.WithJSONResponse("jwt")}, 0},
			{"WithoutJWT", []phantom.Option{phantom.WithoutJWT()}, 3},
			{"exchange", []phantom.Option{phantom.WithTokenExchange(issuer+"/token", nil)}, 0},
		} {
			t.Run(tc.name+", "+mode.name, func(t *testing.T) {
				as := newAS(t)
				as.introspect = tc.answer
				all := as.options(mode.with...)
				if mode.drop > 0 {
					all = slices.Delete(all, mode.drop, mode.drop+1)
				}
				want := tc.want
				if tc.name == "no content" && mode.name != "JWT" {
					want = code502A
				}
				if err := must(phantom.New(all...)).Warm(t.Context()); warmCode(err) != want {
					t.Errorf("%v, want %s", err, want)
				}
				asked := as.recorded(endpointPath)
				if len(asked) != 1 || len(asked[0].Form.Get("token")) < 26 {
					t.Errorf("asked %d times", len(asked))
				}
			})
		}
	}
}

// Without introspection there is nothing to prove. An Introspector is asked too,
// and may panic. A dispatcher asks for each member.
//
// Catalogue: O10.
func TestWarmOfOtherWays(t *testing.T) {
	as := newAS(t)
	own := must(phantom.New(phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithoutIntrospection(),
		phantom.WithJWKSURL(issuer+jwksPath), phantom.WithHTTPClient(&http.Client{Transport: as})))
	if err := own.Warm(t.Context()); err != nil || as.calls.Load() != 0 || as.fetches.Load() != 1 {
		t.Errorf("%v, asked %d times, %d fetches", err, as.calls.Load(), as.fetches.Load())
	}
	var fail func() error
	hook := &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) {
		return &phantom.Introspection{}, fail()
	}}
	other := introspected(as, hook)
	both := must(phantom.Dispatch([]*phantom.Middleware{own, other}, func(string) *phantom.Middleware { return other }))
	for _, tc := range []struct {
		name string
		fail func() error
		want string
	}{
		{"inactive", func() error { return nil }, codeOK},
		{"an error", func() error { return errors.New("down") }, code503A},
		{"a panic", func() error { panic("broken") }, code500I},
	} {
		fail = tc.fail
		for _, m := range []*phantom.Middleware{other, both} {
			if err := m.Warm(t.Context()); warmCode(err) != tc.want {
				t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
			}
		}
	}
	if hook.calls.Load() != 6 {
		t.Errorf("asked %d times", hook.calls.Load())
	}
}

// warmCode returns the outcome code that a request with this error would have.
func warmCode(err error) string {
	var e *phantom.Error
	switch {
	case err == nil:
		return codeOK
	case !errors.As(err, &e):
		return err.Error()
	}
	return map[int]string{500: code500I, 502: code502A, 503: code503A}[e.StatusCode()]
}

// A lookup that fails is told of also if no request waits for it: a renewal in
// advance, and one whose client has left. A logger that panics there harms
// nobody.
//
// Catalogue: O11.
func TestLookupThatNobodyWaitsForIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := newAS(t)
		book := as.logBook()
		m := as.middleware(booked(book))
		if got := as.try(m, "opaque-token"); got != codeOK {
			t.Fatal(got)
		}
		const msg = "phantom: a lookup failed that no request waits for"
		as.introspect = reply(401, "")
		time.Sleep(50 * time.Second)
		if got := as.try(m, "opaque-token"); got != codeOK { // which begins the renewal
			t.Fatal(got)
		}
		synctest.Wait()
		said := aboveDebug(book.take())
		if len(said) != 1 || said[0].msg != msg || said[0].level != slog.LevelError || said[0].attrs["got"] != "401" {
			t.Errorf("logged %v", said)
		}
		broken := false
		panics := as.middleware(booked(book), phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error {
			if broken {
				panic("a hook")
			}
			return nil
		})))
		as.introspect = nil
		_ = as.try(panics, "opaque-token")
		broken = true
		time.Sleep(50 * time.Second)
		_ = as.try(panics, "opaque-token")
		synctest.Wait()
		said = aboveDebug(book.take())
		if len(said) != 1 || said[0].msg != msg || said[0].attrs["reason"] != "internal" || said[0].attrs["stack"] == "" {
			t.Errorf("logged %v", said)
		}
		as.introspect = wait(time.Minute, nil)
		soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		serve(m.Handler(&spy{}), get("Bearer another-token").WithContext(soon))
		time.Sleep(10 * time.Second)
		said = aboveDebug(book.take())
		if len(said) != 1 || said[0].msg != msg || said[0].attrs["detail"] != "timeout" || said[0].attrs["url"] != issuer+endpointPath {
			t.Errorf("logged %v", said)
		}
		loud := as.middleware(phantom.WithLogger(slog.New(panickingHandler{})), phantom.WithMaxTTL(10*time.Second))
		as.introspect = nil
		if tok, err := loud.Verify(t.Context(), "opaque-token"); tok == nil {
			t.Fatal(err)
		}
		as.introspect = reply(401, "")
		time.Sleep(8500 * time.Millisecond)
		if tok, err := loud.Verify(t.Context(), "opaque-token"); tok == nil {
			t.Error(err)
		}
		synctest.Wait()
		away := &awayStore{Store: phantomtest.NewStore()}
		away.isAway.Store(true)
		as.introspect = nil
		if tok, err := as.replica(away, phantom.WithLogger(slog.New(panickingHandler{}))).Verify(t.Context(), "opaque-token"); tok == nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}
