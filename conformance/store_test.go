package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// fleetSecret is that of all replicas here.
var fleetSecret = []byte(strings.Repeat("s3cr3t-of-fleet-", 2))

// A tap is a Store between the replicas and another one. It sees all calls, and
// a test can do what it likes with them.
type tap struct {
	*phantomtest.Store
	get  func(ctx context.Context, value []byte, left time.Duration, err error) ([]byte, time.Duration, error)
	gets atomic.Int64
	sets atomic.Int64

	mu   sync.Mutex
	keys []string
	kept map[string][]byte // the last value of each key
}

func newTap() *tap { return &tap{Store: phantomtest.NewStore(), kept: map[string][]byte{}} }

func (s *tap) Get(ctx context.Context, key string) ([]byte, time.Duration, error) {
	s.gets.Add(1)
	value, left, err := s.Store.Get(ctx, key)
	if s.get != nil {
		return s.get(ctx, value, left, err)
	}
	return value, left, err
}

func (s *tap) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s.sets.Add(1)
	s.mu.Lock()
	s.keys = append(s.keys, key)
	s.kept[key] = value
	s.mu.Unlock()
	return s.Store.Set(ctx, key, value, ttl)
}

// replica returns a Middleware of the server that shares through the store.
func (as *fakeAS) replica(store phantom.Store, extra ...phantom.Option) *phantom.Middleware {
	as.tb.Helper()
	as.secret(string(fleetSecret))
	return as.middleware(append([]phantom.Option{phantom.WithStore(store, fleetSecret)}, extra...)...)
}

// admits sends a request and waits until what it began is over.
func (as *fakeAS) admits(t *testing.T, what string, m *phantom.Middleware, code string) {
	t.Helper()
	expect(t, what, as.try(m, opaqueToken), code)
	synctest.Wait()
}

// One replica's answer serves the other, with every claim and every member.
//
// Catalogue: H1.
func TestReplicasShareAnAnswer(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answer  func(jwt string) string // JSON; nil: the JWT
		options []phantom.Option
	}{
		{name: "a JWT"},
		{name: "JSON with a JWT", answer: func(jwt string) string {
			return fmt.Sprintf(`{"active":true,"phantom_token":%q,"n":12345678901234567890,"x":"<&>"}`, jwt)
		}},
		{name: "JSON without a JWT", answer: func(string) string {
			return `{"active":true,"sub":"alice","aud":"https://rs.test","client_id":"app","jti":"id-1",` +
				`"scope":"read write","token_type":"Bearer","x":{"y":"<&>"},"n":12345678901234567890}`
		}, options: []phantom.Option{phantom.WithoutJWT()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				if jwt := mint("ES256", claims(nil)); tc.answer == nil {
					as.introspect = answerJWT(jwt)
				} else {
					as.introspect = answerJSON(tc.answer(jwt))
				}
				without := func(m *phantom.Middleware) *phantom.Token {
					next := &spy{}
					expect(t, "outcome", as.outcome(serve(m.Handler(next), get("Bearer "+as.secret(opaqueToken))), next, 0), codeOK)
					synctest.Wait()
					return next.tokens[0]
				}
				options := append(tc.options, phantom.WithStore(store, fleetSecret))
				replica := func() *phantom.Middleware {
					if tc.options == nil {
						return as.middleware(options...)
					}
					return must(phantom.New(as.withoutKeys(options...)...))
				}
				a, b := without(replica()), without(replica())
				expect(t, "lookups", as.calls.Load(), 1)
				expect(t, "the same Token", told(t, b), told(t, a))
			})
		})
	}
}

// told is all that a Token tells.
func told(t *testing.T, tok *phantom.Token) string {
	t.Helper()
	var payload, members json.RawMessage
	if err := tok.Decode(&payload); err != nil {
		t.Error(err)
	}
	_ = tok.Introspection(&members) // there may be none
	return fmt.Sprint(tok.JWT(), tok.Subject(), tok.ClientID(), tok.ID(), tok.Audience(), tok.Scopes(), tok.Expiry(),
		tok.IssuedAt(), tok.Issuer(), string(payload), string(members))
}

// A copy serves until the cap after the server was asked, not after it was
// loaded.
//
// Catalogue: H2.
func TestCopyServesNoLongerThanTheAnswer(t *testing.T) {
	for _, loaded := range []time.Duration{time.Second, 30 * time.Second, 59 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			as, store := newAS(t), newTap()
			a, b := as.replica(store), as.replica(store, phantom.WithRefreshAhead(0))
			start := time.Now()
			as.admits(t, "A", a, codeOK)
			as.introspect = answer(204, "", "")
			time.Sleep(loaded)
			as.admits(t, "B", b, codeOK)
			for as.try(b, opaqueToken) == codeOK {
				time.Sleep(100 * time.Millisecond)
			}
			if got := time.Since(start); got > time.Minute {
				t.Errorf("loaded after %v: admitted for %v", loaded, got)
			}
		})
	}
}

