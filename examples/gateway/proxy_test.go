package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestForward(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	token := s.issue(nil)

	t.Run("P57 the JWT and not the opaque token", func(t *testing.T) {
		g.get(t, "/orders/7?q=a%20b&q=c", token).served(t)
		r, _ := s.upstream.last(t)
		checkJWT(t, r)
		if r.RequestURI != "/orders/7?q=a%20b&q=c" {
			t.Errorf("request target %q", r.RequestURI)
		}
		dump, err := httputil.DumpRequest(r, false)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(dump), token) {
			t.Errorf("the opaque token is in\n%s", dump)
		}
	})

	t.Run("method and body", func(t *testing.T) {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"} {
			req, _ := http.NewRequestWithContext(t.Context(), method, g.url+"/", strings.NewReader("the body of "+method))
			req.Header.Set("Authorization", "Bearer "+token)
			fetch(t, client, req).served(t)
			if r, body := s.upstream.last(t); r.Method != method || body != "the body of "+method {
				t.Errorf("%s %q", r.Method, body)
			}
		}
		a := g.do(t, "HEAD", "/", token)
		if r, _ := s.upstream.last(t); r.Method != http.MethodHead || a.StatusCode != http.StatusOK || a.body != "" {
			t.Errorf("%s: %d %q", r.Method, a.StatusCode, a.body)
		}
	})

	t.Run("Host and X-Forwarded", func(t *testing.T) {
		g.get(t, "/", token).served(t)
		r, _ := s.upstream.last(t)
		if want := strings.TrimPrefix(s.upstream.URL, "http://"); r.Host != want {
			t.Errorf("Host %q, want the upstream's", r.Host)
		}
		checkForwarded(t, r, "127.0.0.1", strings.TrimPrefix(g.url, "http://"), "http")
	})

	t.Run("forged fields", func(t *testing.T) {
		forged := []string{
			"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
			"X-Forwarded-Prefix", "X-Forwarded-User", "X_Forwarded_For", "X.Forwarded.Host", "X-Forwarded_Proto",
			"x~forwarded~for", "X-Real-IP", "X_Real_IP", "Proxy-Authorization", "Proxy_Authorization", "DPoP",
			"True-Client-IP", "Client-Cert", "Client-Cert-Chain", "Client_Cert", "X-Client-IP", "X-Forwarded", "X-Original-URL",
			"X-Rewrite-URL", "X_Original_URL", "Proxy", "Remote-User", "X-Remote-User", "X-Remote-Extra-Scopes", "X-Auth-Request-Email",
			"X-WebAuth-User", "X-Goog-Authenticated-User-Email", "X-Amzn-Oidc-Data", "Cf-Access-Jwt-Assertion", "X-Envoy-Original-Path",
			"X-MS-CLIENT-PRINCIPAL", "X-SSL-Client-Verify", "SSL_CLIENT_S_DN", "X-Pomerium-" + strings.Repeat("Very-Long-", 20),
		}
		fields := []string{"X-Request-Id", "kept", "X-Forwarder", "kept", "X-Remoteness", "kept", "Proxying", "kept"}
		for _, name := range forged {
			fields = append(fields, name, "evil")
		}
		g.do(t, "GET", "/", token, fields...).served(t)
		r, _ := s.upstream.last(t)
		checkForwarded(t, r, "127.0.0.1", strings.TrimPrefix(g.url, "http://"), "http")
		for name, values := range r.Header {
			if slices.Contains(values, "evil") {
				t.Errorf("%s: %q", name, values)
			}
		}
		if r.Header.Get("X-Request-Id")+r.Header.Get("X-Forwarder")+r.Header.Get("X-Remoteness")+r.Header.Get("Proxying") != "keptkeptkeptkept" {
			t.Errorf("header %v", r.Header)
		}
	})

	t.Run("P53 Connection", func(t *testing.T) {
		for _, connection := range []string{"close, authorization", "Authorization", "keep-alive, x-hop,AUTHORIZATION"} {
			g.do(t, "GET", "/", token, "Connection", connection, "Keep-Alive", "timeout=5", "X-Hop", "here").served(t)
			r, _ := s.upstream.last(t)
			checkJWT(t, r)
			if r.Header.Get("Keep-Alive") != "" || strings.Contains(connection, "x-hop") != (r.Header.Get("X-Hop") == "") {
				t.Errorf("Connection %q: header %v", connection, r.Header)
			}
		}
		// A client cannot take away what the gateway says of it, either.
		g.do(t, "GET", "/", token, "Connection", "X-Forwarded-For, X-Forwarded-Host").served(t)
		r, _ := s.upstream.last(t)
		checkForwarded(t, r, "127.0.0.1", strings.TrimPrefix(g.url, "http://"), "http")
	})

	t.Run("P56 trailer", func(t *testing.T) {
		for _, announced := range []string{"Trailer: Authorization\n", "Trailer: X-Sum, Authorization\n", ""} {
			a := g.raw(t, "POST / HTTP/1.1\nHost: a\nAuthorization: Bearer "+token+"\nConnection: close\n"+announced+
				"Transfer-Encoding: chunked\n\n4\nbody\n0\nAuthorization: Bearer evil\nX-Sum: 1\n\n")
			a.served(t)
			r, body := s.upstream.last(t)
			checkJWT(t, r)
			if _, found := r.Trailer["Authorization"]; found || body != "body" {
				t.Errorf("trailer %v, body %q", r.Trailer, body)
			}
		}
	})

	t.Run("absolute form", func(t *testing.T) {
		// The gateway is no forward proxy: the request goes to its upstream.
		a := g.raw(t, "GET http://evil.example/x HTTP/1.1\nHost: evil.example\nConnection: close\nAuthorization: Bearer "+token+"\n\n")
		a.served(t)
		if r, _ := s.upstream.last(t); r.RequestURI != "/x" || r.Host != strings.TrimPrefix(s.upstream.URL, "http://") {
			t.Errorf("%s of %s", r.RequestURI, r.Host)
		}
	})

	t.Run("HTTP/1.0", func(t *testing.T) {
		g.raw(t, "GET /x HTTP/1.0\nAuthorization: Bearer "+token+"\n\n").served(t)
		r, _ := s.upstream.last(t)
		checkJWT(t, r)
	})
}

