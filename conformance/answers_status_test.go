package conformance_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
)

// Of the answers with a body only a 200 counts. A redirect is refused, and so
// is another success.
//
// Catalogue: A96.
func TestOtherSuccessAndRedirectIsRefused(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"302", reply(302, "", "Location: https://as.test/login", asJWT), code502A},
		{"302 with the JWT in it", reply(302, jwt, "Location: https://as.test/login", asJWT), code502A},
		{"301", reply(301, "", "Location: https://evil.test/"), code502A},
		{"303", reply(303, "", "Location: /login"), code502A},
		{"307", reply(307, "", "Location: https://evil.test/oauth/v2/introspect"), code502A},
		{"308", reply(308, "", "Location: https://evil.test/oauth/v2/introspect"), code502A},
		{"300", reply(300, "", "Location: /a"), code502A},
		{"304", reply(304, ""), code502A},
		{"no Location", reply(302, ""), code502A},
		{"Location that is no URL", reply(302, "", "Location: ://%zz"), code502A},
		{"201", reply(201, jwt, asJWT), code502A},
		{"202", reply(202, jwt, asJWT), code502A},
		{"203", reply(203, jwt, asJWT), code502A},
		{"205", reply(205, ""), code502A},
		{"206", reply(206, jwt, asJWT), code502A},
	})
}

// A 4xx is a fault of ours or of the server, and not of the token. It is
// refused with 502, and not remembered.
//
// Catalogue: A98, A99.
func TestClientErrorIsNotTheTokensFault(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"401 invalid_client", reply(401, `{"error":"invalid_client"}`, asJSON, "WWW-Authenticate: Basic realm=\"as\""), code502A},
		{"401 that names the token", reply(401, `{"error":"invalid_token"}`, asJSON), code502A},
		{"401 with the JWT in it", reply(401, jwt, asJWT), code502A},
		{"400", reply(400, ""), code502A},
		{"400 invalid_request", reply(400, `{"error":"invalid_request"}`, asJSON), code502A},
		{"400 invalid_token", reply(400, `{"error":"invalid_token"}`, asJSON), code502A},
		{"400 the error in other case", reply(400, `{"error":"UNSUPPORTED_TOKEN_TYPE"}`, asJSON), code502A},
		{"400 the error twice", reply(400, `{"error":"invalid_client","error":"unsupported_token_type"}`, asJSON), code502A},
		{"400 the error in an array", reply(400, `[{"error":"unsupported_token_type"}]`, asJSON), code502A},
		{"400 the error as text", reply(400, `unsupported_token_type`, "Content-Type: text/plain"), code502A},
		{"401 unsupported_token_type", reply(401, `{"error":"unsupported_token_type"}`, asJSON), code502A},
		{"402", reply(402, ""), code502A},
		{"403", reply(403, ""), code502A},
		{"404", reply(404, "404 page not found", "Content-Type: text/plain"), code502A},
		{"405", reply(405, "", "Allow: GET"), code502A},
		{"406", reply(406, ""), code502A},
		{"413", reply(413, ""), code502A},
		{"415", reply(415, ""), code502A},
		{"451", reply(451, ""), code502A},
		{"403 with Retry-After", reply(403, "", "Retry-After: 7"), code502A},
		{"404 with a long page", reply(404, strings.Repeat("x", 1<<20)), code502A},
	})
}

