package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// lookupTime is how long the authorization server takes for a lookup.
const lookupTime = 5 * time.Millisecond

// watched is how many tokens are revoked in a case.
const watched = 20

// inUse: tokens in use at all replicas. Without a Store each of them asks for
// itself; with one, whoever is first to refresh asks for all.
func inUse(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, s.useTTL, lookupTime)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin("a", fmt.Sprintf("%d tokens in use, MaxTTL %v, %d requests/s, %v", s.useTokens, s.useTTL, s.useRate, s.use),
		e != nil)
	w := f.watch(watched)
	got := f.load(f.server.issue(s.useTokens), s.useRate, s.use)
	t := f.server.tally()
	r.add("lookups per token", t.perToken(), "")
	r.add("lookups per token and MaxTTL", t.perToken()*s.useTTL.Seconds()/s.use.Seconds(), "")
	r.add("p50 of the requests", got.quantile(0.5), "ms")
	r.add("p99 of the requests", got.quantile(0.99), "ms")
	r.add("wrong answers", float64(got.wrong), "requests")
	w.report(r)
	return nil
}

// rollingUpdate: each replica is replaced in turn, in the middle third of the
// time. A new process has nothing in its memory.
func rollingUpdate(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, s.updateTTL, lookupTime)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin("b", fmt.Sprintf("%d tokens, MaxTTL %v, %d requests/s, %v, all replicas replaced in turn",
		s.updateTokens, s.updateTTL, s.updateRate, s.update), e != nil)
	w := f.watch(watched)
	loaded := make(chan *results, 1)
	go func() { loaded <- f.load(f.server.issue(s.updateTokens), s.updateRate, s.update) }()

	time.Sleep(s.update / 3)
	before := f.server.tally()
	for i := range size {
		next := time.After(s.update / 3 / size)
		if err := f.replace(i, s.update/6/size); err != nil {
			return err
		}
		<-next
	}
	during := f.server.tally().since(before)
	got := <-loaded
	r.add("lookups per token", f.server.tally().perToken(), "")
	r.add("lookups during the update", float64(during.lookups), "")
	r.add("of these, about a token that one replica had asked about", float64(during.again()), "")
	r.add("p50 of the requests", got.quantile(0.5), "ms")
	r.add("p99 of the requests", got.quantile(0.99), "ms")
	r.add("wrong answers", float64(got.wrong), "requests")
	w.report(r)
	return nil
}

// births: six requests with a new token come at once, as when a page loads.
func births(r *report, e *engine, s sizes) error {
	const atOnce = 6
	f, err := newFleet(e, s.birthTTL, lookupTime)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin("c", fmt.Sprintf("%d births, %d requests at once", s.births, atOnce), e != nil)
	w := f.watch(watched)
	got := &results{}
	draw := rand.New(rand.NewPCG(3, 4))
	for _, token := range f.server.issue(s.births) {
		var calls sync.WaitGroup
		for range atOnce {
			replica := draw.IntN(size)
			calls.Go(func() { got.ask(f, replica, token, http.StatusNoContent) })
		}
		calls.Wait()
	}
	r.add("lookups per token", f.server.tally().perToken(), "")
	r.add("p50 of the requests", got.quantile(0.5), "ms")
	r.add("wrong answers", float64(got.wrong), "requests")
	w.report(r)
	return nil
}

// emptied: the engine loses all it has while tokens are in use.
func emptied(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, s.emptyTTL, lookupTime)
	if err != nil {
		return err
	}
	defer f.close()
	r.begin("d", fmt.Sprintf("FLUSHALL with %d tokens in use", s.useTokens), true)
	w := f.watch(s.emptyWatched)
	tokens := f.server.issue(s.useTokens)
	for i := range size {
		for _, token := range tokens {
			f.ask(i, token)
		}
	}
	before := f.server.tally()
	if _, err := e.do("FLUSHALL"); err != nil {
		return err
	}
	got := &results{}
	for range 3 {
		for i := range size {
			for _, token := range tokens {
				got.ask(f, i, token, http.StatusNoContent)
			}
		}
	}
	r.add("lookups after it", float64(f.server.tally().since(before).lookups), "")
	r.add("requests after it", float64(len(got.took)), "")
	r.add("refused", float64(got.wrong), "requests")
	w.report(r)
	return nil
}