// checkForwarded checks what the upstream learns about the client.
func checkForwarded(t *testing.T, r *http.Request, client, host, proto string) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Forwarded-For": client, "X-Forwarded-Host": host, "X-Forwarded-Proto": proto,
	} {
		if got := r.Header.Values(name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// What the upstream answers reaches the client as it is.
func TestAnswers(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	g.ready(t)
	token := s.issue(nil)

	t.Run("own challenge", func(t *testing.T) {
		s.upstream.does(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", "Foo bar=baz")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "not you")
		})
		a := g.get(t, "/", token)
		s.upstream.last(t)
		if a.StatusCode != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") != "Foo bar=baz" || a.body != "not you" {
			t.Errorf("%d %v %q", a.StatusCode, a.Header, a.body)
		}
		if n := s.as.Introspections(); n != 2 {
			t.Errorf("%d introspections", n)
		}
	})

	t.Run("redirect, cookie, compression", func(t *testing.T) {
		s.upstream.does(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Set-Cookie", "a=b")
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(http.StatusFound)
			_, _ = io.WriteString(w, "as it is")
		})
		a := g.raw(t, "GET / HTTP/1.1\nHost: a\nConnection: close\nAuthorization: Bearer "+token+"\n\n")
		if r, _ := s.upstream.last(t); r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("Accept-Encoding %q of nobody", r.Header.Get("Accept-Encoding"))
		}
		if a.StatusCode != http.StatusFound || a.Header.Get("Location") != "/elsewhere" || a.Header.Get("Set-Cookie") != "a=b" ||
			a.Header.Get("Content-Encoding") != "gzip" || a.body != "as it is" {
			t.Errorf("%d %v %q", a.StatusCode, a.Header, a.body)
		}
	})

	t.Run("interim answer", func(t *testing.T) {
		s.upstream.does(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
		})
		a := g.raw(t, "GET /hints HTTP/1.1\nHost: a\nConnection: close\nAuthorization: Bearer "+token+"\n\n")
		s.upstream.last(t)
		if a.StatusCode != http.StatusEarlyHints || a.Header.Get("Link") == "" {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
		g.eventually(t, "line for /hints with the final status", func() bool {
			return slices.ContainsFunc(g.lines("request"), func(line map[string]any) bool {
				return line["path"] == "/hints" && line["status"] == 202.0
			})
		})
	})
}

