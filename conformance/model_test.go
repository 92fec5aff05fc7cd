package conformance_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// newSeeds is for finding what the usual histories do not show.
var newSeeds = flag.Bool("newseeds", false, "TestModelPermitsEveryAnswer: histories that no run has seen before")

// Random histories run against a model: many clients at once, some of which
// leave; a server that issues, revokes, rotates its keys, slows down and
// fails; Forget and Purge at any moment; pauses in which everything grows
// old. Each answer must be one that the model permits. A failure names its
// seed.
func TestModelPermitsEveryAnswer(t *testing.T) {
	// One seed is one configuration. Together they make more than a million
	// requests; the race detector makes do with a tenth, of fewer seeds.
	seeds, requests := 20, 52_000
	if scale > 1 {
		seeds, requests = 8, 13_000
	}
	var total modelCounts
	t.Run("seeds", func(t *testing.T) {
		for i := range seeds {
			seed := uint64(i)
			if *newSeeds {
				seed = rand.Uint64()
			}
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { runModel(t, seed, i, requests, &total) })
			})
		}
	})
	ok, hits, all := total.ok.Load(), total.hits.Load(), total.requests.Load()
	t.Logf("%d requests: %d OK, %d of them hits, %d inactive, %d refused JWTs, %d undecided, %d unavailable, %d unusable, %d left; "+
		"%d lookups, %d double", all, ok, hits, total.inactive.Load(), total.refused.Load(), total.undecided.Load(), total.unavailable.Load(),
		total.unusable.Load(), total.left.Load(), total.lookups.Load(), total.double.Load())
	// A history in which little happens proves little. What is rare is only
	// sure to happen at full length.
	rare := min(total.stale.Load(), total.refused.Load(), total.unusable.Load(), total.left.Load())
	if ok < all/4 || hits < ok/4 || total.inactive.Load() < all/50 || total.unavailable.Load() < all/100 ||
		scale == 1 && rare == 0 {
		t.Error("the histories do not contain enough of everything")
	}
	if total.double.Load() > 0 {
		t.Errorf("%d of %d lookups were not coalesced", total.double.Load(), total.lookups.Load())
	}
}

type modelCounts struct {
	requests, ok, hits, stale, inactive, refused, unavailable, undecided, unusable, left, lookups, double atomic.Int64
}

const modelTimeout = 2 * time.Second // of one lookup

// A modelLookup is one introspection as the server saw it.
type modelLookup struct {
	token   *modelToken
	arrived moment
	put     time.Time // when it was first sent: before arrived for a retry
	landed  moment    // when the answer left; zero: it has not
	ends    time.Time // the time for it
	active  bool
	failed  bool // no verdict: an outage or an unusable answer
	garbage bool // the latter
	key     *modelKey
	fresh   time.Time // may be remembered until then
	expiry  time.Time // by all that the server said
}

// A moment is a point in time and, within it, in the order of events.
type moment struct {
	at  time.Time
	seq int64
}

// A modelToken is an opaque token; unknown to the server if it has no subject.
type modelToken struct {
	text, subject string
	exp           time.Time // the JWT's
	revoked       bool
	revokedAt     time.Time
	lookups       []*modelLookup
	forgotten     int64     // the latest Forget that is over began then
	forgetAt      time.Time // the latest Forget of all
}

func (t *modelToken) revoke() {
	if !t.revoked {
		t.revoked, t.revokedAt = true, time.Now()
	}
}

// A modelKey is a signing key of the server.
type modelKey struct {
	id        string
	private   ed25519.PrivateKey
	published moment
	left      time.Time // a key set without it was fetched then; zero: none was
}

// A model is the authorization server, and what is known of the Middleware.
type model struct {
	t        *testing.T
	seed     uint64
	counts   *modelCounts
	m        *phantom.Middleware
	handler  http.Handler
	ttl      time.Duration
	negative time.Duration
	stale    time.Duration
	leeway   time.Duration
	json     bool
	slowest  int // of the healthy answers, in ms
	clock    atomic.Int64
	pause    atomic.Int64 // all clients rest until then
	done     atomic.Bool

	mu       sync.Mutex
	random   *rand.Rand
	known    map[string]*modelToken
	tokens   []*modelToken // in use
	old      []*modelToken // still used now and then
	lookups  []*modelLookup
	keys     []*modelKey // published; the last one signs
	retired  []*modelKey
	rotated  time.Time
	fetched  moment       // the latest good key set
	fetching [2]time.Time // begin and end of the latest fetch, its retry included
	faults   int          // percent of the lookups that fail
	fault    time.Time    // the latest one
	well     time.Time    // the first verdict of a lookup that began after it
	purged   int64        // as modelToken.forgotten
	purgedAt time.Time
	issued   int
	failures int
}

