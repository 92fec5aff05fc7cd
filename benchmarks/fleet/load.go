package main

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Results are what came of requests that all should have been let in.
type results struct {
	mu    sync.Mutex
	took  []time.Duration
	wrong int // other answers, or none
}

func (r *results) add(took time.Duration, wrong bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, took)
	if wrong {
		r.wrong++
	}
}

// quantile returns the time that this share of the requests did not exceed, in
// milliseconds.
func (r *results) quantile(share float64) float64 {
	if len(r.took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.took))
	return ms(sorted[int(share*float64(len(sorted)-1))])
}

// over returns how many requests took longer, the first few not counted.
func (r *results) over(most time.Duration, first int) (n int) {
	for _, took := range r.took[min(first, len(r.took)):] {
		if took > most {
			n++
		}
	}
	return n
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ask sends a request and adds what came of it.
func (r *results) ask(f *fleet, replica int, token string, want int) {
	start := time.Now()
	got := f.ask(replica, token)
	r.add(time.Since(start), got != want)
}

// load sends requests at a rate per second, also if the answers are late. Token
// and replica are drawn at random.
func (f *fleet) load(tokens []string, rate int, during time.Duration) *results {
	r := &results{}
	draw := rand.New(rand.NewPCG(1, 2)) // the same in all runs
	var calls sync.WaitGroup
	start := time.Now()
	for sent := 0; ; {
		passed := time.Since(start)
		if passed >= during {
			break
		}
		for due := int(passed.Seconds() * float64(rate)); sent < due; sent++ {
			replica, token := draw.IntN(size), tokens[draw.IntN(len(tokens))]
			calls.Go(func() { r.ask(f, replica, token, http.StatusNoContent) })
		}
		time.Sleep(time.Millisecond)
	}
	calls.Wait()
	return r
}