// Neither method gets as far as the upstream, with a token or without.
//
// Catalogue: P59.
func TestTraceAndConnectEndHere(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	g.ready(t)
	token := s.issue(nil)
	upstream := strings.TrimPrefix(s.upstream.URL, "http://")
	for _, line := range []string{
		"TRACE / HTTP/1.1",
		"TRACE " + s.upstream.URL + "/ HTTP/1.1",
		"trace / HTTP/1.1",
		"CONNECT " + upstream + " HTTP/1.1",
		"CONNECT / HTTP/1.1",
		"Connect / HTTP/1.1",
	} {
		for name, field := range map[string]string{"token": "Authorization: Bearer " + token + "\n", "no token": "", "junk": "Authorization: Bearer junk\n"} {
			t.Run(line+" "+name, func(t *testing.T) {
				a := g.raw(t, line+"\nHost: "+upstream+"\nConnection: close\nMax-Forwards: 1\n"+field+"\n")
				if a.StatusCode != http.StatusMethodNotAllowed || a.body != "method not allowed\n" {
					t.Errorf("%d %q", a.StatusCode, a.body)
				}
				if got := a.Header.Get("Allow"); got != "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" {
					t.Errorf("Allow %q", got)
				}
			})
		}
	}
	s.upstream.untouched(t)
	if n := s.as.Introspections(); n != 1 {
		t.Errorf("%d introspections", n)
	}
}

// R48 and others: nothing but a token in Authorization lets a request through.
func TestNoWayAround(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	g.ready(t)
	token := s.issue(nil)
	host := strings.TrimPrefix(g.url, "http://")

	for _, target := range []string{
		"/", "/public/..%2fadmin", "/public/../admin", "/public/%2e%2e/admin", "//admin", "///", "/./admin", "/admin/.",
		"/public;/../admin", "/public%00/admin", `/public/..\admin`, "/public%5c..%5cadmin", "/admin#/public", "/public?/admin",
		"/livez", "/readyz", "/health", "/.well-known/oauth-protected-resource", "/favicon.ico", "/robots.txt",
		"http://" + host + "/", s.upstream.URL + "/", "http://other.example//admin", "?x", "/?access_token=" + token,
	} {
		t.Run("R48 "+target, func(t *testing.T) {
			if strings.HasPrefix(target, "?") {
				target = "/" + target
			}
			a := g.raw(t, "GET "+target+" HTTP/1.1\nHost: "+host+"\nConnection: close\n\n")
			a.rejected(t, 401, noToken)
		})
	}
	for _, line := range []string{"OPTIONS *", "OPTIONS /", "HEAD /", "POST /", "PURGE /", "PROPFIND /", "PRI /"} {
		t.Run("R48 "+line, func(t *testing.T) {
			g.raw(t, line+" HTTP/1.1\nHost: "+host+"\nConnection: close\n\n").rejected(t, 401, noToken)
		})
	}
	for _, field := range []string{
		"X-Original-URL: /public", "X-Rewrite-URL: /public", "X-Original-Method: OPTIONS", "X-HTTP-Method-Override: OPTIONS",
		"X-Forwarded-Uri: /public", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "X-Forwarded-User: admin",
		"User-Agent: kube-probe/1.30", "User-Agent: ELB-HealthChecker/2.0", "Referer: http://" + host + "/public",
		"Origin: http://" + host + "\nAccess-Control-Request-Method: GET",
		"Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Proxy-Authorization: Bearer " + token,     // R25
		"Cookie: access_token=" + token,            // R26
		"Sec-WebSocket-Protocol: bearer, " + token, // R27
		"X-Authorization: Bearer " + token, "Authorization : Bearer " + token, "Authorization_: Bearer " + token,
	} {
		name, _, _ := strings.Cut(field, "\n")
		t.Run("R48 "+strings.ReplaceAll(name, token, "token"), func(t *testing.T) {
			a := g.raw(t, "GET /admin HTTP/1.1\nHost: "+host+"\n"+field+"\n\n")
			if strings.HasPrefix(field, "Authorization ") { // not HTTP: net/http refuses it
				if a.StatusCode != http.StatusBadRequest {
					t.Errorf("status %d", a.StatusCode)
				}
				return
			}
			a.rejected(t, 401, noToken)
		})
	}
	t.Run("R28 trailer", func(t *testing.T) {
		g.raw(t, "POST / HTTP/1.1\nHost: a\nTrailer: Authorization\nTransfer-Encoding: chunked\n\n"+
			"4\nbody\n0\nAuthorization: Bearer "+token+"\n\n").rejected(t, 401, noToken)
	})
	t.Run("R38 no body without a token", func(t *testing.T) {
		// raw would return the 100 Continue if there were one.
		a := g.raw(t, "POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 10000000\n\n")
		a.rejected(t, 401, noToken)
	})
	t.Run("R44 HTTP/1.0", func(t *testing.T) {
		g.raw(t, "GET / HTTP/1.0\n\n").rejected(t, 401, noToken)
		g.raw(t, "GET / HTTP/1.0\nHost: a\n\n").rejected(t, 401, noToken)
	})
	s.upstream.untouched(t)
	if n := s.as.Introspections(); n != 1 {
		t.Errorf("%d introspections", n)
	}
}

