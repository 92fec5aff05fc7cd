package main

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

const (
	audience      = "https://rs.test"
	client        = "gateway"
	clientSecret  = "gateway-secret"
	introspection = "/introspect"
)

// A server is an authorization server that counts the lookups of each token.
type server struct {
	as   *phantomtest.AuthorizationServer
	url  string
	http *http.Server

	mu      sync.Mutex
	lookups map[string]int // of each token that was looked up
	aside   map[string]bool
}

// newServer returns a server that takes so long for each lookup.
func newServer(delay time.Duration) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + l.Addr().String(), lookups: map[string]int{}, aside: map[string]bool{}}
	s.as = phantomtest.New(phantomtest.WithIssuer(s.url), phantomtest.WithAudience(audience),
		phantomtest.WithClient(client, clientSecret))
	s.as.Delay(delay)
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(l) }()
	return s, nil
}

func (s *server) close() { _ = s.http.Close() }

// ServeHTTP counts, and hands on.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == introspection {
		token := r.PostFormValue("token")
		s.mu.Lock()
		s.lookups[token]++
		s.mu.Unlock()
	}
	s.as.ServeHTTP(w, r)
}

// issue returns so many tokens that are good for longer than any case runs.
func (s *server) issue(n int) []string {
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = s.as.Issue(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
	}
	return tokens
}

// setAside leaves tokens out of the tally.
func (s *server) setAside(tokens []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range tokens {
		s.aside[token] = true
	}
}

// lookupsOf returns how often the server was asked about one token.
func (s *server) lookupsOf(token string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups[token]
}

// A tally is how often the server was asked, and about how many tokens.
type tally struct{ lookups, tokens int }

func (s *server) tally() (t tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, n := range s.lookups {
		if !s.aside[token] {
			t.lookups += n
			t.tokens++
		}
	}
	return t
}

// since returns what came after an earlier tally.
func (t tally) since(earlier tally) tally {
	return tally{t.lookups - earlier.lookups, t.tokens - earlier.tokens}
}

// again returns the lookups of tokens that the server had been asked about.
func (t tally) again() int { return t.lookups - t.tokens }

func (t tally) perToken() float64 { return float64(t.lookups) / float64(max(t.tokens, 1)) }
