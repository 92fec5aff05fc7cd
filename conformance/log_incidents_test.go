package conformance_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// An incident is a mistake in the configuration or a fault of the server, and
// what the one line above DEBUG has to say of it.
type incident struct {
	name   string
	server func(*fakeAS)
	extra  []phantom.Option
	level  slog.Level
	want   map[string]string
}

// without has the index of a reference option that an incident goes without.
var without = map[string]int{
	"a slash too many in the issuer, seen in the metadata": 2, // the endpoint
	"another audience, in an answer mode":                  3, // the key set
}

const slashed = issuer + "/"

var incidents = []incident{
	{
		"wrong secret",
		func(as *fakeAS) { as.introspect = reply(401, `{"error":"invalid_client"}`, asJSON) }, nil, slog.LevelError,
		map[string]string{
			"reason": "as_protocol", "endpoint": "introspection", "url": issuer + endpointPath, "expected": "200", "got": "401",
			"detail": "the authorization server refuses the introspection client's credentials: status 401",
		},
	},
	{
		"a slash too many in the issuer, seen in the metadata",
		func(as *fakeAS) { as.metadata = answer(200, "application/json", metadataOf(issuer, nil)) },
		[]phantom.Option{phantom.WithIssuer(slashed)}, slog.LevelError,
		map[string]string{
			"reason": "as_protocol", "endpoint": "metadata", "url": issuer + "/.well-known/oauth-authorization-server",
			"expected": slashed, "got": issuer, "issuer": slashed,
		},
	},
	{
		"a slash too many in the issuer, seen in the JWT",
		nil, []phantom.Option{phantom.WithIssuer(slashed)}, slog.LevelWarn,
		map[string]string{"reason": "jwt_rejected", "detail": "iss", "expected": slashed, "got": issuer},
	},
	{
		"another audience", nil, []phantom.Option{phantom.WithAudience("https://a.test", "b")}, slog.LevelWarn,
		map[string]string{"reason": "jwt_rejected", "detail": "aud", "expected": "https://a.test b", "got": ""},
	},
	{
		"another audience, in an answer mode",
		func(as *fakeAS) {
			as.introspect = answerJSON(`{"active":true,"sub":"alice","aud":"x","token_type":"Bearer"}`)
		},
		[]phantom.Option{phantom.WithoutJWT()}, slog.LevelWarn,
		map[string]string{"reason": "answer_rejected", "detail": "aud", "expected": audience, "got": ""},
	},
	{
		"an algorithm that is not permitted", nil, []phantom.Option{phantom.WithAlgorithms("RS256")}, slog.LevelWarn,
		map[string]string{"reason": "jwt_rejected", "detail": "alg", "expected": "RS256", "got": "ES256"},
	},
	{
		"server slow", func(as *fakeAS) { as.introspect = wait(time.Minute, nil) }, nil, slog.LevelError,
		map[string]string{
			"reason": "as_unavailable", "endpoint": "introspection", "url": issuer + endpointPath, "detail": "timeout",
			"error": "context deadline exceeded",
		},
	},
	{
		"a page of a router", func(as *fakeAS) { as.introspect = answer(200, "text/html; charset=x", "<html>") }, nil, slog.LevelError,
		map[string]string{
			"reason": "as_protocol", "endpoint": "introspection", "expected": "application/jwt", "got": "text/html",
		},
	},
	{
		"a path that is not there", func(as *fakeAS) { as.introspect = http.NotFound }, nil, slog.LevelError,
		map[string]string{"reason": "as_protocol", "url": issuer + endpointPath, "expected": "200", "got": "404"},
	},
	{
		"keys gone", func(as *fakeAS) { as.jwks = answer(404, "", "") }, nil, slog.LevelError,
		map[string]string{
			"reason": "keys_unavailable", "endpoint": "keys", "url": issuer + jwksPath, "expected": "200", "got": "404",
		},
	},
	{
		"keys of another issuer",
		func(as *fakeAS) { as.jwks = answer(200, "application/json", jwks(jwk("x", "EdDSA", edKey().Public()))) },
		nil, slog.LevelWarn,
		map[string]string{"reason": "jwt_rejected", "detail": "kid", "endpoint": "keys", "url": issuer + jwksPath},
	},
}