// Malformed requests get no further than to the gateway.
func TestMalformed(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	g.ready(t)
	const challenge = `Bearer realm="api", error="invalid_request", error_description="The bearer token is malformed or sent more than once."`
	for name, fields := range map[string]string{
		"R8 two tokens in one":  "Authorization: Bearer a b",
		"R10 two fields":        "Authorization: Bearer a\nAuthorization: Bearer b",
		"R12 two schemes":       "Authorization: Bearer a, Basic Zm9v",
		"R14 not a b64token":    "Authorization: Bearer t%41k",
		"R4 scheme and nothing": "Authorization: Bearer",
	} {
		t.Run(name, func(t *testing.T) {
			g.raw(t, "GET / HTTP/1.1\nHost: a\n"+fields+"\n\n").rejected(t, 400, challenge)
		})
	}
	t.Run("R17 token of 16385", func(t *testing.T) {
		a := g.raw(t, "GET / HTTP/1.1\nHost: a\nAuthorization: Bearer "+strings.Repeat("a", 16<<10+1)+"\n\n")
		a.rejected(t, 400, strings.Replace(challenge, "malformed or sent more than once", "too long", 1))
	})
	s.upstream.untouched(t)
	if n := s.as.Introspections(); n != 1 {
		t.Errorf("%d introspections", n)
	}
}

// A slow client may be slow with a body, as long as it likes, and with nothing
// else.
func TestTimeLimits(t *testing.T) {
	srv := newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if srv.ReadHeaderTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 {
		t.Errorf("no limit: %v %v %d", srv.ReadHeaderTimeout, srv.IdleTimeout, srv.MaxHeaderBytes)
	}
	if srv.ReadTimeout != 0 || srv.WriteTimeout != 0 {
		t.Errorf("streams are cut after %v, %v", srv.ReadTimeout, srv.WriteTimeout)
	}
}

