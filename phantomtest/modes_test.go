package phantomtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/phantomtest"
)

// A minter makes JWTs of another server for those of an authorization server.
type minter struct {
	gateway *phantomtest.AuthorizationServer
	keys    phantom.KeySet
	mints   int
}

func newMinter(t *testing.T) *minter {
	t.Helper()
	gateway := phantomtest.New(phantomtest.WithIssuer("https://gateway.test"))
	public, _ := published(t, gateway)
	return &minter{gateway: gateway, keys: phantom.StaticKeys(public)}
}

func (m *minter) Issuer() (string, phantom.KeySet) { return "https://gateway.test", m.keys }

func (m *minter) Mint(_ context.Context, _ string, answer *phantom.Introspection) (string, error) {
	m.mints++
	var claims map[string]any
	if err := json.Unmarshal(answer.Claims, &claims); err != nil {
		return "", err
	}
	token := m.gateway.Issue(map[string]any{"sub": claims["sub"]})
	return introspect(m.gateway, token, "application/jwt").Body.String(), nil
}

// An exchanger is a minter that uses the authorization server's own keys.
type exchanger struct {
	as *phantomtest.AuthorizationServer
}

func (*exchanger) Issuer() (string, phantom.KeySet) { return "", nil }

func (e *exchanger) Mint(_ context.Context, token string, _ *phantom.Introspection) (string, error) {
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	err := json.Unmarshal(exchange(e.as, token, nil).Body.Bytes(), &answer)
	return answer.AccessToken, err
}

// A mode is a server without a JWT in its answers.
type mode struct {
	*phantomtest.AuthorizationServer

	signer http.Handler // whose JWT the next handler gets; nil: none
}

// eachMode runs a test for each mode, with plain answers and with signed ones.
func eachMode(t *testing.T, test func(t *testing.T, m mode), more ...phantomtest.Option) {
	t.Helper()
	for name, make := range map[string]func(t *testing.T, opts []phantomtest.Option) mode{
		"without JWT": func(_ *testing.T, opts []phantomtest.Option) mode {
			return mode{phantomtest.New(append(opts, phantomtest.WithoutJWT())...), nil}
		},
		"Keycloak without JWT": func(_ *testing.T, opts []phantomtest.Option) mode {
			return mode{phantomtest.New(append(opts, phantomtest.WithKeycloak(), phantomtest.WithoutJWT())...), nil}
		},
		"minter": func(t *testing.T, opts []phantomtest.Option) mode {
			m := newMinter(t)
			return mode{phantomtest.New(append(opts, phantomtest.WithMinter(m))...), m.gateway}
		},
		"minter with the server's keys": func(_ *testing.T, opts []phantomtest.Option) mode {
			e := new(exchanger)
			e.as = phantomtest.New(append(opts, phantomtest.WithMinter(e))...)
			return mode{e.as, e.as}
		},
		"exchange": func(_ *testing.T, opts []phantomtest.Option) mode {
			as := phantomtest.New(append(opts, phantomtest.WithTokenExchange(nil))...)
			return mode{as, as}
		},
		"Keycloak with exchange": func(_ *testing.T, opts []phantomtest.Option) mode {
			form := url.Values{"audience": {"api"}, "requested_token_type": {typeJWT}}
			as := phantomtest.New(append(opts, phantomtest.WithKeycloak(), phantomtest.WithTokenExchange(form))...)
			return mode{as, as}
		},
	} {
		for signing, opts := range map[string][]phantomtest.Option{"plain": nil, "signed": {phantomtest.WithSignedResponse()}} {
			t.Run(name+", "+signing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test(t, make(t, slices.Concat(opts, more))) })
			})
		}
	}
}