// A 5xx and a 429 are an outage. The body does not matter then.
//
// Catalogue: A103.
func TestServerErrorIsAnOutage(t *testing.T) {
	jwt := mint("ES256", claims(nil))
	runAnswers(t, []answerCase{
		{"500", reply(500, "panic"), code503A},
		{"502", reply(502, "<html>", "Content-Type: text/html"), code503A},
		{"503", reply(503, ""), code503A},
		{"504", reply(504, ""), code503A},
		{"501", reply(501, ""), code503A},
		{"599", reply(599, ""), code503A},
		{"500 with the JWT in it", reply(500, jwt, asJWT), code503A},
		{"500 with a verdict in it", reply(500, `{"active":false}`, asJSON), code503A},
		{"500 with unsupported_token_type in it", reply(500, `{"error":"unsupported_token_type"}`, asJSON), code503A},
		{"429 without Retry-After", reply(429, ""), code503A},
		{"503 with a long page", reply(503, strings.Repeat("x", 1<<20), "Content-Type: text/html"), code503A},
		{"502 with a compressed page", reply(502, "\x1f\x8b", "Content-Encoding: gzip"), code503A},
		{"429 with a compressed page", reply(429, "\x1f\x8b", "Content-Encoding: gzip"), code503A},
		{"500 with an endless page", reply(500, "", "Content-Length: 10000000000"), code503A},
	})
}

// One request asks the server once and makes do with the answer. The next
// request asks again.
//
// Catalogue: A104.
func TestAnswerIsNotAskedForAgain(t *testing.T) {
	for _, status := range []int{400, 429, 500, 503} {
		as := newAS(t)
		as.introspect = func(w http.ResponseWriter, r *http.Request) {
			if as.calls.Load() == 1 {
				reply(status, "")(w, r)
				return
			}
			answerJWT(mint("ES256", claims(nil)))(w, r)
		}
		m := as.middleware()
		want := code503A
		if status == 400 {
			want = code502A
		}
		if got := as.try(m, "tok"); got != want {
			t.Errorf("%d: first request %s", status, got)
		}
		if got := as.calls.Load(); got != 1 {
			t.Errorf("%d: asked %d times for one request", status, got)
		}
		if got := as.try(m, "tok"); got != codeOK || as.calls.Load() != 2 {
			t.Errorf("%d: second request %s, asked %d times", status, got, as.calls.Load())
		}
	}
}

// A redirect of the endpoint leads nowhere, also if the caller's client would
// follow it.
//
// Catalogue: A96.
func TestRedirectOfTheEndpointIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		as := newAS(t)
		as.introspect = reply(status, "", "Location: https://evil.test/collect?x=1")
		followed := false
		client := &http.Client{Transport: as, CheckRedirect: func(*http.Request, []*http.Request) error {
			followed = true
			return nil
		}}
		m := as.middleware(phantom.WithHTTPClient(client))
		if got := as.try(m, "tok"); got != code502A {
			t.Errorf("%d: %s", status, got)
		}
		if n := len(as.recorded("/collect")); n != 0 || followed || as.calls.Load() != 1 {
			t.Errorf("%d: followed", status)
		}
	}
}

// Cookies of the server are not stored, and none of the caller's jar are sent.
//
// Catalogue: A107.
func TestCookiesAreNeitherStoredNorSent(t *testing.T) {
	as := newAS(t)
	as.introspect = reply(200, mint("ES256", claims(nil)), asJWT, "Set-Cookie: as_session=1; Path=/", "Set-Cookie: b=2")
	jar := must(cookiejar.New(nil))
	endpoint := must(url.Parse(issuer + endpointPath))
	jar.SetCookies(endpoint, []*http.Cookie{{Name: "other", Value: "app"}})
	m := as.middleware(phantom.WithHTTPClient(&http.Client{Transport: as, Jar: jar}))
	for _, token := range []string{"one", "two"} {
		if got := as.try(m, token); got != codeOK {
			t.Fatal(got)
		}
	}
	for _, r := range append(as.recorded(endpointPath), as.recorded(jwksPath)...) {
		if cookies := r.Header["Cookie"]; cookies != nil {
			t.Errorf("sent %q", cookies)
		}
	}
	if kept := jar.Cookies(endpoint); len(kept) != 1 {
		t.Errorf("stored %v", kept)
	}
}