// options returns those of the incident.
func (i incident) options(as *fakeAS) []phantom.Option {
	all := as.options(i.extra...)
	if at := without[i.name]; at > 0 {
		all = slices.Delete(all, at, at+1)
	}
	return all
}

// From the one line that an incident leaves in the log, with nothing else at
// hand, it can be told what is wrong and where. Warm says the same, if it can
// see it.
//
// Catalogue: O2.
func TestLineOfAnIncidentTellsWhatIsWrong(t *testing.T) {
	for _, tc := range incidents {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				if tc.server != nil {
					tc.server(as)
				}
				book := as.logBook()
				m := must(phantom.New(append(tc.options(as), booked(book))...))
				warm := m.Warm(t.Context())
				if (warm == nil) != (tc.level == slog.LevelWarn) {
					t.Errorf("Warm: %v", warm)
				}
				if warm != nil && (!strings.Contains(warm.Error(), tc.want["url"]) || !strings.Contains(warm.Error(), tc.want["got"])) {
					t.Errorf("Warm: %v", warm)
				}
				time.Sleep(time.Minute)
				book.take()
				_ = as.try(m, "opaque-token-of-alice")
				lines := aboveDebug(book.take())
				if len(lines) != 1 || lines[0].level != tc.level {
					t.Fatalf("logged %v", lines)
				}
				for name, want := range tc.want {
					if got := lines[0].attrs[name]; got != want && (name != "error" || !strings.HasSuffix(got, want)) {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
			})
		})
	}
}

// A closed port is told by its address, in the words of the network.
//
// Catalogue: O2.
func TestLineOfAClosedPortHasTheWordsOfTheNetwork(t *testing.T) {
	as := newAS(t)
	host := unusedPort(t)
	m := as.networked("http://" + host)
	if got := as.try(m, "opaque-token"); got != code503A {
		t.Error(got)
	}
	want := "url=http://" + host + endpointPath + ` error="dial tcp ` + host + `: connect: connection refused"`
	if as.logged("ERROR", want) != 1 {
		t.Errorf("log:\n%s\nwant %s", as.logs.String(), want)
	}
}

// When a trouble is over, one line says so, and how long it lasted.
//
// Catalogue: O3.
func TestEndOfATroubleIsLogged(t *testing.T) {
	t.Run("breaker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			book := as.logBook()
			m := as.middleware(booked(book))
			token := freshTokens()
			as.introspect = reply(503, "")
			for range 300 {
				_ = as.try(m, token())
				time.Sleep(100 * time.Millisecond)
			}
			open := slices.DeleteFunc(book.take(), func(l logLine) bool { return l.attrs["detail"] != "breaker open" })
			if len(open) != 3 || open[2].attrs["error"] != "status 503" || open[2].attrs["url"] != issuer+endpointPath ||
				open[2].attrs["tokens"] != "new" || open[2].attrs["suppressed"] == "" {
				t.Errorf("while it is open: %v", open)
			}
			as.introspect = newToken
			time.Sleep(time.Second)
			_ = as.try(m, token())
			checkOver(t, book.take(), "phantom: the authorization server answers again", 28*time.Second, 31*time.Second)
		})
	})
	t.Run("keys", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			book := as.logBook()
			m := as.middleware(booked(book))
			as.jwks = answer(500, "", "")
			for range 20 {
				_ = as.try(m, "tok-of-alice")
				time.Sleep(time.Second)
			}
			book.take()
			as.jwks = nil
			_ = as.try(m, "tok-of-alice")
			checkOver(t, book.take(), "phantom: the key set of the authorization server is there again", 20*time.Second, 20*time.Second)
		})
	})
	t.Run("Store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			as := newAS(t)
			book := as.logBook()
			store := &awayStore{Store: phantomtest.NewStore(), words: as.secret("password-of-the-store")}
			m := as.replica(store, booked(book))
			token := freshTokens()
			store.isAway.Store(true)
			for range 10 {
				_ = as.try(m, token())
				time.Sleep(time.Second)
			}
			said := aboveDebug(book.take())
			if len(said) == 0 || said[0].msg != "phantom: the Store fails; replicas share less meanwhile" ||
				!strings.Contains(said[0].attrs["error"], "connection refused") || said[0].attrs["call"] == "" {
				t.Errorf("while it is away: %v", said)
			}
			store.isAway.Store(false)
			_ = as.try(m, token())
			synctest.Wait()
			checkOver(t, book.take(), "phantom: the Store works again", 9*time.Second, 11*time.Second)
		})
	})
}