func TestModesThroughMiddleware(t *testing.T) {
	eachMode(t, func(t *testing.T, as mode) {
		next, h := protect(t, as.Options())
		token := as.Issue(nil)
		wantStatus(t, "first request", get(h, token), 200)
		wantStatus(t, "second request", get(h, token), 200)
		if n := as.Introspections(); n != 1 {
			t.Errorf("%d introspections, want 1", n)
		}
		if n := as.Exchanges(); n > 1 {
			t.Errorf("%d exchanges, want 1 at most", n)
		}
		if next.token.Subject() != "alice" || next.token.ClientID() != "app" || !next.token.HasScope("write") {
			t.Errorf("subject %q, client %q, scopes %q", next.token.Subject(), next.token.ClientID(), next.token.Scopes())
		}
		if as.signer == nil {
			if next.authorization != "" || next.token.JWT() != "" {
				t.Error("there is a JWT")
			}
		} else if _, claims := decode(t, as.signer, strings.TrimPrefix(next.authorization, "Bearer ")); claims["sub"] != "alice" {
			t.Errorf("claims of the JWT: %v", claims)
		}

		as.Revoke(token)
		time.Sleep(61 * time.Second)
		exchanges := as.Exchanges()
		wantStatus(t, "revoked token", get(h, token), 401)
		wantStatus(t, "unknown token", get(h, "unknown"), 401)
		wantStatus(t, "refresh token", get(h, as.Issue(map[string]any{"token_use": "refresh_token"})), 401)
		wantStatus(t, "silent refresh token", get(h, as.Issue(map[string]any{"token_type": nil, "aud": nil})), 401)
		wantStatus(t, "token without sub", get(h, as.Issue(map[string]any{"sub": nil})), 401)
		if n := as.Exchanges(); n != exchanges {
			t.Errorf("%d exchanges of tokens that are refused", n-exchanges)
		}

		token = as.Issue(nil)
		as.Fail(500, 1)
		wantStatus(t, "server down", get(h, token), 503)
		time.Sleep(time.Minute)
		wantStatus(t, "server up again", get(h, token), 200)
		as.RotateKeys()
		time.Sleep(time.Minute)
		wantStatus(t, "new keys", get(h, as.Issue(nil)), 200)
		if next.calls != 4 {
			t.Errorf("handler called %d times, want 4", next.calls)
		}
	})
}

func TestWrongClientSecretInEachMode(t *testing.T) {
	eachMode(t, func(t *testing.T, as mode) {
		next, h := protect(t, append(as.Options(), phantom.WithClientAuth(phantom.ClientSecretBasic("gateway", "wrong"))))
		wantStatus(t, "wrong secret", get(h, as.Issue(nil)), 502)
		if next.calls != 0 || as.Exchanges() != 0 {
			t.Errorf("handler called %d times, %d exchanges", next.calls, as.Exchanges())
		}
	})
}

// What an exchange asks for is what the service configured.
func TestExchangeParameters(t *testing.T) {
	form := url.Values{"audience": {"api"}, "scope": {"orders"}}
	as := phantomtest.New(phantomtest.WithTokenExchange(form))
	form.Set("audience", "mallory") // too late
	next, h := protect(t, as.Options())
	wantStatus(t, "request", get(h, as.Issue(map[string]any{"scope": "orders"})), 200)
	if _, claims := decode(t, as, next.token.JWT()); claims["aud"] != "api" || claims["scope"] != "orders" || claims["client_id"] != "gateway" {
		t.Errorf("claims %v", claims)
	}
	if next.token.ClientID() != "app" {
		t.Errorf("client %q", next.token.ClientID())
	}

	// A service's own option wins, and finds the endpoint by the metadata.
	next, h = protect(t, append(as.Options(), phantom.WithTokenExchange("", url.Values{"audience": {"own"}})))
	wantStatus(t, "request with own parameters", get(h, as.Issue(nil)), 200)
	if _, claims := decode(t, as, next.token.JWT()); claims["aud"] != "own" {
		t.Errorf("claims %v", claims)
	}
	_, h = protect(t, append(as.Options(), phantom.WithTokenExchange("", url.Values{"resource": {"no-uri"}})))
	wantStatus(t, "refused exchange", get(h, as.Issue(nil)), 502)
}

