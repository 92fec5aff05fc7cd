package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/phantom-token/phantom/phantomtest"
)

// A walker is a client that says what it does. It stops at the first error.
type walker struct {
	*site

	out    io.Writer
	client *http.Client
	token  string
	err    error
}

// walk goes through the pattern step by step.
func walk(ctx context.Context, out io.Writer, s *site) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	w := &walker{site: s, out: out, client: &http.Client{Transport: transport}}

	w.sayf("1. The client gets a token from the authorization server.")
	w.getToken(ctx, "orders:read profile")

	w.sayf("2. It calls the API through the gateway.")
	w.get(ctx, "/orders", w.token, http.StatusOK, w.showIntrospection, w.showSource)

	w.sayf("3. It calls again. The gateway knows by now what the token stands for.")
	w.get(ctx, "/orders", w.token, http.StatusOK)
	w.linef("introspections so far: %d", w.as.Introspections())
	w.want("introspections", w.as.Introspections(), 1)

	w.sayf("4. A route of the gateway itself finds the claims in the context.")
	w.get(ctx, "/whoami", w.token, http.StatusOK)

	w.sayf("5. A call without a token.")
	w.get(ctx, "/orders", "", http.StatusUnauthorized)

	w.sayf("6. A call that needs a scope which the token does not have.")
	w.get(ctx, "/reports", w.token, http.StatusForbidden)

	w.sayf("7. The token is revoked. A gateway that is not told goes on accepting it\n"+
		"   for up to WithMaxTTL, %v here; a webhook that calls Forget tells it.", maxTTL)
	w.revoke(ctx)
	w.get(ctx, "/orders", w.token, http.StatusOK)
	w.linef("auth.Forget(token)")
	w.auth.Forget(w.token)
	w.get(ctx, "/orders", w.token, http.StatusUnauthorized)

	w.bound(ctx)
	return w.err
}

// bound shows a token that is of use with its client's key only.
func (w *walker) bound(ctx context.Context) {
	client, thief := phantomtest.NewProofKey(), phantomtest.NewProofKey()
	token := w.as.IssueBound("jkt", client.Thumbprint(), map[string]any{"sub": "app"})
	orders := phantomtest.Proof{Method: http.MethodGet, URI: origin + "/orders", Token: token}

	w.sayf("8. Another token is bound to a key of its client, which signs a proof for\n" +
		"   each request (RFC 9449). The API gets the JWT, and no proof.")
	w.send(ctx, "/orders", http.Header{
		"Authorization": {"DPoP " + token}, "Dpop": {client.Sign(orders)},
	}, http.StatusOK)
	proofs := w.seen.last("/orders").request.Values("DPoP")
	w.want("proofs that the API got", len(proofs), 0)

	w.sayf("9. Somebody stole that token: without a proof, and with one by another key.")
	w.send(ctx, "/orders", http.Header{"Authorization": {"Bearer " + token}}, http.StatusUnauthorized)
	w.printf("\n")
	w.send(ctx, "/orders", http.Header{
		"Authorization": {"DPoP " + token}, "Dpop": {thief.Sign(orders)},
	}, http.StatusUnauthorized)
}

// getToken gets a token with the client credentials grant.
func (w *walker) getToken(ctx context.Context, scope string) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	body := w.post(ctx, "/token", form)
	if w.err != nil {
		return
	}
	var granted struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if w.err = json.Unmarshal(body, &granted); w.err != nil {
		return
	}
	w.token = granted.AccessToken
	w.linef("< access_token: %s (%d random characters)", shorten(w.token), len(w.token))
	w.linef("< expires_in: %d", granted.ExpiresIn)
}

// revoke revokes the token at the authorization server.
func (w *walker) revoke(ctx context.Context) {
	w.post(ctx, "/revoke", url.Values{"token": {w.token}})
}