// A websocket passes to the upstream and back; no other upgrade does.
//
// Catalogue: P55.
func TestOnlyWebsocketsAreUpgraded(t *testing.T) {
	s := newSite(t)
	s.upstream.does(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			_, _ = io.WriteString(w, "no upgrade: "+r.Header.Get("Upgrade")+r.Header.Get("Connection")+r.Header.Get("HTTP2-Settings"))
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
		_, _ = io.Copy(conn, buffered)
	})
	g := s.start(t, nil)
	token := s.issue(nil)

	t.Run("websocket", func(t *testing.T) {
		conn := g.dial(t)
		_, _ = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, Authorization\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		r, _ := s.upstream.last(t)
		checkJWT(t, r)
		if r.Header.Get("Sec-WebSocket-Key") != "dGhlIHNhbXBsZSBub25jZQ==" || r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("header %v", r.Header)
		}
		want := "hello "
		for _, message := range []string{"one", "\x00\xfftwo", "three"} {
			_, _ = io.WriteString(conn, message)
			want += message
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
			want = ""
		}
		_ = conn.Close()
		line := g.await(t, "request")
		if line["status"] != 101.0 || line["path"] != "/chat" {
			t.Errorf("log line %v", line)
		}
	})

	// An upgrade to h2c would be a tunnel for requests without any token.
	for _, protocol := range []string{"h2c", "websocket, h2c", "h2c\nUpgrade: websocket", "TLS/1.0", "foo", "f\u00f6\u00f6", "web\tsocket", "webſocket", "websoc\u212aet"} {
		t.Run("no upgrade to "+protocol, func(t *testing.T) {
			a := g.raw(t, "GET / HTTP/1.1\nHost: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: "+protocol+
				"\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\nAuthorization: Bearer "+token+"\n\n")
			s.upstream.last(t)
			if a.StatusCode != http.StatusOK || a.body != "no upgrade: " {
				t.Errorf("%d %q", a.StatusCode, a.body)
			}
		})
	}
}

// Each piece of an answer arrives before the upstream writes the next.
func TestStreaming(t *testing.T) {
	s := newSite(t)
	received := make(chan struct{})
	for name, field := range map[string][2]string{
		"SSE":            {"Content-Type", "text/event-stream"},
		"chunked":        {"Content-Type", "application/json"},
		"Content-Length": {"Content-Length", "24"},
	} {
		t.Run(name, func(t *testing.T) {
			s.upstream.does(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(field[0], field[1])
				for i := range 3 {
					_, _ = fmt.Fprintf(w, "data: %d\n", i)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-received:
					case <-r.Context().Done():
						return
					}
				}
			})
			g := s.start(t, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url+"/events", nil)
			req.Header.Set("Authorization", "Bearer "+s.issue(nil))
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			in := bufio.NewReader(resp.Body)
			for i := range 3 {
				line, err := in.ReadString('\n')
				if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
					t.Fatalf("%q, %v; want %q", line, err, want)
				}
				received <- struct{}{}
			}
			s.upstream.last(t)
		})
	}

	t.Run("upload", func(t *testing.T) {
		s.upstream.does(func(_ http.ResponseWriter, r *http.Request) {
			in := bufio.NewReader(r.Body)
			for {
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
				received <- struct{}{}
			}
		})
		g := s.start(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		body, out := io.Pipe()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/upload", body)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		go func() {
			defer out.Close()
			for range 3 {
				_, _ = io.WriteString(out, "a line\n")
				select {
				case <-received:
				case <-ctx.Done():
					return
				}
			}
		}()
		if a := fetch(t, client, req); a.StatusCode != http.StatusOK {
			t.Errorf("status %d", a.StatusCode)
		}
	})
}