// What is wrong with a value costs a lookup and harms nobody.
//
// Catalogue: H7.
func TestUnfitValuesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		as.admits(t, "A", as.replica(store), codeOK)
		value := slices.Clone(store.Values()[0])
		as.secret("another-token")
		as.try(as.replica(store), "another-token")
		synctest.Wait()
		var another []byte
		for _, v := range store.Values() {
			if !bytes.Equal(v, value) {
				another = v
			}
		}
		unfit := map[string][]byte{
			"empty": {}, "1 MiB": make([]byte, 1<<20), "2 MiB": make([]byte, 2<<20), "another token's": another,
			"a bare JWT": []byte(mint("ES256", claims(nil))), "longer": append(slices.Clone(value), 0),
		}
		for n := range len(value) {
			if n < 40 || n%7 == 0 {
				unfit[fmt.Sprint("cut at ", n)] = value[:n]
			}
			flipped := slices.Clone(value)
			flipped[n] ^= 1 << (n % 8)
			if n < 40 || n%5 == 0 {
				unfit[fmt.Sprint("flipped at ", n)] = flipped
			}
		}
		var given []byte
		store.get = func(context.Context, []byte, time.Duration, error) ([]byte, time.Duration, error) {
			return given, 50 * time.Second, nil
		}
		for what, v := range unfit {
			given = v
			before := as.calls.Load()
			as.admits(t, what, as.replica(store), codeOK)
			expect(t, what+": lookups", as.calls.Load()-before, 1)
		}
		given = value // to see that the test is right
		before := as.calls.Load()
		as.admits(t, "untouched", as.replica(store), codeOK)
		expect(t, "untouched: lookups", as.calls.Load()-before, 0)
	})
}

// Each replica judges a copy by its own keys and its own rules.
//
// Catalogue: H8, H9.
func TestCopiesAreJudgedAnew(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(as *fakeAS) []phantom.Option
		lookups int64
		code    string
	}{
		{"nothing changed", func(*fakeAS) []phantom.Option { return nil }, 1, codeOK},
		{"its key has left", func(as *fakeAS) []phantom.Option {
			as.jwks = answer(200, "application/jwk-set+json", jwks(jwk("k-EdDSA", "EdDSA", keyFor("EdDSA").Public())))
			as.introspect = answerJWT(mint("EdDSA", claims(nil)))
			return nil
		}, 2, codeOK},
		{"another audience", func(*fakeAS) []phantom.Option {
			return []phantom.Option{phantom.WithAudience("https://other.test")}
		}, 2, code401T},
		{"another algorithm", func(*fakeAS) []phantom.Option {
			return []phantom.Option{phantom.WithAlgorithms("EdDSA")}
		}, 2, code401T},
		{"no keys", func(as *fakeAS) []phantom.Option { // H9
			as.jwks = answer(500, "", "")
			return nil
		}, 1, code503A},
		{"a shorter cap", func(*fakeAS) []phantom.Option {
			return []phantom.Option{phantom.WithMaxTTL(time.Second)}
		}, 2, codeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.admits(t, "A", as.replica(store), codeOK)
				time.Sleep(2 * time.Second)
				b := as.replica(store, tc.change(as)...)
				as.admits(t, "B", b, tc.code)
				expect(t, "lookups", as.calls.Load(), tc.lookups)
			})
		})
	}
}

// Fleets, tenants and configurations that share one engine never meet.
//
// Catalogue: H10.
func TestConfigurationsNeverMeetInAStore(t *testing.T) {
	for _, tc := range []struct {
		name   string
		option phantom.Option
		store  func(phantom.Store) phantom.Option
	}{
		{name: "secret", store: func(s phantom.Store) phantom.Option {
			return phantom.WithStore(s, []byte(strings.Repeat("another-", 5)))
		}},
		{name: "endpoint", option: phantom.WithIntrospectionEndpoint(issuer + endpointPath + "?tenant=2")},
		{name: "client", option: phantom.WithClientAuth(phantom.ClientSecretPost("another_client", clientSecret))},
		{name: "member", option: phantom.WithJSONResponse("access_jwt")},
		{name: "what may be kept", option: phantom.WithStrictCacheControl()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"jwt":%q}`, mint("ES256", claims(nil))))
				a := as.replica(store)
				as.admits(t, "A", a, codeOK)
				if tc.name == "member" {
					as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"access_jwt":%q}`, mint("ES256", claims(nil))))
				}
				option := tc.option
				if option == nil {
					option = tc.store(store)
				}
				b := as.replica(store, option)
				as.admits(t, "B", b, codeOK)
				expect(t, "lookups", as.calls.Load(), 2)
				if store.keys[0] == store.keys[1] {
					t.Error("one key for both")
				}
				if err := b.Purge(); err != nil { // and its note is none of A's
					t.Error(err)
				}
				as.admits(t, "A after B's Purge", a, codeOK)
				expect(t, "lookups", as.calls.Load(), 2)
			})
		})
	}
	t.Run("issuer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := phantomtest.NewStore()
			for _, name := range []string{"https://one.test", "https://two.test"} {
				server := phantomtest.New(phantomtest.WithIssuer(name))
				m := must(phantom.New(append(server.Options(), phantom.WithStore(store, fleetSecret))...))
				_, err := m.Verify(t.Context(), opaqueToken) // of neither
				if err == nil {
					t.Error("admitted")
				}
				token := server.Issue(map[string]any{"sub": name})
				tok, err := m.Verify(t.Context(), token)
				if err != nil || tok.Subject() != name {
					t.Errorf("%v, %v", tok, err)
				}
				synctest.Wait()
			}
			expect(t, "values", len(store.Values()), 2)
		})
	})
}

