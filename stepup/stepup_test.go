package stepup_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
	"github.com/phantom-token/phantom/stepup"
)

const challenge = `Bearer realm="api", error="insufficient_user_authentication"`

// send sends a request with the token through a route with the requirements. It
// returns the status and the challenge, and fails if the next handler ran in
// spite of a rejection.
func send(t *testing.T, m *phantom.Middleware, token string, reqs ...phantom.Requirement) (int, string) {
	t.Helper()
	ran := false
	h := m.Require(reqs...)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { ran = true }))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if ran != (w.Code == http.StatusOK) {
		t.Errorf("status %d, next handler ran: %t", w.Code, ran)
	}
	if values := w.Header().Values("WWW-Authenticate"); len(values) > 1 {
		t.Errorf("%d challenges: %q", len(values), values)
	}
	return w.Code, w.Header().Get("WWW-Authenticate")
}

func middleware(t testing.TB, as *phantomtest.AuthorizationServer, opts ...phantom.Option) *phantom.Middleware {
	t.Helper()
	m, err := phantom.New(append(as.Options(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// check sends the request and compares. An empty params means that it is let
// through.
func check(t *testing.T, m *phantom.Middleware, token, params string, req phantom.Requirement) {
	t.Helper()
	status, header := http.StatusOK, ""
	if params != "" {
		status, header = http.StatusUnauthorized, challenge+", "+params
	}
	if code, got := send(t, m, token, req); code != status || got != header {
		t.Errorf("%d %s\nwant %d %s", code, got, status, header)
	}
}

// Catalogue: F6.
func TestACRMustBeOneOfTheValues(t *testing.T) {
	as := phantomtest.New()
	m := middleware(t, as)
	for _, tc := range []struct {
		name   string
		acr    any
		values []string
		params string
	}{
		{"equal", "gold", []string{"gold"}, ""},
		{"second", "gold", []string{"silver", "gold"}, ""},
		{"a URI", "urn:mace:incommon:iap:silver", []string{"urn:mace:incommon:iap:silver"}, ""},
		{"quotes", `a"b`, []string{`a"b`}, ""},
		{"other", "silver", []string{"gold"}, `acr_values="gold"`},
		{"absent", nil, []string{"gold", "platinum"}, `acr_values="gold platinum"`},
		{"null", json.RawMessage("null"), []string{"gold"}, `acr_values="gold"`},
		{"empty", "", []string{"gold"}, `acr_values="gold"`},
		{"other case", "Gold", []string{"gold"}, `acr_values="gold"`},
		{"a list in a string", "gold silver", []string{"gold"}, `acr_values="gold"`},
		{"array", []string{"gold"}, []string{"gold"}, `acr_values="gold"`},
		{"number", 1, []string{"1"}, `acr_values="1"`},
		{"object", map[string]any{"values": "gold"}, []string{"gold"}, `acr_values="gold"`},
		{"escaped in the challenge", "x", []string{`a"b\`}, `acr_values="a\"b\\"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := as.Issue(map[string]any{"acr": tc.acr})
			for range 2 { // a lookup, a hit
				check(t, m, token, tc.params, stepup.ACR(tc.values...))
			}
		})
	}
}

// Catalogue: F5.
func TestMaxAgeLooksAtTheLogin(t *testing.T) {
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		m := middleware(t, as)
		for _, tc := range []struct {
			name   string
			time   any
			passes bool
		}{
			{"just now", ago(0), true},
			{"299 s ago", ago(299 * time.Second), true},
			{"300 s ago", ago(300 * time.Second), true},
			{"301 s ago", ago(301 * time.Second), false},
			{"a fraction that makes it less than 300 s", float64(ago(299*time.Second)) - 0.5, true},
			{"a fraction that makes it more than 300 s", float64(ago(300*time.Second)) - 0.5, false},
			{"an exponent", json.RawMessage("9.466848e8"), true}, // the start of the bubble
			{"10 s ahead", ago(-10 * time.Second), true},
			{"11 s ahead", ago(-11 * time.Second), false},
			{"milliseconds", time.Now().UnixMilli(), false},
			{"zero", 0, false},
			{"negative", -1, false},
			{"beyond int64", json.RawMessage("1e19"), false},
			{"beyond float64", json.RawMessage("1e999"), false},
			{"absent", nil, false},
			{"null", json.RawMessage("null"), false},
			{"string", "946684800", false},
			{"array", []int64{ago(0)}, false},
			{"boolean", true, false},
		} {
			params := `max_age="300"`
			if tc.passes {
				params = ""
			}
			token := as.Issue(map[string]any{"auth_time": tc.time})
			for range 2 { // a lookup, a hit
				t.Log(tc.name)
				check(t, m, token, params, stepup.MaxAge(5*time.Minute))
			}
		}
	})
}

// A token that met the requirement stops meeting it while it is remembered.
//
// Catalogue: F5.
func TestLoginGrowsOldInTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := phantomtest.New()
		m := middleware(t, as)
		token := as.Issue(map[string]any{"auth_time": time.Now().Unix()})
		for _, tc := range []struct {
			wait   time.Duration
			params string
		}{
			{0, ""}, {20 * time.Second, ""}, {time.Millisecond, `max_age="20"`},
		} {
			time.Sleep(tc.wait)
			check(t, m, token, tc.params, stepup.MaxAge(20*time.Second))
		}
		if n := as.Introspections(); n != 1 {
			t.Errorf("%d introspections, want 1", n)
		}
	})
}

