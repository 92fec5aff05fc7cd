package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// crowdSize is how many calls "at once" are.
const crowdSize = 100

// A deed is what a button does, and what is said about it.
type deed struct {
	title, about string
	crowd        bool
	do           func(*page, context.Context, *site) (outcome string)
}

// deeds are those of the buttons, by the last part of their path.
var deeds = map[string]deed{
	"token": {
		title: "Get a token",
		about: "The client gets an opaque token: random characters, which only the authorization server can read.",
		do:    (*page).getToken,
	},
	"call": {
		title: "Call the API",
		about: "The client sends the opaque token. The gateway asks what it stands for, unless it remembers.",
		do: func(p *page, ctx context.Context, s *site) string {
			return p.call(ctx, s, s.held, 1)
		},
	},
	"crowd": {
		title: "Call 100 times at once",
		about: "Callers with the same token share one question. Forget the token first to see it.",
		crowd: true,
		do: func(p *page, ctx context.Context, s *site) string {
			return p.call(ctx, s, s.held, crowdSize)
		},
	},
	"junk": {
		title: "Send junk",
		about: "No server issued this token. The refusal is remembered too: send it again to see that.",
		do: func(p *page, ctx context.Context, s *site) string {
			return p.call(ctx, s, p.junk, 1)
		},
	},
	"forget": {
		title: "Forget the token",
		about: "A logout or a webhook calls Forget. The next call with the token asks again.",
		do:    (*page).forget,
	},
	"revoke": {
		title: "Revoke the token",
		about: "The gateway is not told: it accepts the token for up to " + maxTTL.String() + ". Forget tells it.",
		do:    (*page).revoke,
	},
	"rotate": {
		title: "Rotate the keys",
		about: "The server signs with a new key. The gateway fetches it when it meets a JWT that the key has signed, " +
			"but at most once in a second.",
		do: (*page).rotate,
	},
	"stop": {
		title: "Stop the server",
		about: "Remembered tokens still pass. Others get 503, which blames no token.",
		do:    (*page).halt,
	},
	"start": {
		title: "Start the server",
		about: "After several failures the gateway waits a little before it asks again.",
		do:    (*page).resume,
	},
}

// act does what a button says.
func (p *page) act(w http.ResponseWriter, r *http.Request) {
	d, ok := deeds[r.PathValue("act")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	p.acting.Lock()
	defer p.acting.Unlock()
	p.seen.feed.begin(d.title, d.about, d.crowd)
	p.seen.feed.end(d.do(p, r.Context(), p.site))
	w.WriteHeader(http.StatusNoContent)
}

// choose makes the site with another kind of server the one to act on.
func (p *page) choose(w http.ResponseWriter, r *http.Request) {
	kind := r.PathValue("kind")
	about, ok := stories[kind]
	if !ok {
		http.NotFound(w, r)
		return
	}
	p.acting.Lock()
	defer p.acting.Unlock()
	chosen, err := p.siteFor(r.Context(), kind)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	p.set(func() { p.site = chosen })
	p.seen.feed.begin("Another server", about, false)
	p.seen.feed.end("get a token to begin.")
	w.WriteHeader(http.StatusNoContent)
}

// getToken gets a token with the client credentials grant.
func (p *page) getToken(ctx context.Context, s *site) string {
	c := p.newWalker(s)
	c.getToken(ctx, "orders:read profile")
	if c.err != nil {
		return "the server does not answer."
	}
	p.set(func() { s.held = c.token })
	return fmt.Sprintf("%d random characters, with nothing to read in them.", len(c.token))
}

// call calls the API n times at once, and says what came of it.
func (p *page) call(ctx context.Context, s *site, token string, n int) string {
	outcomes := make([]string, n)
	var calls sync.WaitGroup
	for i := range outcomes {
		calls.Go(func() { outcomes[i] = p.callOnce(ctx, s, token) })
	}
	calls.Wait()

	times := map[string]int{}
	for _, outcome := range outcomes {
		times[outcome]++
	}
	var said []string
	for _, outcome := range slices.Sorted(maps.Keys(times)) {
		if n > 1 {
			outcome = fmt.Sprintf("%d × %s", times[outcome], outcome)
		}
		said = append(said, outcome)
	}
	questions := "no question asked"
	if asked := p.seen.feed.count("POST /introspect"); asked > 0 {
		questions = fmt.Sprintf("%d introspection", asked)
		if asked > 1 {
			questions += "s"
		}
	}
	return strings.Join(said, ", ") + "; " + questions + "."
}

func (p *page) callOnce(ctx context.Context, s *site, token string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.gateway+"/orders", nil)
	if err != nil {
		return err.Error()
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return "no answer"
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Status
}

func (p *page) forget(_ context.Context, s *site) string {
	if s.held == "" {
		return "there is no token yet."
	}
	if err := s.auth.Forget(s.held); err != nil {
		return err.Error() + "."
	}
	p.seen.feed.add(message{
		From: atGateway, To: atGateway, Title: "Forget", Gist: shorten(s.held), Text: "auth.Forget(token)",
	})
	return "the gateway remembers nothing of it."
}

func (p *page) revoke(ctx context.Context, s *site) string {
	if s.held == "" {
		return "there is no token yet."
	}
	c := p.newWalker(s)
	c.token = s.held
	c.revoke(ctx)
	if c.err != nil {
		return "the server does not answer."
	}
	return "the server calls it inactive from now on."
}

func (p *page) rotate(_ context.Context, s *site) string {
	s.as.RotateKeys()
	p.seen.feed.add(message{From: atServer, To: atServer, Title: "New key", Gist: "the old one is gone"})
	switch s.server {
	case "claims":
		return "no change here, as no JWT is made."
	case "mint":
		return "no change here, as the gateway signs with a key of its own."
	}
	return "the server signs with a new key."
}

func (p *page) halt(_ context.Context, s *site) string {
	s.down.Store(true)
	p.seen.feed.add(message{From: atServer, To: atServer, Title: "Stopped", Gist: "hangs up on each request"})
	return "the server hangs up on each request."
}

func (p *page) resume(_ context.Context, s *site) string {
	s.down.Store(false)
	p.seen.feed.add(message{From: atServer, To: atServer, Title: "Started", Gist: "answers again"})
	return "the server answers again."
}

// newWalker returns a client that keeps silent.
func (p *page) newWalker(s *site) *walker {
	return &walker{site: s, out: io.Discard, client: p.client}
}

// siteFor returns the site with a kind of server, and starts it if need be.
func (p *page) siteFor(ctx context.Context, kind string) (*site, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sites[kind]; s != nil {
		return s, nil
	}
	s, err := start(ctx, p.seen, kind)
	if err == nil {
		p.sites[kind] = s
	}
	return s, err
}

// set changes what the page shows of a site.
func (p *page) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// counters are the gateway's numbers.
func counters(s *site) []counter {
	stats := s.auth.Stats()
	var rejected uint64
	for _, n := range stats.Rejected {
		rejected += n
	}
	return []counter{
		{"cache hits", stats.Hits},
		{"cache misses", stats.Misses},
		{"joined a lookup", stats.Joined},
		{"refused as before", stats.Negative},
		{"refused in all", rejected},
		{"tokens kept", uint64(stats.Entries)},
	}
}
