package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// The next handler gets the client's Connection field without Authorization in
// it.
//
// Catalogue: P53.
func TestConnectionOfTheNextHandler(t *testing.T) {
	for _, tc := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"close"}, []string{"close"}},
		{[]string{"close, authorization"}, []string{"close"}},
		{[]string{"authorization"}, nil},
		{[]string{"Authorization", "AUTHORIZATION , "}, nil},
		{[]string{"Upgrade, Authorization"}, []string{"Upgrade"}},
		{[]string{"keep-alive,authorization,Upgrade"}, []string{"keep-alive, Upgrade"}},
		{[]string{"X-Authorization, authorization2"}, []string{"X-Authorization, authorization2"}},
	} {
		as := newAS(t)
		next := &spy{}
		r := get("Bearer opaque-token")
		if tc.in != nil {
			r.Header["Connection"] = tc.in
		}
		before := r.Header.Clone()
		serve(as.middleware().Handler(next), r)
		if got := next.last().Header["Connection"]; !slices.Equal(got, tc.want) {
			t.Errorf("%q became %q, want %q", tc.in, got, tc.want)
		}
		if !reflect.DeepEqual(r.Header, before) {
			t.Errorf("the caller's header was changed: %v", r.Header)
		}
	}
}

// The next handler gets the other trailers. Authorization is never among them,
// for anonymous requests either.
//
// Catalogue: P56.
func TestOtherTrailersArrive(t *testing.T) {
	for _, announced := range []string{"X-Sum", "X-Sum, Authorization", "authorization, X-Sum"} {
		for _, tc := range []struct{ name, credentials string }{
			{"token", "Authorization: Bearer opaque-token\r\n"}, {"anonymous", ""},
		} {
			var before, after http.Header
			next := &spy{serve: func(_ http.ResponseWriter, r *http.Request) {
				before = r.Trailer.Clone()
				if body := string(must(io.ReadAll(r.Body))); body != "body" {
					t.Errorf("body %q", body)
				}
				after = r.Trailer
			}}
			exchange(t, newAS(t).middleware().Optional(next), "POST /orders HTTP/1.1\r\nHost: rs.test\r\n"+
				"Connection: close\r\n"+tc.credentials+"Transfer-Encoding: chunked\r\nTrailer: "+announced+
				"\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer evil-token\r\n\r\n")
			if !maps.EqualFunc(before, http.Header{"X-Sum": nil}, slices.Equal) ||
				!maps.EqualFunc(after, http.Header{"X-Sum": {"1"}}, slices.Equal) {
				t.Errorf("%s, %s: %q announced, %q came", tc.name, announced, before, after)
			}
		}
	}
}

// A trailer that was not announced reaches next as an announced one does, also
// through a copy of the request and through a handler of the same middleware.
// Authorization never does.
//
// Catalogue: Q3.
func TestTrailersThatWereNotAnnounced(t *testing.T) {
	for _, announced := range []string{"", "Trailer: X-Sum\r\n", "Trailer: Authorization\r\n"} {
		for _, credentials := range []string{"Authorization: Bearer opaque-token\r\n", ""} {
			m := newAS(t).middleware()
			for _, inner := range []mounting{
				{"alone", plain}, {"copied", copied}, {"Optional", m.Optional},
				{"twice", func(next http.Handler) http.Handler { return m.Optional(copied(m.Optional(next))) }},
			} {
				var before, after http.Header
				next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					before = r.Trailer.Clone()
					if body := string(must(io.ReadAll(r.Body))); body != "body" {
						t.Errorf("body %q", body)
					}
					after = r.Trailer
				})
				exchange(t, m.Optional(inner.wrap(next)), "POST /orders HTTP/1.1\r\nHost: rs.test\r\n"+
					"Connection: close\r\n"+credentials+"Transfer-Encoding: chunked\r\n"+announced+
					"\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\nauthorization: Bearer evil-token\r\n\r\n")
				want := http.Header{"X-Sum": {"1"}, "X-Other": {"2"}}
				if _, ok := before["Authorization"]; ok || before["X-Other"] != nil {
					t.Errorf("%s, %q: %q before the body", inner.name, announced, before)
				}
				if !maps.EqualFunc(after, want, slices.Equal) {
					t.Errorf("%s, %q: %q came, want %q", inner.name, announced, after, want)
				}
			}
		}
	}
}