// checkOver checks that one of the lines, and no other, says that something is
// over.
func checkOver(t *testing.T, lines []logLine, msg string, least, most time.Duration) {
	t.Helper()
	lines = slices.DeleteFunc(lines, func(l logLine) bool { return l.level != slog.LevelInfo })
	if len(lines) != 1 || lines[0].msg != msg || lines[0].attrs["issuer"] != issuer {
		t.Fatalf("logged %v, want %s", lines, msg)
	}
	if lasted, err := time.ParseDuration(lines[0].attrs["lasted"]); err != nil || lasted < least || lasted > most {
		t.Errorf("it lasted %s, want %v to %v", lines[0].attrs["lasted"], least, most)
	}
}

// What hooks say in their errors is in the log, without the token and cut to
// size, and is never sent.
//
// Catalogue: O4.
func TestWordsOfHooksAreLoggedAndNeverSent(t *testing.T) {
	const words, token = "the tenant is locked", "opaque-token-of-alice"
	fail := fmt.Errorf("%s: %s eyJhbGciOiJub25lIn0.e30.c2ln %s", words, token, strings.Repeat("x", 2000))
	for _, tc := range []struct {
		name  string
		extra []phantom.Option
	}{
		{"requirement", []phantom.Option{phantom.WithRequirements(func(*phantom.Token) error { return errors.New(words) })}},
		{"requirement's Detail", []phantom.Option{phantom.WithRequirements(func(*phantom.Token) error {
			return &phantom.Error{Detail: words}
		})}},
		{"extractor", []phantom.Option{phantom.WithTokenExtractor(func(*http.Request) (string, error) { return token, fail })}},
		{"ClientAuth", []phantom.Option{phantom.WithClientAuth(authFunc(func(*http.Request, url.Values) error { return fail }))}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret("eyJhbGciOiJub25lIn0.e30.c2ln")
			checkWords(t, as, must(phantom.New(as.options(tc.extra...)...)), token, words)
		})
	}
	t.Run("Introspector", func(t *testing.T) {
		as := newAS(t)
		m := introspected(as, &introspector{ask: func(context.Context, string) (*phantom.Introspection, error) { return nil, fail }})
		checkWords(t, as, m, token, words)
		var e *phantom.Error
		if err := m.Warm(t.Context()); !errors.As(err, &e) || e.Detail != "Introspector" || strings.Contains(err.Error(), words) {
			t.Errorf("Warm: %v", err)
		}
	})
}

func checkWords(t *testing.T, as *fakeAS, m *phantom.Middleware, token, words string) {
	t.Helper()
	rec := serve(m.Handler(&spy{}), get("Bearer "+as.secret(token)))
	if rec.Code < 400 || strings.Contains(fmt.Sprint(rec.Header(), rec.Body), words) {
		t.Errorf("%d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	log := as.logs.String()
	if !strings.Contains(log, words) || len(log) > 2000 {
		t.Errorf("log, %d bytes: %s", len(log), log)
	}
}

// An awayStore cannot be reached while it is away.
type awayStore struct {
	*phantomtest.Store
	isAway atomic.Bool
	words  string
}

func (s *awayStore) trouble() error {
	if !s.isAway.Load() {
		return nil
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	return fmt.Errorf("%s: %w", s.words, refused)
}

func (s *awayStore) Get(ctx context.Context, key string) ([]byte, time.Duration, error) {
	if err := s.trouble(); err != nil {
		return nil, 0, err
	}
	return s.Store.Get(ctx, key)
}

func (s *awayStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return cmp.Or(s.trouble(), s.Store.Set(ctx, key, value, ttl))
}