// Keys, values and notes tell nothing.
//
// Catalogue: H11.
func TestTheStoreLearnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		var notes [][]byte
		store.Receive(func(note []byte) { notes = append(notes, note) })
		jwt := as.secret(mint("ES256", claims(nil)))
		as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"jwt":%q,"username":"alice","token":%q}`, jwt, opaqueToken))
		m := as.replica(store)
		as.admits(t, "A", m, codeOK)
		all := store.keys
		for _, v := range store.Values() {
			all = append(all, string(v))
		}
		if err := m.Forget(opaqueToken); err != nil {
			t.Error(err)
		}
		for _, note := range notes {
			all = append(all, string(note))
		}
		expect(t, "notes", len(notes), 1)
		for _, text := range all {
			for _, secret := range []string{opaqueToken, jwt, "eyJ", "alice", "phantom", string(fleetSecret)} {
				if strings.Contains(text, secret) {
					t.Errorf("%q is in %q", secret, text)
				}
			}
		}
		expect(t, "length of a key", len(store.keys[0]), 32)
	})
}

// Junk writes nothing.
//
// Catalogue: H19.
func TestJunkWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as, store := newAS(t), newTap()
		notes := 0
		store.Receive(func([]byte) { notes++ })
		as.introspect = answer(204, "", "")
		m := as.replica(store)
		for i := range 1000 {
			expect(t, "junk", as.try(m, fmt.Sprint("junk-", i)), code401T)
		}
		synctest.Wait()
		expect(t, "writes", store.sets.Load(), 0)
		expect(t, "notes", notes, 0)
	})
}

// What may not be kept is not stored either.
//
// Catalogue: H29.
func TestOnlyWhatMayBeKeptIsStored(t *testing.T) {
	for _, tc := range []struct {
		name, cacheControl string
		exp                int64
		want               int64
	}{
		{"max-age=0", "max-age=0", 300, 0},
		{"no-store", "no-store", 300, 0},
		{"a second", "max-age=1", 300, 1},
		{"two seconds", "max-age=2", 300, 1},
		{"nothing said", "", 300, 1},
		{"exp now", "", 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as, store := newAS(t), newTap()
				jwt := answerJWT(mint("ES256", claims(map[string]any{"exp": time.Now().Unix() + tc.exp})))
				as.introspect = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Cache-Control", tc.cacheControl)
					jwt(w, r)
				}
				as.admits(t, "A", as.replica(store, phantom.WithStrictCacheControl()), codeOK)
				expect(t, "writes", store.sets.Load(), tc.want)
			})
		})
	}
}

// Catalogue: H31.
func TestWithStoreRefusesWhatCannotWork(t *testing.T) {
	var none *phantomtest.Store
	good := phantom.WithStore(phantomtest.NewStore(), fleetSecret)
	for _, tc := range []struct {
		name string
		opts []phantom.Option
		want []string
	}{
		{"good", []phantom.Option{good}, nil},
		{"nil", []phantom.Option{phantom.WithStore(nil, fleetSecret)}, []string{"WithStore"}},
		{"nil pointer", []phantom.Option{phantom.WithStore(none, fleetSecret)}, []string{"WithStore"}},
		{"31 bytes", []phantom.Option{phantom.WithStore(phantomtest.NewStore(), fleetSecret[:31])}, []string{"WithStore"}},
		{"no cache", []phantom.Option{good, phantom.WithCacheSize(0)}, []string{"WithStore"}},
		{"no life", []phantom.Option{good, phantom.WithMaxTTL(0)}, []string{"WithStore"}},
		{"all of it", []phantom.Option{
			phantom.WithStore(nil, nil), phantom.WithCacheSize(0), phantom.WithMaxTTL(0),
		}, []string{"WithStore", "WithStore", "WithStore", "WithStore"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := faultsOf(t, append(basics(), tc.opts...)...); !slices.Equal(got, tc.want) {
				t.Errorf("faults of %v, want %v", got, tc.want)
			}
		})
	}
	got := faultsOf(t, append(basics("WithClientAuth"), good, phantom.WithoutIntrospection())...)
	if !slices.Equal(got, []string{"WithStore"}) {
		t.Errorf("WithoutIntrospection: faults of %v", got)
	}
}
