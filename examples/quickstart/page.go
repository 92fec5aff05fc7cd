package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"time"
)

//go:embed page
var assets embed.FS

// A page shows what happens, and has buttons that make it happen.
type page struct {
	host   string // the one name and port that it is served under
	seen   *journal
	client *http.Client
	junk   string // a token that no server has issued

	acting sync.Mutex // one act at a time

	mu    sync.Mutex
	site  *site            // the one that the buttons act on
	sites map[string]*site // by kind of server; each stays up
}

// servePage serves the page until ctx is done.
func servePage(ctx context.Context, stdout io.Writer, s *site) (err error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p := newPage(l.Addr().String(), s)
	srv := &http.Server{
		Handler: p.handler(), ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends the streams
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if _, err = fmt.Fprintf(stdout, "\nOpen the page:\n\n  http://%s/\n%s", p.host, curlLines(s)); err == nil {
		select {
		case <-ctx.Done():
		case err = <-served:
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, srv.Shutdown(last), p.stop(s))
}

func newPage(host string, s *site) *page {
	return &page{
		host: host, seen: s.seen, client: &http.Client{Transport: &http.Transport{}}, junk: rand.Text(),
		site: s, sites: map[string]*site{s.server: s},
	}
}

// stop stops what the page has started, but not first.
func (p *page) stop(first *site) (err error) {
	p.client.CloseIdleConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sites {
		if s != first {
			err = errors.Join(err, s.stop())
		}
	}
	return err
}

// handler returns the page's own server. It answers its own page alone: other
// sites that the browser has open cannot read it, and cannot press its buttons.
func (p *page) handler() http.Handler {
	files, err := fs.Sub(assets, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("POST /do/{act}", p.act)
	mux.HandleFunc("POST /server/{kind}", p.choose)
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "+
			"require-trusted-types-for 'script'; trusted-types 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		// Another name for this address is how a page of somebody else would
		// read this one (DNS rebinding).
		if r.Host != p.host {
			http.Error(w, "this page is at http://"+p.host+"/", http.StatusMisdirectedRequest)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// An update is what the page is told: all that is new, and how things stand.
type update struct {
	Acts     []act     `json:"acts"`
	Messages []message `json:"messages"`
	State    state     `json:"state"`
}

// A state is how things stand.
type state struct {
	Server    string            `json:"server"` // kind
	Story     string            `json:"story"`
	Addresses map[string]string `json:"addresses"`
	Down      bool              `json:"down"`
	Token     string            `json:"token"`
	Counters  []counter         `json:"counters"`
}

// A counter is a number with its name.
type counter struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

func (p *page) state() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.site
	return state{
		Server: s.server, Story: stories[s.server], Down: s.down.Load(), Token: s.held, Counters: counters(s),
		Addresses: map[string]string{atGateway: s.gateway, atServer: s.issuer, atAPI: s.api},
	}
}

// events sends updates for as long as the browser listens (Server-Sent Events).
func (p *page) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for version := 0; ; {
		acts, messages, now, changed := p.seen.feed.since(version)
		version = now
		if tell(w, update{acts, messages, p.state()}) != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// tell sends an update. A browser that does not read ends its stream.
func tell(w http.ResponseWriter, u update) error {
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	out := http.NewResponseController(w)
	if err := out.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
		return err
	}
	return out.Flush()
}