// A stream and a websocket end when the token expires. (Z4)
func TestStreamsEndWithTheToken(t *testing.T) {
	s := newSite(t)
	ended := make(chan struct{}, 2)
	s.upstream.does(func(w http.ResponseWriter, r *http.Request) {
		defer func() { ended <- struct{}{} }()
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 0\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	g := s.start(t, nil)
	exp := time.Now().Add(3 * time.Second)
	token := s.issue(map[string]any{"exp": exp.Unix()})
	for name, upgrade := range map[string]string{"stream": "", "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\n"} {
		conn := g.dial(t)
		_, _ = io.WriteString(conn, "GET /"+name+" HTTP/1.1\r\nHost: a\r\n"+upgrade+"Authorization: Bearer "+token+"\r\n\r\n")
		in := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode > 200 && upgrade == "" {
			t.Fatalf("%s: %v, %v", name, resp, err)
		}
		defer func() {
			_, err := io.Copy(io.Discard, in)
			if left := time.Until(exp); err != nil || left > time.Second+100*time.Millisecond || left < -patience/2 {
				t.Errorf("%s: error %v, %v before the expiry", name, err, left)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Errorf("%s: the upstream's request goes on", name)
			}
		}()
	}
}

func TestUpstreamFailures(t *testing.T) {
	bad := func(t *testing.T, a answer) {
		t.Helper()
		if a.StatusCode != http.StatusBadGateway || a.body != "the service behind this gateway does not answer\n" ||
			a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%d %v %q", a.StatusCode, a.Header, a.body)
		}
	}
	reasonOf := func(t *testing.T, g *gateway) string {
		t.Helper()
		return g.await(t, "no answer of the upstream")["reason"].(string)
	}

	t.Run("closed port", func(t *testing.T) {
		s := newSite(t)
		s.upstream.Close()
		g := s.start(t, nil)
		bad(t, g.get(t, "/", s.issue(nil)))
		want := "dial tcp " + strings.TrimPrefix(s.upstream.URL, "http://") + ": connect: connection refused"
		if got := reasonOf(t, g); got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	})

	// raw starts an upstream that is no HTTP server.
	raw := func(t *testing.T, s *site, format string) *gateway {
		t.Helper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = fmt.Fprintf(conn, format, s.secret(bearer(r)), r.URL.RawQuery)
				}
				_ = conn.Close()
			}
		}()
		return s.start(t, map[string]string{"upstream": "http://" + listener.Addr().String()})
	}

	t.Run("echo of the request", func(t *testing.T) {
		s := newSite(t)
		for format, want := range map[string]string{
			"%s %s\r\n\r\n":                           "unusable answer",
			"HTTP/1.1 %s %s\r\n\r\n":                  "unusable answer",
			"HTTP/1.1 200 OK\r\n%s %s\r\n\r\n":        "unusable answer",
			"HTTP/1.1 200 OK\r\nContent-Length: %s%s": "connection closed",
			"%.0s%.0s": "connection closed",
		} {
			g := raw(t, s, format)
			bad(t, g.get(t, "/?q="+s.secret("hidden-in-the-query"), s.issue(nil)))
			if got := reasonOf(t, g); got != want {
				t.Errorf("%q: reason %q", format, got)
			}
		}
	})

	t.Run("echo in the trailer", func(t *testing.T) {
		s := newSite(t)
		g := raw(t, s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n%s %s\r\n\r\n")
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		if line := g.await(t, "request"); line["complete"] != false {
			t.Errorf("log line %v", line)
		}
	})

	t.Run("too slow", func(t *testing.T) {
		s := newSite(t)
		s.upstream.does(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		g := s.start(t, map[string]string{"upstream-timeout": "50ms"})
		bad(t, g.get(t, "/", s.issue(nil)))
		if got := reasonOf(t, g); got != "timeout" {
			t.Errorf("reason %q", got)
		}
	})

	t.Run("switches to what nobody asked for", func(t *testing.T) {
		s := newSite(t)
		s.upstream.does(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "h2c")
			w.WriteHeader(http.StatusSwitchingProtocols)
		})
		g := s.start(t, nil)
		bad(t, g.get(t, "/", s.issue(nil)))
	})

	t.Run("breaks off", func(t *testing.T) {
		s := newSite(t)
		s.upstream.does(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, s.secret(bearer(r)))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		g := s.start(t, nil)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		resp, err := client.Do(req)
		if err == nil { // the header may have got through before the end
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
		}
		if err == nil {
			t.Error("the client takes the answer for complete")
		}
		if line := g.await(t, "request"); line["complete"] != false || line["status"] != 200.0 {
			t.Errorf("log line %v", line)
		}
	})

	t.Run("the client leaves", func(t *testing.T) {
		s := newSite(t)
		arrived := make(chan struct{})
		s.upstream.does(func(_ http.ResponseWriter, r *http.Request) {
			close(arrived)
			<-r.Context().Done() // so does the gateway's request
		})
		g := s.start(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		go func() {
			<-arrived
			cancel()
		}()
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Errorf("status %d", resp.StatusCode)
		}
		if line := g.await(t, "request"); line["status"] != 499.0 {
			t.Errorf("log line %v", line)
		}
		if lines := g.lines("no answer of the upstream"); len(lines) > 0 {
			t.Errorf("the upstream is blamed: %v", lines)
		}
	})
}