func TestOddServers(t *testing.T) {
	type members = map[string]any
	set := func(name string, value any) func(members) {
		return func(m members) { m[name] = value }
	}
	remove := func(names ...string) func(members) {
		return func(m members) {
			for _, name := range names {
				delete(m, name)
			}
		}
	}
	clients := []phantom.Option{phantom.WithClientSubject("client:")}
	for _, tc := range []struct {
		name   string
		edit   func(members)
		more   []phantom.Option
		status int

		anyAudience bool
	}{
		{"no iss", remove("iss"), nil, 200, false},
		{"another iss", set("iss", "https://other.test"), nil, 401, false},
		{"no client_id", remove("client_id"), nil, 200, false},
		{"no aud", remove("aud"), nil, 401, false},
		{"no aud, no check", remove("aud"), nil, 200, true},
		{"aud as an array", set("aud", []string{"x", "https://rs.test"}), nil, 200, false},
		{"aud as an array of others", set("aud", []string{"x", "y"}), nil, 401, false},
		{"scope as an array", set("scope", []string{"read", "write"}), nil, 200, false},
		{"no exp", remove("exp"), nil, 200, false},
		{"exp as a text", set("exp", "1999999999"), nil, 502, false},
		{"no sub", remove("sub"), nil, 401, false},
		{"null sub", set("sub", nil), clients, 200, false},
		{"no sub, no client", remove("sub", "client_id"), clients, 401, false},
		{"no token_type", remove("token_type"), nil, 200, false},
		{"no token_type, no aud", remove("token_type", "aud"), nil, 401, true},
		{"WSO2", set("token_type", "JWT"), nil, 200, false},
		{"Duende", set("token_type", "access_token"), nil, 200, false},
		{"refresh token", set("token_type", "refresh_token"), nil, 401, false},
		{"bound token", set("cnf", members{"jkt": "x"}), nil, 401, false},
		{"spelling variant", set("Sub", "mallory"), nil, 502, false},
		{"inactive with claims", set("active", false), nil, 401, false},
		{"active as a text", set("active", "true"), nil, 502, false},
		{"active forgotten", remove("active"), nil, 502, false},
		{"JWT that is not asked for", set("phantom_token", "x.y.z"), nil, 200, false},
	} {
		for signing, opts := range map[string][]phantomtest.Option{"plain": nil, "signed": {phantomtest.WithSignedResponse()}} {
			t.Run(tc.name+", "+signing, func(t *testing.T) {
				as := phantomtest.New(append(opts, phantomtest.WithoutJWT(), phantomtest.WithAnswer(tc.edit))...)
				opts := as.Options()
				if tc.anyAudience {
					opts[0] = phantom.WithoutAudienceCheck() // in place of the audience
				}
				next, h := protect(t, append(opts, tc.more...))
				wantStatus(t, tc.name, get(h, as.Issue(nil)), tc.status)
				if passed := next.calls == 1; passed != (tc.status == 200) {
					t.Errorf("handler called %d times", next.calls)
				}
			})
		}
	}
}

// The subject of a client is what the service says, wherever the JWT is from.
func TestClientSubject(t *testing.T) {
	as := phantomtest.New(phantomtest.WithoutJWT())
	next, h := protect(t, append(as.Options(), phantom.WithClientSubject("client:")))
	wantStatus(t, "token without sub", get(h, as.Issue(map[string]any{"sub": nil})), 200)
	if got := next.token.Subject(); got != "client:app" {
		t.Errorf("subject %q", got)
	}
}

// No verb, and nothing that a service logs, shows what the server knows.
func TestSecretsAreNotPrinted(t *testing.T) {
	as := phantomtest.New(phantomtest.WithTokenExchange(nil), phantomtest.WithClient("me", "the-secret"))
	token := as.Issue(map[string]any{"sub": "the-subject"})
	texts := []string{fmt.Sprint(as), fmt.Sprint([]any{as}), fmt.Sprintf("%v", as.Options())}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		texts = append(texts, fmt.Sprintf(verb, as), fmt.Sprintf(verb, struct{ AS any }{as}))
	}
	data, err := json.Marshal([]any{as})
	if err != nil {
		t.Fatal(err)
	}
	texts = append(texts, string(data))

	form := url.Values{
		"client_id": {"me"}, "client_secret": {"the-secret"}, "grant_type": {grantTokenExchange},
		"subject_token": {token}, "subject_token_type": {typeAccessToken},
	}
	for name, value := range map[string]string{
		"grant_type": "password", "subject_token_type": "x", "resource": token, "client_id": token, "actor_token": token,
	} {
		changed := url.Values{}
		for name, values := range form {
			changed[name] = values
		}
		changed.Set(name, value)
		w := post(as, "/token", changed, "")
		if w.Code < 400 {
			t.Fatalf("%s: status %d", name, w.Code)
		}
		texts = append(texts, fmt.Sprint(w.Header(), w.Body))
	}
	for _, text := range texts {
		for _, secret := range []string{token, "the-secret", "the-subject"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows %q", text, secret)
			}
		}
	}
}