func (w *model) tick() moment { return moment{time.Now(), w.clock.Add(1)} }

// violated reports what must not be; w.mu is held.
func (w *model) violated(format string, args ...any) {
	if w.failures++; w.failures <= 5 {
		w.t.Errorf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
	}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func runModel(t *testing.T, seed uint64, i, requests int, counts *modelCounts) {
	const clients = 32
	r := rand.New(rand.NewPCG(seed, 0))
	w := &model{
		t: t, seed: seed, counts: counts, random: rand.New(rand.NewPCG(seed, 1)), slowest: 40,
		known: map[string]*modelToken{},
	}
	// Every third configuration is one that people use.
	size, inFlight, refresh := 1000, 64, 0.8
	w.ttl, w.negative, w.leeway = 10*time.Second, 5*time.Second, 10*time.Second
	if i%3 != 0 {
		size, inFlight, refresh = pick(r, 0, 1, 5, 20, 1000), pick(r, 2, 64), pick(r, 0, 0.5, 0.99)
		w.ttl = pick(r, 0, time.Second, 5*time.Second, time.Minute)
		w.negative = pick(r, 0, time.Second, 10*time.Second)
		w.leeway = pick(r, 0, 10*time.Second)
		w.stale = pick(r, 0, 20*time.Second)
		w.json = r.IntN(2) == 0
	} else if i%2 == 0 {
		w.stale = time.Minute
	}
	if inFlight == 2 {
		w.slowest = 4
	}
	opts := []phantom.Option{
		phantom.WithIssuer(issuer), phantom.WithAudience(audience), phantom.WithTimeout(modelTimeout),
		phantom.WithIntrospectionEndpoint(issuer + endpointPath), phantom.WithJWKSURL(issuer + jwksPath),
		phantom.WithClientAuth(phantom.NoClientAuth()), phantom.WithHTTPClient(&http.Client{Transport: w}),
		phantom.WithCacheSize(size), phantom.WithMaxTTL(w.ttl), phantom.WithNegativeTTL(w.negative),
		phantom.WithRefreshAhead(refresh), phantom.WithStaleIfError(w.stale), phantom.WithLeeway(w.leeway),
		phantom.WithMaxInFlight(inFlight), phantom.WithErrorHandler(modelRejected),
	}
	if w.json {
		opts = append(opts, phantom.WithJSONResponse("phantom_token"))
	}
	w.m = must(phantom.New(opts...))
	w.handler = w.m.Handler(http.HandlerFunc(w.next))
	w.rotate(false)
	for range 30 {
		w.tokens = append(w.tokens, w.issue())
	}
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() { w.client(rand.New(rand.NewPCG(seed, uint64(client+2))), requests/clients) })
	}
	admin := later(func() bool { w.administer(); return true })
	wg.Wait()
	w.done.Store(true)
	admin()
	w.settle()
}

// issue makes a token; w.mu is held.
func (w *model) issue() *modelToken {
	w.issued++
	life := time.Duration(pick(w.random, 2, 40, 600, 600, 600)) * time.Second
	token := w.find(fmt.Sprintf("tok-%d-%d", w.seed, w.issued))
	token.subject, token.exp = fmt.Sprintf("subject-%d", w.issued), time.Unix(time.Now().Add(life).Unix(), 0)
	return token
}

// find returns the token of that text, which may never have been issued;
// w.mu is held.
func (w *model) find(text string) *modelToken {
	token := w.known[text]
	if token == nil {
		token = &modelToken{text: text}
		w.known[text] = token
	}
	return token
}

var modelKeys = sync.OnceValue(func() []ed25519.PrivateKey {
	keys := make([]ed25519.PrivateKey, 64)
	for i := range keys {
		_, keys[i], _ = ed25519.GenerateKey(nil)
	}
	return keys
})