func TestAccessLog(t *testing.T) {
	s := newSite(t)
	g := s.start(t, map[string]string{"scopes": "read"})
	token, other := s.issue(nil), s.issue(map[string]any{"scope": "profile"})
	hidden := s.secret("hidden-in-the-query")

	g.get(t, "/a%2Fb/c?key="+hidden, token).served(t)
	g.get(t, "/nobody?key="+hidden, "")
	g.get(t, "/other", other)
	g.get(t, "/revoked", s.secret("a-token-that-is-unknown"))
	g.do(t, "GET", "/twice", token, "Authorization", "Bearer "+token)
	g.do(t, "GET", "/basic", "", "Authorization", "Basic "+s.secret("dXNlcjpwYXNzd29yZA=="))
	g.do(t, "GET", "/others", token, "Cookie", "a="+s.secret("in-a-cookie"), "Referer", "http://x/?"+s.secret("in-the-referer"))
	g.raw(t, "GET http://"+s.secret("user:in-the-authority")+"@a/absolute?"+hidden+" HTTP/1.1\nHost: a\nConnection: close\n\n")
	// The cleanup of start looks for all the secrets.

	want := []struct {
		path   string
		status float64
	}{
		{"/a%2Fb/c", 200}, {"/nobody", 401}, {"/other", 403}, {"/revoked", 401},
		{"/twice", 400}, {"/basic", 401}, {"/others", 200}, {"/absolute", 401},
	}
	var lines []map[string]any
	g.eventually(t, "line for each request", func() bool {
		lines = g.lines("request")
		return len(lines) == len(want)
	})
	// A line is written when its client has the answer and may ask again.
	position := func(line map[string]any) int {
		for i := range want {
			if line["path"] == want[i].path {
				return i
			}
		}
		return len(want)
	}
	slices.SortStableFunc(lines, func(a, b map[string]any) int { return position(a) - position(b) })
	for i, line := range lines {
		if line["path"] != want[i].path || line["status"] != want[i].status {
			t.Errorf("%v, want %v", line, want[i])
		}
	}
	first := lines[0]
	if client, _ := first["client"].(string); !strings.HasPrefix(client, "127.0.0.1:") {
		t.Errorf("client %v", first["client"])
	}
	if seconds, _ := first["seconds"].(float64); seconds <= 0 {
		t.Errorf("seconds %v", first["seconds"])
	}
	if first["bytes"] != 6.0 || first["method"] != "GET" || first["complete"] != true || first["level"] != "INFO" {
		t.Errorf("line %v", first)
	}
	for name := range first {
		if !slices.Contains([]string{"time", "level", "msg", "method", "path", "status", "bytes", "complete", "seconds", "client"}, name) {
			t.Errorf("there is a field %q", name)
		}
	}
}

func TestHealth(t *testing.T) {
	s := newSite(t)
	var down atomic.Bool
	down.Store(true)
	s.asServer.be(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.as.ServeHTTP(w, r)
	})
	g := s.start(t, nil)
	probe := func(t *testing.T, path string) answer {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.health+path, nil)
		return fetch(t, client, req)
	}

	if a := probe(t, "/livez"); a.StatusCode != http.StatusOK || a.body != "" {
		t.Errorf("/livez: %d %q", a.StatusCode, a.body)
	}
	if a := probe(t, "/readyz"); a.StatusCode != http.StatusServiceUnavailable || a.body != "not ready\n" {
		t.Errorf("/readyz without an authorization server: %d %q", a.StatusCode, a.body)
	}
	g.await(t, "not ready") // says why, as well
	down.Store(false)
	g.eventually(t, "readiness", func() bool { return probe(t, "/readyz").StatusCode == http.StatusOK })

	// It does not get better by taking the gateway out of service.
	down.Store(true)
	if a := probe(t, "/readyz"); a.StatusCode != http.StatusOK {
		t.Errorf("/readyz after an outage: %d", a.StatusCode)
	}
	for _, path := range []string{"/", "/orders", "/livez/orders"} {
		if a := probe(t, path); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s is served next to the probes: %d", path, a.StatusCode)
		}
	}
	s.upstream.untouched(t)
	if lines := g.lines("request"); len(lines) > 0 {
		t.Errorf("probes are in the access log: %v", lines)
	}
}