// answering is an Introspector that puts members beside the server's JWT.
type answering struct {
	as      *phantomtest.AuthorizationServer
	members string
}

func (a answering) Introspect(_ context.Context, token string) (*phantom.Introspection, error) {
	r := httptest.NewRequest(http.MethodPost, "/introspect", strings.NewReader("token="+token))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/jwt")
	r.SetBasicAuth("gateway", "gateway-secret")
	w := httptest.NewRecorder()
	a.as.ServeHTTP(w, r)
	return &phantom.Introspection{
		Active: w.Code == http.StatusOK, JWT: w.Body.String(), Claims: []byte(a.members), MaxAge: time.Minute,
	}, nil
}

func TestTheAnswerCountsIfTheJWTHasNone(t *testing.T) {
	as := phantomtest.New()
	for _, tc := range []struct {
		name    string
		jwt     map[string]any
		members string
		acr     string // the challenge's parameters, empty: met
		maxAge  string
	}{
		{"in the answer", nil, `{"acr":"gold","auth_time":%}`, "", ""},
		{"null in the JWT", map[string]any{"acr": json.RawMessage("null")}, `{"acr":"gold","auth_time":%}`, "", ""},
		{"other in the JWT", map[string]any{"acr": "silver", "auth_time": 1}, `{"acr":"gold","auth_time":%}`,
			`acr_values="gold"`, `max_age="60"`},
		{"another type in the JWT", map[string]any{"acr": 1, "auth_time": "now"}, `{"acr":"gold","auth_time":%}`,
			`acr_values="gold"`, `max_age="60"`},
		{"in neither", nil, `{"active":true}`, `acr_values="gold"`, `max_age="60"`},
		{"no answer in JSON", nil, ``, `acr_values="gold"`, `max_age="60"`},
		{"null in the answer", nil, `{"acr":null,"auth_time":null}`, `acr_values="gold"`, `max_age="60"`},
		{"another type in the answer", nil, `{"acr":["gold"],"auth_time":"%"}`, `acr_values="gold"`, `max_age="60"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now, _ := json.Marshal(time.Now().Unix())
			members := strings.ReplaceAll(tc.members, "%", string(now))
			m, err := phantom.New(append(base(as), phantom.WithIntrospector(answering{as, members}))...)
			if err != nil {
				t.Fatal(err)
			}
			token := as.Issue(tc.jwt)
			check(t, m, token, tc.acr, stepup.ACR("gold"))
			check(t, m, token, tc.maxAge, stepup.MaxAge(time.Minute))
		})
	}
}

// base is what a middleware with an Introspector of its own needs of as.
func base(as *phantomtest.AuthorizationServer) []phantom.Option {
	return []phantom.Option{
		phantom.WithIssuer("https://as.test"),
		phantom.WithAudience("https://rs.test"),
		phantom.WithJWKSURL("https://as.test/jwks"),
		phantom.WithHTTPClient(&http.Client{Transport: inMemory{as}}),
	}
}

type inMemory struct{ http.Handler }

func (h inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// A service that needs no JWT has all claims in the answer.
func TestTheAnswerCountsWithoutAnyJWT(t *testing.T) {
	as := phantomtest.New(phantomtest.WithoutJWT())
	m := middleware(t, as)
	now := time.Now().Unix()
	for _, tc := range []struct {
		name        string
		claims      map[string]any
		acr, maxAge string // the challenge's parameters, empty: met
	}{
		{"met", map[string]any{"acr": "gold", "auth_time": now}, "", ""},
		{"not met", map[string]any{"acr": "silver", "auth_time": now - 90}, `acr_values="gold"`, `max_age="60"`},
		{"absent", nil, `acr_values="gold"`, `max_age="60"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := as.Issue(tc.claims)
			check(t, m, token, tc.acr, stepup.ACR("gold"))
			check(t, m, token, tc.maxAge, stepup.MaxAge(time.Minute))
		})
	}
}

