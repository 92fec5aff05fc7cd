package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// A journal keeps what the authorization server and the API see, to show it.
type journal struct {
	console io.Writer // if not nil, gets a line for each request, and nothing is kept

	mu        sync.Mutex
	exchanges []exchange
}

// An exchange is a request and its answer.
type exchange struct {
	method, path      string
	request, response http.Header
	form              url.Values
	status            int
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

// record returns next with its requests written down.
func (j *journal) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The form stays with the request for next to use.
		if err := r.ParseForm(); err != nil {
			http.Error(w, "bad form", http.StatusBadRequest)
			return
		}
		tee := &teeWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(tee, r)

		x := exchange{
			method: r.Method, path: r.URL.Path, request: r.Header, form: r.PostForm,
			status: tee.status, response: w.Header().Clone(), body: tee.body.String(),
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.console != nil {
			_, _ = fmt.Fprintf(j.console, "  %-4s %-40s %d %s\n", x.method, x.path, x.status, http.StatusText(x.status))
			return
		}
		j.exchanges = append(j.exchanges, x)
	})
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