func TestShutdown(t *testing.T) {
	// begin sends a request, in the middle of which the test goes on.
	begin := func(t *testing.T, s *site, g *gateway, finish chan struct{}) chan error {
		t.Helper()
		arrived := make(chan struct{})
		s.upstream.does(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "one ")
			_ = http.NewResponseController(w).Flush()
			close(arrived)
			select {
			case <-finish:
				_, _ = io.WriteString(w, "two")
			case <-r.Context().Done():
			}
		})
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
		req.Header.Set("Authorization", "Bearer "+s.issue(nil))
		outcome := make(chan error, 1)
		go func() {
			resp, err := client.Do(req)
			if err == nil {
				var body []byte
				if body, err = io.ReadAll(resp.Body); err == nil && string(body) != "one two" {
					err = fmt.Errorf("body %q", body)
				}
				_ = resp.Body.Close()
			}
			outcome <- err
		}()
		<-arrived
		return outcome
	}

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run("finishes a request after "+sig.String(), func(t *testing.T) {
			s := newSite(t)
			g := s.start(t, nil)
			finish := make(chan struct{})
			outcome := begin(t, s, g, finish)
			if err := g.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			g.eventually(t, "end of listening", func() bool {
				conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			})
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.health+"/readyz", nil)
			if a := fetch(t, client, req); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("/readyz: %d", a.StatusCode)
			}
			close(finish)
			if err := <-outcome; err != nil {
				t.Error(err)
			}
			if code := g.wait(t); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if line := g.await(t, "request"); line["complete"] != true || line["status"] != 200.0 {
				t.Errorf("log line %v", line)
			}
		})
	}

	t.Run("does not wait for ever", func(t *testing.T) {
		s := newSite(t)
		g := s.start(t, map[string]string{"shutdown-timeout": "50ms"})
		outcome := begin(t, s, g, nil)
		g.stop(t, syscall.SIGTERM)
		if err := <-outcome; err == nil {
			t.Error("a request without an end has come to its end")
		}
		g.await(t, "requests are cut off")
	})

	t.Run("not at all after a second signal", func(t *testing.T) {
		s := newSite(t)
		g := s.start(t, nil)
		outcome := begin(t, s, g, nil)
		// The first one is the only one that it waits after.
		for running := true; running; {
			_ = g.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-g.exited:
				running = false
			case <-time.After(time.Millisecond):
			}
		}
		if status := g.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
			t.Errorf("it ended by %v", g.cmd.ProcessState)
		}
		if err := <-outcome; err == nil {
			t.Error("a request without an end has come to its end")
		}
	})
}

// What a URL may hold does not change on the way.
func TestTargets(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	token := s.issue(nil)
	for _, target := range []string{
		"/", "//admin", "/a%2Fb", "/a//b", "/..%2fx", "/%E2%82%AC", "/a;b=c", "/?q=" + url.QueryEscape("a&b=c"), "/?", "/a+b?c+d",
		"/search?q=a;b&c=d", "/?a=%zz&b=%", "/?;", "/?a=1&a=2&&=&b", "/x?y?z=[]{}|^`",
	} {
		t.Run(target, func(t *testing.T) {
			g.raw(t, "GET "+target+" HTTP/1.1\nHost: a\nConnection: close\nAuthorization: Bearer "+token+"\n\n").served(t)
			if r, _ := s.upstream.last(t); r.RequestURI != target {
				t.Errorf("the upstream gets %q", r.RequestURI)
			}
		})
	}
}