// rotate publishes a new key and signs with it; the others leave the key set
// at once, or only the oldest.
func (w *model) rotate(keepOne bool) {
	n := len(w.keys) + len(w.retired)
	key := &modelKey{id: fmt.Sprintf("k-%d", n), private: modelKeys()[n%64], published: w.tick()}
	if leave := len(w.keys); leave > 0 {
		if keepOne {
			leave--
		}
		w.retired = append(w.retired, w.keys[:leave]...)
		w.keys = w.keys[leave:]
	}
	w.keys, w.rotated = append(w.keys[:len(w.keys):len(w.keys)], key), time.Now()
}

// administer changes the world until the clients are done.
func (w *model) administer() {
	r := rand.New(rand.NewPCG(w.seed, 1000))
	for !w.done.Load() {
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		w.mu.Lock()
		i := r.IntN(len(w.tokens))
		token := w.tokens[i]
		switch n := r.IntN(100); {
		case n < 6:
			token.revoke()
			w.mu.Unlock()
			w.forget(token)
			w.mu.Lock()
		case n < 10:
			token.revoke()
		case n < 13: // a mistake of the server's is put right
			token.revoked, token.revokedAt = false, time.Time{}
		case n < 45:
			w.old = append(w.old, token)
			w.tokens[i] = w.issue()
			if len(w.old) > 30 {
				w.old = w.old[1:]
			}
		case n < 50:
			// Two rotations within the pause between two key set fetches would
			// make good tokens wait.
			if time.Since(w.rotated) > 25*time.Second {
				w.rotate(r.IntN(2) == 0)
			}
		case n < 53:
			w.faults = pick(r, 2, 10, 50, 100)
		case n < 80:
			w.faults = 0
		case n < 83:
			w.pause.Store(int64(time.Duration(time.Now().UnixNano()) + time.Duration(r.IntN(90))*time.Second))
		case n < 86:
			w.mu.Unlock()
			w.purge()
			w.mu.Lock()
		}
		w.mu.Unlock()
	}
}

func (w *model) forget(token *modelToken) {
	w.mu.Lock()
	begin := w.tick()
	token.forgetAt = begin.at
	w.mu.Unlock()
	w.m.Forget(token.text)
	w.mu.Lock()
	defer w.mu.Unlock()
	token.forgotten = max(token.forgotten, begin.seq)
}

func (w *model) purge() {
	w.mu.Lock()
	begin := w.tick()
	w.purgedAt = begin.at
	w.mu.Unlock()
	w.m.Purge()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.purged = max(w.purged, begin.seq)
}

// client makes requests, in bursts and with breaks.
func (w *model) client(r *rand.Rand, requests int) {
	for range requests {
		if pause := w.pause.Load() - time.Now().UnixNano(); pause > 0 {
			time.Sleep(time.Duration(pause))
		}
		switch n := r.IntN(1000); {
		case n < 2:
			time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
		case n < 100:
			time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		case n < 300:
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
		}
		w.mu.Lock()
		token := w.tokens[int(float64(len(w.tokens))*r.Float64()*r.Float64())] // some more than others
		if n := r.IntN(100); n < 3 && len(w.old) > 0 {
			token = w.old[r.IntN(len(w.old))]
		} else if n < 6 {
			token = w.find(fmt.Sprintf("junk-%x", r.Uint32()%20_000))
		}
		w.mu.Unlock()
		if token.subject != "" && r.IntN(2000) == 0 {
			w.forget(token)
		}
		patience := time.Hour
		if r.IntN(20) == 0 {
			patience = time.Duration(r.IntN(60)) * time.Millisecond
		}
		w.request(token, patience)
	}
}

// A modelRequest is a request and the ResponseWriter that its answer goes to.
type modelRequest struct {
	token     *modelToken
	start     moment
	leaves    time.Time
	forgotten int64 // lookups that arrived before this may not serve it
	rejected  *phantom.Error
	served    int
}

func (*modelRequest) Header() http.Header         { return http.Header{} }
func (*modelRequest) Write(p []byte) (int, error) { return len(p), nil }
func (*modelRequest) WriteHeader(int)             {}

// requestKey is the key of the modelRequest in its request's context.
type requestKey struct{}

