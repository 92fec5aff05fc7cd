package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// The parties that exchange messages.
const (
	atClient  = "client"
	atGateway = "gateway"
	atServer  = "server" // the authorization server
	atAPI     = "api"
)

// A journal keeps what the authorization server and the API see, to show it.
type journal struct {
	console io.Writer // if not nil, gets a line for each request, and nothing is kept
	feed    *feed     // if not nil, gets each request and each answer as it comes

	mu        sync.Mutex
	exchanges []exchange
}

// An exchange is a request and its answer.
type exchange struct {
	from, to          string // parties
	method, path      string
	request, response http.Header
	form              url.Values
	status            int // 0: the server hung up
	body              string
}

// last returns the last request to path.
func (j *journal) last(path string) exchange {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range slices.Backward(j.exchanges) {
		if x.path == path {
			return x
		}
	}
	return exchange{}
}

// record returns next, which serves the party to, with its requests written
// down.
func (j *journal) record(to string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The form stays with the request for next to use.
		if err := r.ParseForm(); err != nil {
			http.Error(w, "bad form", http.StatusBadRequest)
			return
		}
		x := exchange{
			from: sender(to, r), to: to, method: r.Method, path: r.URL.Path, request: r.Header, form: r.PostForm,
		}
		if j.feed != nil {
			j.feed.add(x.asked())
		}
		tee := &teeWriter{ResponseWriter: w}
		defer func() { // next hangs up with a panic
			x.status, x.response, x.body = tee.status, w.Header().Clone(), tee.body.String()
			j.write(x)
		}()
		next.ServeHTTP(tee, r)
		tee.status = cmp.Or(tee.status, http.StatusOK)
	})
}

// write writes down an exchange that is over.
func (j *journal) write(x exchange) {
	if j.feed != nil {
		j.feed.add(x.answered())
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.console == nil:
		j.exchanges = append(j.exchanges, x)
	case x.to != atGateway:
		_, _ = fmt.Fprintf(j.console, "  %-4s %-40s %s\n", x.method, x.path, x.outcome())
	}
}

// outcome is the status line of the answer.
func (x exchange) outcome() string {
	if x.status == 0 {
		return "no answer"
	}
	return fmt.Sprintf("%d %s", x.status, http.StatusText(x.status))
}

// sender says which party a request to another comes from.
func sender(to string, r *http.Request) string {
	id, _, ok := r.BasicAuth()
	switch {
	case to == atAPI, to == atServer && (id == gatewayID || !ok): // documents need no credentials
		return atGateway
	default:
		return atClient
	}
}

// A teeWriter keeps a copy of what goes through it.
type teeWriter struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
}

func (w *teeWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *teeWriter) Write(b []byte) (int, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	w.body.Write(b)
	return w.ResponseWriter.Write(b)
}

// shorten returns the beginning of a token, enough to recognise it.
func shorten(s string) string {
	const n = 12
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
