package main

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// hits: a token that is in the memory, through a Middleware of this process.
// The two with and without a Store take turns, so that what else the machine
// does slows both down.
func hits(r *report, e *engine, s sizes) error {
	f, err := newFleet(e, time.Hour, 0)
	if err != nil {
		return err
	}
	defer f.close()
	title := fmt.Sprintf("a hit in the memory, %d times %d", s.hitChunks, hitChunk)
	plain := f.spec
	plain.Engine = ""
	without, end, err := hitting(plain, f.server.issue(1)[0])
	if err != nil {
		return err
	}
	defer end()
	with, end, err := hitting(f.spec, f.server.issue(1)[0])
	if err != nil {
		return err
	}
	defer end()
	serve := [2]func(n int){without, with}
	var times [2][]float64
	for range s.hitChunks {
		for i := range serve {
			start := time.Now()
			serve[i](hitChunk)
			times[i] = append(times[i], float64(time.Since(start))/hitChunk)
		}
	}
	for i := range serve {
		r.begin("g", title, i == 1)
		slices.Sort(times[i])
		r.add("median", times[i][len(times[i])/2], "ns")
		r.add("allocations", testing.AllocsPerRun(100, func() { serve[i](1) }), "")
	}
	return nil
}

// hitChunk requests take a millisecond or so.
const hitChunk = 2000

// A sink takes answers.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// hitting returns a function that sends n requests with a token, which is in
// the memory by then.
func hitting(s spec, token string) (serve func(n int), end func(), err error) {
	r, err := http.NewRequest(http.MethodGet, "https://rs.test/", nil)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	opts, end := s.options()
	auth, err := phantom.New(opts...)
	if err != nil {
		end()
		return nil, nil, err
	}
	w := &sink{header: http.Header{}}
	h := auth.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if h.ServeHTTP(w, r); w.status != 0 {
		end()
		return nil, nil, fmt.Errorf("a good token is refused: status %d", w.status)
	}
	return func(n int) {
		for range n {
			h.ServeHTTP(w, r)
		}
	}, end, nil
}