func modelRejected(w http.ResponseWriter, r *http.Request, err *phantom.Error) {
	r.Context().Value(requestKey{}).(*modelRequest).rejected = err
	w.WriteHeader(err.StatusCode())
}

var modelURL = &url.URL{Path: "/"}

func (w *model) request(token *modelToken, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.mu.Lock()
	req := &modelRequest{token: token, start: w.tick(), forgotten: max(token.forgotten, w.purged)}
	req.leaves = req.start.at.Add(patience)
	w.mu.Unlock()
	header := http.Header{"Authorization": {"Bearer " + token.text}}
	r := &http.Request{Method: http.MethodGet, URL: modelURL, Header: header}
	w.handler.ServeHTTP(req, r.WithContext(context.WithValue(ctx, requestKey{}, req)))
	w.counts.requests.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case req.served == 1 && req.rejected == nil:
		w.counts.ok.Add(1)
	case req.served == 0 && req.rejected != nil:
		w.checkRejection(req)
	default:
		w.violated("served %d times, rejected with %v", req.served, req.rejected)
	}
}

// next is the next handler: it judges the requests that reach it.
func (w *model) next(rw http.ResponseWriter, r *http.Request) {
	req, now := rw.(*modelRequest), time.Now()
	req.served++
	tok, _ := phantom.FromContext(r.Context())
	id, err := strconv.Atoi(tok.ID())
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || id >= len(w.lookups) {
		w.violated("a token from nowhere: %q", tok.ID())
		return
	}
	l := w.lookups[id]
	describe := func() string {
		return fmt.Sprintf("token %s at %v: request of %v, lookup %d of %v, answered %v", req.token.text,
			now.Unix(), now.Sub(req.start.at), id, now.Sub(l.arrived.at), now.Sub(l.landed.at))
	}
	if l.token != req.token || !l.active || tok.Subject() != req.token.subject || req.token.subject == "" {
		w.violated("somebody else's token: %s", describe())
	}
	if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+tok.JWT() {
		w.violated("Authorization %q", got)
	}
	if !now.Before(l.token.exp.Add(w.leeway)) || !tok.Expiry().Equal(l.token.exp) {
		w.violated("after its exp: %s", describe())
	}
	if revoked := req.token.revokedAt; !revoked.IsZero() && req.start.at.After(revoked.Add(w.ttl+w.stale)) {
		w.violated("revoked %v ago: %s", now.Sub(revoked), describe())
	}
	if l.arrived.seq < req.forgotten {
		w.violated("after Forget: %s", describe())
	}
	if left := l.key.left; !left.IsZero() && req.start.at.After(left) {
		w.violated("by a key that has left: %s", describe())
	}
	if !w.awaited(l, req, now) { // remembered
		w.counts.hits.Add(1)
		if !now.Before(l.fresh) || !now.Before(l.expiry) {
			w.counts.stale.Add(1)
			if w.stale == 0 || now.After(l.fresh.Add(w.stale)) || !now.Before(l.expiry) || now.Sub(w.fault) > 35*time.Second {
				w.violated("remembered for too long: %s", describe())
			}
		}
	}
	for _, other := range req.token.lookups {
		if other.arrived.seq > l.arrived.seq && !other.landed.at.IsZero() && !other.active && !other.failed &&
			other.landed.at.Before(req.start.at) && w.undisturbed(other) {
			w.violated("after a lookup found it inactive: %s", describe())
		}
	}
}

// awaited reports whether the request may have waited for the end of l: for the
// server's answer, or for the key set to verify it with.
func (w *model) awaited(l *modelLookup, req *modelRequest, now time.Time) bool {
	return !l.landed.at.Before(req.start.at) || now.Equal(w.fetching[1]) && !l.landed.at.Before(w.fetching[0])
}

// unknown reports whether the key is not in the latest key set.
func (w *model) unknown(key *modelKey) bool {
	return !key.left.IsZero() || w.fetched.seq < key.published.seq
}

// undisturbed reports whether no Forget came between the begin of the lookup
// and its end.
func (w *model) undisturbed(l *modelLookup) bool {
	begin := l.arrived.at.Add(-modelTimeout)
	return l.token.forgetAt.Before(begin) && w.purgedAt.Before(begin)
}