// One line at intervals says that the credentials are refused, and shows
// nothing that the server wrote.
//
// Catalogue: A98.
func TestRefusedCredentialsAreLoggedAtIntervals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"401 invalid_client", reply(401, `{"error":"invalid_client","error_description":"SECRET-OF-THE-SERVER"}`, asJSON, "X-Trace: SECRET-OF-THE-SERVER")},
		{"403", reply(403, "SECRET-OF-THE-SERVER")},
		{"400 invalid_client", reply(400, `{"error":"invalid_client","error_description":"SECRET-OF-THE-SERVER"}`, asJSON)},
		{"400 unauthorized_client", reply(400, `{"error":"unauthorized_client"}`, asJSON)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				as := newAS(t)
				as.secret("SECRET-OF-THE-SERVER")
				as.secret("QUERY-OF-THE-ENDPOINT")
				as.introspect = tc.answer
				m := as.middleware(phantom.WithIntrospectionEndpoint(issuer + endpointPath + "?k=QUERY-OF-THE-ENDPOINT"))
				for range 30 {
					for range 10 {
						if got := as.try(m, "tok"); got != code502A {
							t.Fatal(got)
						}
					}
					time.Sleep(time.Second)
				}
				if got := as.calls.Load(); got != 300 {
					t.Errorf("asked %d times: something was remembered", got)
				}
				lines := strings.Split(strings.TrimSpace(as.logs.String()), "\n")
				if len(lines) != 3 {
					t.Errorf("%d lines in 30 s:\n%s", len(lines), as.logs.String())
				}
				for _, line := range lines {
					if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "reason=as_protocol") ||
						!strings.Contains(line, "credentials") {
						t.Error(line)
					}
				}
				if as.leaks(as.logs.String()) != nil {
					t.Error(as.logs.String())
				}
			})
		})
	}
}

// When something goes wrong, neither the log nor the client sees what the
// server wrote or what the request to it was made of.
func TestNothingOfTheServerIsShown(t *testing.T) {
	const marker = "MARKER-OF-THE-SERVER"
	jwt := mint("ES256", claims(nil))
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"problem", reply(401, marker, "WWW-Authenticate: Basic realm="+marker, "Content-Type: "+marker)}, // A98
		{"error", reply(400, `{"error":"`+marker+`"}`, asJSON)},                                           // A99
		{"outage", reply(500, marker, "Retry-After: "+marker)},                                            // A103
		{"type", reply(200, jwt, "Content-Type: text/"+marker)},                                           // A95
		{"parameter", reply(200, jwt, "Content-Type: application/jwt; "+marker)},                          // A95
		{"encoding", reply(200, jwt, asJWT, "Content-Encoding: "+marker)},                                 // A94
		{"redirect", reply(302, "", "Location: https://as.test/"+marker)},                                 // A96
		{"broken redirect", reply(302, "", "Location: ://%zz"+marker)},                                    // A96
		{"not JSON", reply(200, marker, asJSON)},                                                          // A87
		{"not a JWT", reply(200, marker, asJWT)},                                                          // A76
		{"no JWT", answerJSON(`{"active":true,"` + marker + `":"` + marker + `"}`)},                       // A81
		{"other sub", answerJSON(answerOf(jwt, map[string]any{"sub": marker}))},                           // A114
		{"token_use", answerJSON(answerOf(jwt, map[string]any{"token_use": marker}))},                     // A115
		{"exp", answerJSON(answerOf(jwt, map[string]any{"exp": marker}))},                                 // A112
		{"alg", reply(200, mintHeader("ES256", `{"alg":"`+marker+`"}`, claims(nil)), asJWT)},              // A116
		{"iss", reply(200, mint("ES256", claims(map[string]any{"iss": issuer + "?" + marker})), asJWT)},   // A116
		{"inactive and more", answerJSON(`{"active":false,"reason":"` + marker + `"}`)},                   // A78
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := newAS(t)
			as.secret(marker)
			as.introspect = tc.answer
			m := as.middleware()
			if got := as.try(m, "tok-of-alice"); got == codeOK {
				t.Error(got)
			}
			m.Purge()
			_, err := m.Verify(t.Context(), "tok-of-alice")
			if err == nil || as.leaks(err.Error()) != nil {
				t.Errorf("error %v", err)
			}
		})
	}
}