// A client learns of both at once, and need not send its user to log in twice.
//
// Catalogue: F4.
func TestBothAreInOneChallenge(t *testing.T) {
	as := phantomtest.New()
	m := middleware(t, as)
	const want = challenge + `, acr_values="gold", max_age="60"`
	for _, reqs := range [][]phantom.Requirement{
		{stepup.ACR("gold"), stepup.MaxAge(time.Minute)},
		{stepup.MaxAge(time.Minute), stepup.ACR("gold")},
	} {
		if code, got := send(t, m, as.Issue(nil), reqs...); code != http.StatusUnauthorized || got != want {
			t.Errorf("%d %s\nwant 401 %s", code, got, want)
		}
	}
}

// What Authenticate returns is enough for a log and for a client.
func TestErrorNamesTheClaimAndNoValueOfTheToken(t *testing.T) {
	as := phantomtest.New()
	m := middleware(t, as, phantom.WithRequirements(stepup.ACR("gold")))
	_, err := m.Verify(t.Context(), as.Issue(map[string]any{"acr": "made-of-lead"}))
	var e *phantom.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v", err, err)
	}
	if e.StatusCode() != http.StatusUnauthorized || e.Error() != "phantom: step_up: acr" {
		t.Errorf("%d %v", e.StatusCode(), e)
	}
	if !errors.Is(err, phantom.ErrInsufficientScope) || errors.Is(err, phantom.ErrInvalidToken) {
		t.Errorf("%v is of another kind", err)
	}
}

// A caller that changes what it is given changes no other request's answer.
func TestValuesAndErrorsAreNotShared(t *testing.T) {
	values := []string{"gold"}
	req := stepup.ACR(values...)
	values[0] = "silver"
	tok := phantomtest.Token(t, map[string]any{"acr": "silver"})
	for range 2 {
		var e *phantom.Error
		if !errors.As(req(tok), &e) {
			t.Fatal("silver is let through")
		}
		if e.Params["acr_values"] != "gold" {
			t.Errorf("%q", e.Params)
		}
		e.Params["acr_values"] = "lead"
	}
}

func TestRequirementsWithoutMeaningPanic(t *testing.T) {
	acr := func(values ...string) func() { return func() { stepup.ACR(values...) } }
	age := func(d time.Duration) func() { return func() { stepup.MaxAge(d) } }
	for _, tc := range []struct {
		name string
		make func()
		want string
	}{
		{"no values", acr(), "stepup: ACR: no values"},
		{"empty value", acr("gold", ""), `stepup: ACR: "" cannot be an acr value of a challenge`},
		{"space", acr("gold silver"), `stepup: ACR: "gold silver" cannot be an acr value of a challenge`},
		{"line break", acr("gold\r\nX: y"), `stepup: ACR: "gold\r\nX: y" cannot be an acr value of a challenge`},
		{"not ASCII", acr("größer"), `stepup: ACR: "größer" cannot be an acr value of a challenge`},
		{"zero", age(0), "stepup: MaxAge: 0s is not a positive number of whole seconds"},
		{"negative", age(-time.Second), "stepup: MaxAge: -1s is not a positive number of whole seconds"},
		{"a number without a unit", age(300), "stepup: MaxAge: 300ns is not a positive number of whole seconds"},
		{"a fraction", age(1500 * time.Millisecond), "stepup: MaxAge: 1.5s is not a positive number of whole seconds"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != tc.want {
					t.Errorf("panic %v, want %s", p, tc.want)
				}
			}()
			tc.make()
		})
	}
}

// What a requirement adds to each request.
func BenchmarkRequirement(b *testing.B) {
	as := phantomtest.New()
	claims := map[string]any{
		"acr": "gold", "auth_time": time.Now().Unix(), "padding": strings.Repeat("x", 300), // 800 bytes of JWT
	}
	inJWT, err := middleware(b, as).Verify(b.Context(), as.Issue(claims))
	if err != nil {
		b.Fatal(err)
	}
	members, _ := json.Marshal(claims)
	m, err := phantom.New(append(base(as), phantom.WithIntrospector(answering{as, string(members)}))...)
	if err != nil {
		b.Fatal(err)
	}
	delete(claims, "acr")
	delete(claims, "auth_time")
	inAnswer, err := m.Verify(b.Context(), as.Issue(claims))
	if err != nil {
		b.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		tok  *phantom.Token
		req  phantom.Requirement
	}{
		{"ACR/jwt", inJWT, stepup.ACR("gold")},
		{"ACR/answer", inAnswer, stepup.ACR("gold")},
		{"MaxAge/jwt", inJWT, stepup.MaxAge(time.Hour)},
		{"MaxAge/answer", inAnswer, stepup.MaxAge(time.Hour)},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := tc.req(tc.tok); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Logf("%d bytes of JWT", len(inJWT.JWT()))
}