// checkRejection judges the requests that were rejected.
func (w *model) checkRejection(req *modelRequest) {
	now := time.Now()
	var because func(l *modelLookup) bool
	switch reason := req.rejected.Reason; reason {
	case phantom.ReasonInactive:
		w.counts.inactive.Add(1)
		because = func(l *modelLookup) bool {
			known := !l.landed.at.Before(req.start.at) || l.arrived.at.Add(w.negative).After(req.start.at)
			return !l.active && !l.failed && known && l.arrived.seq > req.forgotten
		}
	case phantom.ReasonJWTRejected:
		w.counts.refused.Add(1)
		because = func(l *modelLookup) bool {
			unknown := l.key != nil && w.unknown(l.key) && w.fetched.seq > l.landed.seq
			expired := !now.Before(l.token.exp.Add(w.leeway)) || !now.Before(l.expiry)
			return l.active && w.awaited(l, req, now) && (unknown || expired)
		}
	case phantom.ReasonProtocol:
		w.counts.unusable.Add(1)
		because = func(l *modelLookup) bool { return l.garbage && !l.landed.at.Before(req.start.at) }
	case phantom.ReasonUnavailable, phantom.ReasonKeysUnavailable:
		w.counts.unavailable.Add(1)
		if !now.Before(req.leaves) {
			w.counts.left.Add(1)
		} else if reason == phantom.ReasonKeysUnavailable && slices.ContainsFunc(req.token.lookups, func(l *modelLookup) bool {
			return l.active && w.awaited(l, req, now) && w.unknown(l.key)
		}) {
			w.counts.undecided.Add(1) // until the key set may be fetched again
		} else if now.Sub(w.fault) > 35*time.Second && w.well.After(w.fault) && w.well.Before(req.start.at) {
			// An open breaker lets one probe through at a time.
			w.violated("unavailable, but nothing has failed: %v", req.rejected)
		}
		return
	default:
		w.violated("rejected for %v", req.rejected)
		return
	}
	for _, l := range req.token.lookups {
		if because(l) {
			return
		}
	}
	w.violated("token %s rejected without a reason: %v", req.token.text, req.rejected)
}

// settle ends the history: everything works again, and so it must show.
func (w *model) settle() {
	w.mu.Lock()
	w.faults = 0
	tokens := append(w.tokens, w.old...)
	w.mu.Unlock()
	time.Sleep(time.Minute)
	for _, token := range tokens {
		wanted := !token.revoked && time.Now().Before(token.exp)
		tok, err := w.m.Verify(context.Background(), token.text)
		switch {
		case wanted && (err != nil || tok.Subject() != token.subject):
			w.t.Errorf("seed %d: in the end: %v", w.seed, err)
		case !wanted && !errors.Is(err, phantom.ErrInvalidToken) && w.stale == 0:
			w.t.Errorf("seed %d: in the end: %v, %v", w.seed, tok, err)
		}
	}
	time.Sleep(time.Minute) // for the last refreshes
	w.counts.lookups.Add(int64(len(w.lookups)))
}

// RoundTrip is the server.
func (w *model) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == jwksPath {
		return w.keySet(r)
	}
	form := must(url.ParseQuery(string(must(io.ReadAll(r.Body)))))
	w.mu.Lock()
	l := &modelLookup{arrived: w.tick(), token: w.find(form.Get("token"))}
	l.ends, _ = r.Context().Deadline()
	l.put = l.arrived.at
	id := len(w.lookups)
	w.lookups = append(w.lookups, l)
	isRetry := false
	for _, other := range l.token.lookups {
		if other.ends.Equal(l.ends) && other.failed && !other.landed.at.IsZero() {
			isRetry, l.put = true, other.put
		}
	}
	for _, other := range l.token.lookups {
		late := l.arrived.at.After(other.put.Add(w.ttl)) // its answer would be too old
		if !isRetry && other.landed.at.IsZero() && !late && l.arrived.at.Before(other.ends) &&
			w.undisturbed(other) && w.undisturbed(l) {
			w.counts.double.Add(1)
		}
	}
	l.token.lookups = append(l.token.lookups, l)
	before, after := w.delay(), w.delay()
	kind := -1
	if w.random.IntN(100) < w.faults {
		kind = w.random.IntN(7)
	}
	w.mu.Unlock()
	err := sleep(r.Context(), before)
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}
	w.mu.Lock()
	if kind >= 0 || err != nil {
		w.fault, l.failed = time.Now(), true
		w.mu.Unlock()
		resp, err = w.fail(r, resp, kind, err)
	} else {
		w.answer(resp, l, id)
		w.mu.Unlock()
		err = sleep(r.Context(), after)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.landed, l.garbage = w.tick(), kind == 0 || kind == 1
	if err != nil {
		w.fault, l.failed = l.landed.at, true
		return nil, err
	}
	if !l.failed && !w.well.After(w.fault) && l.arrived.at.After(w.fault) {
		w.well = l.landed.at
	}
	return resp, nil
}