// The opaque token ends at the middleware. Neither the next handler nor the
// upstream nor the client sees it.
//
// Catalogue: P57.
func TestOpaqueTokenEndsHere(t *testing.T) {
	up := newUpstream(t)
	for _, proxy := range up.proxies() {
		t.Run(proxy.name, func(t *testing.T) {
			as := newAS(t)
			const opaque = "opaque-token-of-alice"
			as.secret(opaque)
			as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"username":"alice","phantom_token":%q}`,
				mint("ES256", claims(nil))))
			next := &spy{serve: func(w http.ResponseWriter, r *http.Request) {
				tok, _ := phantom.FromContext(r.Context())
				var members, payload map[string]any
				if err := errors.Join(tok.Introspection(&members), tok.Decode(&payload), r.ParseForm()); err != nil {
					t.Error(err)
				}
				seen := fmt.Sprintf("%v %+v %#v %s %v %v", r.Context(), tok, tok, tok.JWT(), members, payload)
				seen += fmt.Sprint(r.Form, r.PostForm, r.Header, r.Trailer)
				seen += fmt.Sprint(r.URL, r.RequestURI, r.Referer(), r.Cookies(), r.Pattern)
				if found := as.leaks(seen); found != nil {
					t.Errorf("the next handler sees %q", found)
				}
				proxy.ServeHTTP(w, r)
			}}
			m := as.middleware()
			for range 2 { // a miss and a hit
				rec := exchange(t, m.Handler(next), "GET /orders?page=2 HTTP/1.1\r\nHost: rs.test\r\n"+
					"Connection: close\r\nAuthorization: Bearer "+opaque+"\r\n"+
					"Referer: https://app.test/orders\r\nCookie: session=1\r\n\r\n")
				if rec.Code != http.StatusOK {
					t.Fatalf("status %d", rec.Code)
				}
				if found := as.leaks(rec.Body.String() + fmt.Sprint(rec.Header())); found != nil {
					t.Errorf("the client sees %q", found)
				}
			}
			if found := as.leaks(strings.Join(up.dumps, "\n")); found != nil {
				t.Errorf("upstream sees %q", found)
			}
		})
	}
}

// A Token that is printed, logged or encoded does not show its JWT.
//
// Catalogue: P57.
func TestPrintingAToken(t *testing.T) {
	as := newAS(t)
	jwt := as.secret(mint("ES256", claims(nil)))
	as.introspect = answerJWT(jwt)
	tok := must(as.middleware().Verify(t.Context(), as.secret("opaque-token")))
	type session struct {
		Token *phantom.Token
		Value phantom.Token
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{
			tok, *tok, session{tok, *tok}, &session{tok, *tok}, []*phantom.Token{tok}, []phantom.Token{*tok},
		} {
			text := fmt.Sprintf(verb, v)
			if verb == "%x" {
				text = strings.ReplaceAll(text, fmt.Sprintf("%x", jwt), jwt)
			}
			if found := as.leaks(text); found != nil {
				t.Errorf("%s of %T shows the JWT", verb, v)
			}
		}
	}
	if got := fmt.Sprint(tok); got != "phantom.Token(redacted)" {
		t.Errorf("%q", got)
	}
	if got := fmt.Sprint((*phantom.Token)(nil)); got != "<nil>" {
		t.Errorf("%q", got)
	}
	var logged bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(h).Info("x", "pointer", tok, "value", *tok, "inside", session{tok, *tok},
			"list", []*phantom.Token{tok}, "none", (*phantom.Token)(nil))
	}
	logged.Write(must(json.Marshal(session{tok, *tok})))
	if found := as.leaks(logged.String()); found != nil {
		t.Errorf("the JWT is logged: %s", logged.String())
	}
	facts := "pointer.issuer=" + issuer + " pointer.client_id=app pointer.expiry="
	if !strings.Contains(logged.String(), facts) || strings.Contains(logged.String(), "panick") {
		t.Errorf("logged: %s", logged.String())
	}
}

// snapshot copies what a request says, to see whether it was changed.
func snapshot(r *http.Request) string {
	return fmt.Sprintf("%v %v %v %v %v %v %v %p",
		r.Method, r.URL, r.Header, r.Trailer, r.Form, r.Host, r.ContentLength, r.Body)
}

// The next handler works on a copy. The caller's request stays as it was.
//
// Catalogue: P61.
func TestTheCallersRequestStaysAsItWas(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	r := httptest.NewRequest(http.MethodPost, "https://rs.test/orders?a=1", strings.NewReader("b=2"))
	r.Header = http.Header{"Authorization": {"Bearer opaque-token"}, "Connection": {"authorization"}, "X-Other": {"1"}}
	r.Trailer = http.Header{"Authorization": nil, "X-Sum": nil}
	before := snapshot(r)
	next := &spy{serve: func(_ http.ResponseWriter, inner *http.Request) {
		inner.Header.Set("X-Added", "1")
		inner.Header.Del("X-Other")
		inner.Header["Authorization"][0] = "Bearer evil"
	}}
	serve(m.Handler(next), r)
	if after := snapshot(r); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	if _, ok := phantom.FromContext(r.Context()); ok {
		t.Error("the caller's context has the token")
	}
	body := string(must(io.ReadAll(next.last().Body)))
	if body != "b=2" || next.last().ContentLength != r.ContentLength {
		t.Errorf("the body is %q", body)
	}
}

// The next handler spoils all it can reach. The next request finds the cached
// token as it was.
//
// Catalogue: P61.
func TestNextCannotChangeTheCachedToken(t *testing.T) {
	as := newAS(t)
	audiences := []string{audience, "https://other.test"}
	jwt := mint("ES256", claims(map[string]any{
		"aud": audiences, "nested": map[string]any{"list": []int{1, 2}},
	}))
	as.introspect = answerJSON(fmt.Sprintf(`{"active":true,"roles":["a","b"],"phantom_token":%q}`, jwt))
	m := as.middleware()
	spoil := &spy{serve: func(_ http.ResponseWriter, r *http.Request) {
		tok, _ := phantom.FromContext(r.Context())
		r.Header["Authorization"][0] = "Bearer evil"
		r.Header["Authorization"] = append(r.Header["Authorization"], "Bearer evil")
		r.URL.Path, r.URL.RawQuery = "/evil", "evil=1"
		r.Form = url.Values{"evil": {"1"}}
		tok.Audience()[0] = "evil"
		tok.Scopes()[0] = "admin"
		var payload, members map[string]any
		if err := errors.Join(tok.Decode(&payload), tok.Introspection(&members)); err != nil {
			t.Error(err)
		}
		payload["sub"] = "root"
		payload["nested"].(map[string]any)["list"].([]any)[0] = "evil"
		members["roles"].([]any)[0] = "evil"
		var raw struct{ Nested []byte }
		_ = tok.Decode(&raw)
		var whole jsonBytes
		if err := tok.Decode(&whole); err != nil {
			t.Error(err)
		}
		for i := range whole {
			whole[i] = 'x'
		}
		other := get()
		tok.SetAuthHeader(other)
		other.Header["Authorization"][0] = "Bearer evil"
	}}
	serve(m.Handler(spoil), get("Bearer opaque-token"))
	next := &spy{}
	if got := as.outcome(serve(m.Handler(next), get("Bearer opaque-token")), next, 0); got != codeOK {
		t.Fatalf("%s", got)
	}
	tok, r := next.tokens[0], next.last()
	got := r.Header["Authorization"]
	if !slices.Equal(got, []string{"Bearer " + jwt}) || r.URL.Path != "/orders" || r.Form != nil {
		t.Errorf("%q, %v, %v", got, r.URL, r.Form)
	}
	var payload, members map[string]any
	if err := errors.Join(tok.Decode(&payload), tok.Introspection(&members)); err != nil {
		t.Error(err)
	}
	if payload["sub"] != "alice" || fmt.Sprint(payload["nested"]) != "map[list:[1 2]]" ||
		fmt.Sprint(members["roles"]) != "[a b]" || !slices.Equal(tok.Audience(), audiences) ||
		!slices.Equal(tok.Scopes(), []string{"read", "write"}) {
		t.Errorf("%v %v %v %v", payload, members, tok.Audience(), tok.Scopes())
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// jsonBytes keeps the bytes that a decoder hands it.
type jsonBytes []byte

func (b *jsonBytes) UnmarshalJSON(data []byte) error { *b = data; return nil }

// A panic of the next handler passes through unchanged. The middleware writes
// nothing, and the cache stays intact.
//
// Catalogue: P63.
func TestPanicsOfNextPassThrough(t *testing.T) {
	type custom struct{ int }
	for _, value := range []any{http.ErrAbortHandler, "a string", errors.New("an error"), custom{1}} {
		as := newAS(t)
		m := as.middleware()
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(value) })
		nested := func(next http.Handler) http.Handler { return m.Handler(m.RequireScopes("read")(next)) }
		for _, mounting := range append(mountings(m), mounting{"nested", nested}) {
			rec := httptest.NewRecorder()
			func() {
				defer func() {
					if got := recover(); got != value {
						t.Errorf("%s: panic %v came out as %v", mounting.name, value, got)
					}
				}()
				mounting.wrap(next).ServeHTTP(rec, get("Bearer opaque-token"))
			}()
			delete(rec.Header(), "Vary")
			if rec.Body.Len() != 0 || len(rec.Header()) != 0 {
				t.Errorf("%s: %v %q were added", mounting.name, rec.Header(), rec.Body)
			}
			if got := as.try(m, "opaque-token"); got != codeOK || as.calls.Load() != 1 {
				t.Errorf("%s: afterwards %s, the server was asked %d times", mounting.name, got, as.calls.Load())
			}
		}
		if strings.Contains(as.logs.String(), "ERROR") {
			t.Errorf("logged: %s", as.logs.String())
		}
	}
}

// A next handler that aborts breaks the connection, as without the middleware.
//
// Catalogue: P63.
func TestAbortOverASocket(t *testing.T) {
	as := newAS(t)
	conn, in := dial(t, as.middleware().Handler(&spy{serve: func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "part")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}}))
	must(io.WriteString(conn, "GET / HTTP/1.1\r\nHost: rs.test\r\nAuthorization: Bearer opaque-token\r\n\r\n"))
	resp := must(http.ReadResponse(in, nil))
	if body, err := io.ReadAll(resp.Body); string(body) != "part" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", body, err)
	}
}

// The next handler gets the very ResponseWriter that the server made.
//
// Catalogue: P64.
func TestTheResponseWriterIsUntouched(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for _, mounting := range mountings(m) {
		rec := httptest.NewRecorder()
		var got http.ResponseWriter
		next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { got = w })
		mounting.wrap(next).ServeHTTP(rec, get("Bearer opaque-token"))
		if got != http.ResponseWriter(rec) {
			t.Errorf("%s: next got another writer", mounting.name)
		}
	}
}

// The next handler can flush, hijack, set deadlines, copy a file and push, as
// without the middleware.
//
// Catalogue: P64.
func TestWhatAWriterCanDo(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: rs.test\r\nAuthorization: Bearer opaque-token\r\n\r\n"
	t.Run("Flusher", func(t *testing.T) {
		as := newAS(t)
		read := make(chan struct{})
		conn, in := dial(t, as.middleware().Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			<-read
			io.WriteString(w, "second")
		})))
		must(io.WriteString(conn, request))
		body := must(http.ReadResponse(in, nil)).Body
		first := make([]byte, 5)
		must(io.ReadFull(body, first))
		close(read)
		if rest := must(io.ReadAll(body)); string(first) != "first" || string(rest) != "second" {
			t.Errorf("%q, %q", first, rest)
		}
	})
	t.Run("Hijacker", func(t *testing.T) {
		as := newAS(t)
		conn, in := dial(t, as.middleware().Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "not HTTP at all")
		})))
		must(io.WriteString(conn, request))
		if got := must(io.ReadAll(in)); string(got) != "not HTTP at all" {
			t.Errorf("%q", got)
		}
	})
	t.Run("ResponseController", func(t *testing.T) {
		as := newAS(t)
		conn, in := dial(t, as.middleware().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			far := time.Now().Add(time.Hour)
			err := errors.Join(rc.SetReadDeadline(far), rc.SetWriteDeadline(far), rc.EnableFullDuplex(), rc.Flush())
			if err != nil {
				t.Error(err)
			}
			io.Copy(w, r.Body)
		})))
		must(io.WriteString(conn, "POST / HTTP/1.1\r\nHost: rs.test\r\n"+
			"Authorization: Bearer opaque-token\r\nContent-Length: 4\r\n\r\necho"))
		if got := must(io.ReadAll(must(http.ReadResponse(in, nil)).Body)); string(got) != "echo" {
			t.Errorf("%q", got)
		}
	})
	t.Run("ReaderFrom", func(t *testing.T) {
		as := newAS(t)
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		conn, in := dial(t, as.middleware().Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			file := must(os.Open(path))
			defer file.Close()
			if n, err := w.(io.ReaderFrom).ReadFrom(file); n != 1<<20 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})))
		must(io.WriteString(conn, request))
		if got := must(io.ReadAll(must(http.ReadResponse(in, nil)).Body)); len(got) != 1<<20 {
			t.Errorf("%d bytes", len(got))
		}
	})
	t.Run("HTTP 2 server push and flush", func(t *testing.T) {
		as := newAS(t)
		srv := startHTTP2(t, as.middleware().Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, ok := w.(http.Pusher); !ok {
				t.Error("no Pusher")
			}
			w.(http.Flusher).Flush()
			io.WriteString(w, "served")
		})))
		r := must(http.NewRequest(http.MethodGet, srv.URL, nil))
		r.Header.Set("Authorization", "Bearer opaque-token")
		if rec := roundTrip(t, srv, r); rec.Body.String() != "served" {
			t.Errorf("%q", rec.Body)
		}
	})
}

// A 401 of the next handler reaches the client byte for byte. It drops no entry
// and asks no server.
//
// Catalogue: P65.
func TestAnswersOfNextAreItsOwn(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	for range 2 {
		next := &spy{serve: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Www-Authenticate"] = []string{"Foo", `Bar  realm=x,y="z"`}
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Content-Type", "text/weird")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, "no!")
		}}
		rec := serve(m.Handler(next), get("Bearer opaque-token"))
		want := http.Header{
			"Www-Authenticate": {"Foo", `Bar  realm=x,y="z"`}, "Cache-Control": {"max-age=60"}, "Content-Type": {"text/weird"},
		}
		if rec.Code != http.StatusUnauthorized || !reflect.DeepEqual(rec.Header(), want) || rec.Body.String() != "no!" {
			t.Errorf("%d %v %q", rec.Code, rec.Header(), rec.Body)
		}
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	up := newUpstream(t)
	up.serve = func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Www-Authenticate"] = []string{"Foo"}
		w.WriteHeader(http.StatusUnauthorized)
	}
	for _, proxy := range up.proxies() {
		rec := serve(m.Handler(proxy), get("Bearer opaque-token"))
		got := rec.Header()["Www-Authenticate"]
		if rec.Code != http.StatusUnauthorized || !slices.Equal(got, []string{"Foo"}) {
			t.Errorf("%s: %d %q", proxy.name, rec.Code, got)
		}
	}
	if n := as.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// In a context without a token there are no claims, not even zero ones.
//
// Catalogue: P69.
func TestContextWithoutToken(t *testing.T) {
	type own struct{ Sub string }
	for _, tc := range []struct {
		name string
		ctx  context.Context
	}{
		{"empty", t.Context()}, {"nil token", phantom.NewContext(t.Context(), nil)},
	} {
		if tok, ok := phantom.FromContext(tc.ctx); tok != nil || ok {
			t.Errorf("%s: %v, %v", tc.name, tok, ok)
		}
		if c, err := phantom.Claims[own](tc.ctx); c != (own{}) || !errors.Is(err, phantom.ErrNoToken) {
			t.Errorf("%s: %v, %v", tc.name, c, err)
		}
		if c, err := phantom.Claims[*own](tc.ctx); c != nil || !errors.Is(err, phantom.ErrNoToken) {
			t.Errorf("%s: %v, %v", tc.name, c, err)
		}
		if c, err := phantom.Claims[map[string]any](tc.ctx); c != nil || !errors.Is(err, phantom.ErrNoToken) {
			t.Errorf("%s: %v, %v", tc.name, c, err)
		}
	}
}

// Claims decodes the token in the context whole or not at all.
//
// Catalogue: P69.
func TestContextWithToken(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{"tenant": "blue", "level": 3})))
	tok := must(as.middleware().Verify(t.Context(), "opaque-token"))
	ctx := phantom.NewContext(t.Context(), tok)
	if got, ok := phantom.FromContext(ctx); got != tok || !ok {
		t.Errorf("%v, %v", got, ok)
	}
	type own struct {
		Sub    string `json:"sub"`
		Tenant string `json:"tenant"`
		Level  int    `json:"level"`
	}
	if c, err := phantom.Claims[own](ctx); c != (own{"alice", "blue", 3}) || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := phantom.Claims[*own](ctx); err != nil || *c != (own{"alice", "blue", 3}) {
		t.Errorf("%v, %v", c, err)
	}
	// Claims that decode by half are not returned by half.
	type wrong struct {
		Sub    string `json:"sub"`
		Tenant int    `json:"tenant"`
	}
	if c, err := phantom.Claims[wrong](ctx); c != (wrong{}) || err == nil {
		t.Errorf("%v, %v", c, err)
	}
	if _, ok := phantom.FromContext(phantom.NewContext(ctx, nil)); ok {
		t.Error("a nil token does not hide the outer one")
	}
}

// What a router knows of a request is known behind the middleware too.
func TestNextSeesTheRoute(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	var got string
	route := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Pattern + " " + r.PathValue("id")
	})
	inside, around := http.NewServeMux(), http.NewServeMux()
	inside.Handle("GET /orders/{id}", m.RequireScopes("read")(route))
	around.Handle("GET /orders/{id}", route)
	for _, tc := range []struct {
		name    string
		handler http.Handler
	}{{"inside", inside}, {"around", m.Handler(around)}} {
		got = ""
		r := httptest.NewRequest(http.MethodGet, "https://rs.test/orders/17", nil)
		r.Header.Set("Authorization", "Bearer opaque-token")
		if serve(tc.handler, r); got != "GET /orders/{id} 17" {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

// The next handler gets the body byte for byte. Its Content-Type makes no
// difference, for the middleware does not parse it.
func TestNextGetsTheBody(t *testing.T) {
	body := "token=evil&access_token=evil\r\n\x00\xff"
	for _, contentType := range []string{
		"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json", "",
	} {
		as := newAS(t)
		var got string
		next := &spy{serve: func(_ http.ResponseWriter, r *http.Request) { got = string(must(io.ReadAll(r.Body))) }}
		rec := exchange(t, as.middleware().Handler(next), fmt.Sprintf("POST / HTTP/1.1\r\nHost: rs.test\r\n"+
			"Connection: close\r\nAuthorization: Bearer opaque-token\r\n"+
			"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body))
		if rec.Code != http.StatusOK || got != body {
			t.Errorf("%s: %d, %q", contentType, rec.Code, got)
		}
	}
}

// Once the token is good, the next handler sees the client leave.
func TestNextSeesTheClientLeave(t *testing.T) {
	as := newAS(t)
	m := as.middleware()
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Fatal(got)
	}
	ended := make(chan struct{})
	srv := httptest.NewServer(m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(ended)
	})))
	defer srv.Close()
	conn := must(net.Dial("tcp", srv.Listener.Addr().String()))
	must(io.WriteString(conn, "GET / HTTP/1.1\r\nHost: rs.test\r\nAuthorization: Bearer opaque-token\r\n\r\n"))
	conn.Close()
	<-ended
}
