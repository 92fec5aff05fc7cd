package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The cases of Curity's phantom token module for NGINX
// (github.com/curityio/nginx_phantom_token_module), by their names there, for
// those who move from that to this. What differs is said with the case.
//
// A rejection differs throughout: its body is application/problem+json instead
// of {"code", "message"}, and the challenge has an error if there was a token.
func TestNGINXModule(t *testing.T) {
	s := newSite(t)
	g := s.start(t, nil)
	token := s.issue(nil)

	// raw sends exactly these fields beside Authorization and returns what
	// reached the upstream.
	raw := func(t *testing.T, authorization string, fields ...string) *http.Request {
		t.Helper()
		g.raw(t, "GET /t HTTP/1.1\nHost: api.test\nConnection: close\nAuthorization: "+authorization+"\n"+
			strings.Join(append(fields, "\n"), "\n")).served(t)
		r, _ := s.upstream.last(t)
		checkJWT(t, r)
		return r
	}
	send := func(t *testing.T, authorization string) answer {
		t.Helper()
		return g.do(t, http.MethodGet, "/t", "", "Authorization", authorization)
	}

	// The module logs it at the first request. Here nothing starts without an
	// issuer, from which the endpoint follows.
	t.Run("CONFIG_1 no introspection endpoint", func(t *testing.T) {
		wrong := launch(t, []string{"-upstream", s.upstream.URL, "-audience", audience, "-client-id", clientID}, []string{"PHANTOM_CLIENT_SECRET" + "=" + clientSecret})
		if code := wrong.wait(t); code != 2 || wrong.stderr.String() != "gateway: -issuer (PHANTOM_ISSUER): is required\n" {
			t.Errorf("exit status %d, stderr %s", code, &wrong.stderr)
		}
		// One whose issuer does not publish an endpoint admits nobody.
		silent := newSite(t)
		silent.asServer.be(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/.well-known/") {
				silent.as.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, silent.issuer, silent.issuer+"/jwks")
		})
		silent.start(t, nil).get(t, "/t", silent.issue(nil)).rejected(t, http.StatusBadGateway, "")
		silent.upstream.untouched(t)
	})
	// There is no switch: a gateway that lets everything through is not one.
	for _, name := range []string{"CONFIG_2 off", "CONFIG_3 off for all"} {
		t.Run(name, func(t *testing.T) {
			off := launch(t, []string{"-phantom-token=off"}, nil)
			if code := off.wait(t); code != 2 || !strings.HasPrefix(off.stderr.String(), "gateway: argument 1 or the one behind it is no flag") {
				t.Errorf("exit status %d, stderr %s", code, &off.stderr)
			}
		})
	}
	// Nor is there an off to override. What is nearest is more specific: the
	// flag over the environment.
	t.Run("CONFIG_4 the nearer setting wins", func(t *testing.T) {
		near := s.startWith(t, []string{"-issuer", s.issuer}, []string{
			"PHANTOM_ISSUER=https://other.test", "PHANTOM_LISTEN=127.0.0.1:0", "PHANTOM_HEALTH_LISTEN=127.0.0.1:0", "PHANTOM_TOKEN=off",
			"PHANTOM_UPSTREAM=" + s.upstream.URL, "PHANTOM_AUDIENCE=" + audience, "PHANTOM_CLIENT_ID=" + clientID, "PHANTOM_CLIENT_SECRET" + "=" + clientSecret,
		})
		near.get(t, "/t", "").rejected(t, 401, noToken)
		near.get(t, "/t", token).served(t)
		s.upstream.last(t)
	})

	browser := []string{
		"Accept-Language: en-GB,en-US;q=0.9,en;q=0.8", "Cache-Control: no-cache", "DNT: 1", "Origin: https://app.example",
		"Pragma: no-cache", "Priority: u=1, i", "Referer: https://app.example/", "Sec-Fetch-Dest: empty", "Sec-Fetch-Mode: cors",
		"Sec-Fetch-Site: same-site", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
	}
	// custom returns n more fields with values of about size bytes.
	custom := func(n, size int) (fields []string) {
		for i := range n {
			fields = append(fields, fmt.Sprintf("X-Custom-%02d: %s", i, strings.Repeat(fmt.Sprint(i), size)))
		}
		return fields
	}
	arrived := func(t *testing.T, r *http.Request, fields []string) {
		t.Helper()
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			if got := r.Header.Values(name); !slices.Equal(got, []string{value}) {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
	}
	// The numbers of fields are where the module's buffers ended.
	for name, n := range map[string]int{"HEADER_1 24 fields": 10, "HEADER_2 44 fields": 30, "HEADER_3 20 fields": 6} {
		t.Run(name, func(t *testing.T) {
			fields := append(slices.Clone(browser), custom(n, 10)...)
			arrived(t, raw(t, "Bearer "+token, fields...), fields)
		})
	}
	t.Run("HEADER_4 no Accept", func(t *testing.T) {
		if got := raw(t, "Bearer "+token).Header.Values("Accept"); got != nil {
			t.Errorf("Accept %q", got)
		}
	})
	t.Run("HEADER_5 Accept", func(t *testing.T) {
		arrived(t, raw(t, "Bearer "+token, "Accept: application/json"), []string{"Accept: application/json"})
	})
	t.Run("HEADER_6 no Content-Type", func(t *testing.T) {
		if got := raw(t, "Bearer "+token).Header.Values("Content-Type"); got != nil {
			t.Errorf("Content-Type %q", got)
		}
	})
	t.Run("HEADER_7 Content-Type", func(t *testing.T) {
		arrived(t, raw(t, "Bearer "+token, "Content-Type: application/json"), []string{"Content-Type: application/json"})
	})

	large := func(size int) string { return s.issue(map[string]any{"large": strings.Repeat("x", size)}) }
	t.Run("LARGE_DATA_1 JWT of 6 KB", func(t *testing.T) {
		r := raw(t, "Bearer "+large(4500))
		if n := len(bearer(r)); n < 6000 {
			t.Errorf("JWT of %d bytes", n)
		}
	})
	// No buffer has to be configured for P71, either: the limit is 32 KiB.
	t.Run("LARGE_DATA_1 JWT of 30 KiB", func(t *testing.T) {
		r := raw(t, "Bearer "+large(22_800))
		if n := len(bearer(r)); n < 30<<10 || n > 32<<10 {
			t.Errorf("JWT of %d bytes", n)
		}
	})
	t.Run("LARGE_DATA_2 JWT beyond the limit", func(t *testing.T) {
		g.get(t, "/t", large(25_000)).rejected(t, http.StatusBadGateway, "")
	})
	t.Run("LARGE_DATA_3 JWT of 6 KB and large fields", func(t *testing.T) {
		fields := append(slices.Clone(browser), custom(10, 1000)...)
		fields = append(fields, "Accept: application/json", "Content-Type: application/json")
		arrived(t, raw(t, "Bearer "+large(4500), fields...), fields)
	})

	t.Run("REQUEST_1 valid token", func(t *testing.T) {
		r := raw(t, "bearer "+token)
		claims, err := base64.RawURLEncoding.DecodeString(strings.Split(bearer(r), ".")[1])
		if err != nil || !strings.Contains(string(claims), `"sub":"alice"`) {
			t.Errorf("claims %s, %v", claims, err)
		}
	})
	t.Run("REQUEST_2 unknown token", func(t *testing.T) {
		send(t, "bearer zort").rejected(t, 401, invalidToken)
	})
	t.Run("REQUEST_3 Basic", func(t *testing.T) {
		send(t, "basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").rejected(t, 401, noToken)
	})
	t.Run("REQUEST_4 no Authorization", func(t *testing.T) {
		g.get(t, "/t", "").rejected(t, 401, noToken)
	})
	t.Run("REQUEST_5 valid token and more", func(t *testing.T) {
		send(t, "bearer "+token+"z").rejected(t, 401, invalidToken)
	})
	t.Run("REQUEST_6 BEARER", func(t *testing.T) { raw(t, "BEARER "+token) })
	t.Run("REQUEST_7 bEaReR", func(t *testing.T) { raw(t, "bEaReR "+token) })
	t.Run("REQUEST_8 many spaces", func(t *testing.T) { raw(t, "bearer               "+token) })
	t.Run("REQUEST_9 wrong client secret", func(t *testing.T) {
		wrong := s.startWith(t, []string{
			"-listen", "127.0.0.1:0", "-health-listen", "127.0.0.1:0", "-upstream", s.upstream.URL,
			"-issuer", s.issuer, "-audience", audience, "-client-id", clientID,
		}, []string{"PHANTOM_CLIENT_SECRET" + "=" + s.secret("not-the-secret")})
		wrong.do(t, http.MethodGet, "/t", "", "Authorization", "bearer               "+token).rejected(t, http.StatusBadGateway, "")
		if line := wrong.await(t, "phantom: request rejected"); line["level"] != "ERROR" || line["reason"] != "as_protocol" {
			t.Errorf("log line %v", line)
		}
	})
	// The module answers 502. Nothing is wrong with any answer here: there is
	// none, and that passes. So it is 503, and says when to come again.
	t.Run("REQUEST_10 unreachable authorization server", func(t *testing.T) {
		away := newSite(t)
		away.upstream.Close()
		down := s.start(t, map[string]string{"introspection-endpoint": away.upstream.URL + "/introspect"})
		a := down.do(t, http.MethodGet, "/t", "", "Authorization", "bearer               "+token)
		a.rejected(t, http.StatusServiceUnavailable, "")
		if got := a.Header.Values("Retry-After"); !slices.Equal(got, []string{"1"}) {
			t.Errorf("Retry-After %q", got)
		}
		if line := down.await(t, "phantom: request rejected"); line["level"] != "ERROR" || line["reason"] != "as_unavailable" {
			t.Errorf("log line %v", line)
		}
	})
}