func (w *model) delay() time.Duration {
	return time.Duration(w.random.IntN(w.slowest)) * time.Millisecond
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 { // timers due at once crash the race detector in a bubble (golang/go#78156)
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail answers in one of the ways that are no verdict.
func (w *model) fail(r *http.Request, resp *http.Response, kind int, err error) (*http.Response, error) {
	switch kind {
	case 0:
		resp.Header.Set("Content-Type", "text/html")
		resp.Body = io.NopCloser(strings.NewReader("<html>"))
	case 1:
		resp.StatusCode = http.StatusUnauthorized // our credentials
	case 2:
		resp.StatusCode = http.StatusServiceUnavailable
		resp.Header.Set("Retry-After", "3")
	case 3:
		resp.StatusCode = http.StatusInternalServerError
	case 4:
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"active":false`), errorReader{}))
	case 5:
		return nil, io.ErrUnexpectedEOF
	case 6:
		err = sleep(r.Context(), time.Hour)
	}
	return resp, err
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// answer writes the verdict; w.mu is held.
func (w *model) answer(resp *http.Response, l *modelLookup, id int) {
	now := time.Now()
	l.active = l.token.subject != "" && !l.token.revoked && now.Before(l.token.exp)
	if !l.active {
		if resp.StatusCode = http.StatusNoContent; w.json {
			resp.StatusCode = http.StatusOK
			resp.Header.Set("Content-Type", "application/json")
			resp.Body = io.NopCloser(strings.NewReader(`{"active":false}`))
		}
		return
	}
	l.key = w.keys[len(w.keys)-1]
	l.fresh, l.expiry = l.arrived.at.Add(w.ttl), l.token.exp
	payload := fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":%q,"jti":"%d","exp":%d}`,
		issuer, audience, l.token.subject, id, l.token.exp.Unix())
	body := compact("EdDSA", l.key.private, `{"alg":"EdDSA","typ":"at+jwt","kid":"`+l.key.id+`"}`, payload)
	if w.random.IntN(10) == 0 {
		age := time.Duration(w.random.IntN(4)) * time.Second
		resp.Header.Set("Cache-Control", fmt.Sprintf("max-age=%d", int(age.Seconds())))
		l.fresh = l.arrived.at.Add(min(w.ttl, age))
	}
	if w.json {
		if w.random.IntN(10) == 0 {
			l.expiry = time.Unix(now.Unix()+3, 0)
		}
		resp.Header.Set("Content-Type", "application/json")
		body = fmt.Sprintf(`{"active":true,"sub":%q,"exp":%d,"phantom_token":%q}`, l.token.subject, l.expiry.Unix(), body)
	} else {
		resp.Header.Set("Content-Type", "application/jwt")
	}
	resp.Body = io.NopCloser(strings.NewReader(body))
}

// keySet answers with the published keys.
func (w *model) keySet(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if begin := time.Now(); !begin.Equal(w.fetching[1]) {
		w.fetching[0] = begin
	}
	before, fails := w.delay(), w.random.IntN(100) < w.faults
	w.mu.Unlock()
	err := sleep(r.Context(), before)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetching[1] = time.Now()
	if fails || err != nil {
		w.fault = time.Now()
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	var published []map[string]any
	for _, key := range w.keys {
		published = append(published, jwk(key.id, "EdDSA", key.private.Public()))
	}
	for _, key := range w.retired {
		if key.left.IsZero() {
			key.left = time.Now()
		}
	}
	w.fetched = w.tick()
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/jwk-set+json"}},
		Body: io.NopCloser(strings.NewReader(jwks(published...))), Request: r,
	}, nil
}