// post sends a form to the authorization server.
func (w *walker) post(ctx context.Context, path string, form url.Values) []byte {
	if w.err != nil {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.err = err
		return nil
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(appID, appSecret)
	w.linef("> POST %s", path)
	w.form(form)
	a := w.do(req)
	if w.err != nil {
		return nil
	}
	w.status(a.status)
	w.want("POST "+path, a.status, http.StatusOK)
	return a.body
}

// get calls the gateway with a bearer token, if there is one.
func (w *walker) get(ctx context.Context, path, token string, status int, between ...func()) {
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	w.send(ctx, path, header, status, between...)
}

// send calls the gateway. It shows the request, what the functions show in
// between, and the answer.
func (w *walker) send(ctx context.Context, path string, header http.Header, status int, between ...func()) {
	if w.err != nil {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.gateway+path, nil)
	if err != nil {
		w.err = err
		return
	}
	w.linef("> GET %s", path)
	req.Header = header
	if scheme, token, ok := strings.Cut(header.Get("Authorization"), " "); ok {
		w.linef("> Authorization: %s %s", scheme, shorten(token))
	}
	if proof := header.Get("DPoP"); proof != "" {
		w.linef("> DPoP: %s", shorten(proof))
	}
	a := w.do(req)
	if w.err != nil {
		return
	}
	if w.want("GET "+path, a.status, status); w.err != nil {
		return
	}
	for _, show := range between {
		show()
	}
	w.status(a.status)
	challenges := a.header.Values("WWW-Authenticate")
	for _, challenge := range challenges {
		w.linef("< WWW-Authenticate: %s", strings.ReplaceAll(challenge, `", `, "\",\n   <     "))
	}
	if len(challenges) == 0 {
		w.linef("< %s", a.body)
	}
}

// An answer is what is shown of a response.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends req and reads the answer.
func (w *walker) do(req *http.Request) answer {
	resp, err := w.client.Do(req)
	if err != nil {
		w.err = err
		return answer{}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.err = err
		return answer{}
	}
	return answer{resp.StatusCode, resp.Header, body}
}

// showIntrospection shows what the gateway asked and what it was told.
func (w *walker) showIntrospection() {
	if w.err != nil {
		return
	}
	x := w.seen.last("/introspect")
	w.sayf("   The token is opaque: the gateway asks the authorization server.")
	w.linef("> %s %s", x.method, x.path)
	w.linef("> Accept: %s", x.request.Get("Accept"))
	w.form(x.form)
	w.status(x.status)
	w.linef("< Content-Type: %s", x.response.Get("Content-Type"))
	w.linef("< Cache-Control: %s", x.response.Get("Cache-Control"))
	if w.server == "jwt" {
		w.linef("< %s", shorten(x.body))
		return
	}
	w.json("< ", []byte(x.body))
}

// showSource shows where the JWT comes from, and what the API received.
func (w *walker) showSource() {
	switch w.server {
	case "claims":
		w.sayf("   The gateway checks the claims and calls the API, which is a handler of the\n" +
			"   same process and finds them in the context. It gets no token of any kind:")
		w.linef("Authorization: %q", w.seen.last("/orders").request.Get("Authorization"))
	case "mint":
		w.sayf("   The gateway checks the claims, makes a JWT of them and calls the API with\n" +
			"   it. The keys to verify it are below the gateway's own /.well-known/.\n" +
			"   The API receives:")
		w.showJWT()
	case "exchange":
		w.sayf("   The gateway checks the claims and exchanges the token for a JWT.")
		w.showExchange()
		w.sayf("   The gateway verifies the JWT and calls the API with it. The API receives:")
		w.showJWT()
	default:
		w.sayf("   The gateway verifies the JWT and calls the API with it. The API receives:")
		w.showJWT()
	}
	w.sayf("   Its answer goes back to the client.")
}

// showExchange shows how the gateway got the JWT.
func (w *walker) showExchange() {
	if w.err != nil {
		return
	}
	x := w.seen.last("/token")
	w.linef("> %s %s", x.method, x.path)
	w.form(x.form)
	w.status(x.status)
	var granted struct {
		AccessToken     string `json:"access_token"`
		IssuedTokenType string `json:"issued_token_type"`
	}
	if w.err = json.Unmarshal([]byte(x.body), &granted); w.err != nil {
		return
	}
	w.linef("< access_token: %s", shorten(granted.AccessToken))
	w.linef("< issued_token_type: %s", granted.IssuedTokenType)
}

// showJWT shows the JWT that the API received.
func (w *walker) showJWT() {
	if w.err != nil {
		return
	}
	header, claims, err := decode(bearer(w.seen.last("/orders").request))
	if err != nil {
		w.err = err
		return
	}
	w.json("", header)
	w.json("", claims)
}

// json shows a JSON text.
func (w *walker) json(prefix string, text []byte) {
	if w.err != nil {
		return
	}
	var b bytes.Buffer
	if w.err = json.Indent(&b, text, "   "+prefix, "  "); w.err == nil {
		w.linef("%s%s", prefix, b.String())
	}
}

// form shows a form, one field per line, and no token in full.
func (w *walker) form(form url.Values) {
	for _, name := range []string{
		"grant_type", "scope", "token", "token_type_hint",
		"subject_token", "subject_token_type", "requested_token_type", "audience",
	} {
		value := form.Get(name)
		if name == "token" || name == "subject_token" {
			value = shorten(value)
		}
		if value != "" {
			w.linef(">   %s=%s", name, value)
		}
	}
}

// sayf starts a step, linef continues it.
func (w *walker) sayf(format string, args ...any) {
	w.printf("\n"+format+"\n\n", args...)
}

func (w *walker) linef(format string, args ...any) {
	w.printf("   "+format+"\n", args...)
}

func (w *walker) status(code int) { w.linef("< %d %s", code, http.StatusText(code)) }

func (w *walker) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format, args...)
	}
}

func (w *walker) want(what string, got, want int) {
	if w.err == nil && got != want {
		w.err = fmt.Errorf("%s: got %d, want %d", what, got, want)
	}
}
