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
)

// A walker is a client that tells what it does. It stops at the first error.
type walker struct {
	*site
	ctx    context.Context
	out    io.Writer
	client *http.Client
	token  string
	err    error
}

// walk goes through the pattern step by step.
func walk(ctx context.Context, out io.Writer, s *site) error {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	w := &walker{site: s, ctx: ctx, out: out, client: &http.Client{Transport: transport}}

	w.say("1. The client gets a token from the authorization server.")
	w.getToken("orders:read profile")

	w.say("2. It calls the API through the gateway.")
	w.get("/orders", w.token, http.StatusOK, w.showIntrospection, w.showJWT)

	w.say("3. It calls again. The gateway knows by now what the token stands for.")
	w.get("/orders", w.token, http.StatusOK)
	w.line("introspections so far: %d", w.as.Introspections())
	w.want("introspections", w.as.Introspections(), 1)

	w.say("4. A route of the gateway itself finds the claims in the context.")
	w.get("/whoami", w.token, http.StatusOK)

	w.say("5. A call without a token.")
	w.get("/orders", "", http.StatusUnauthorized)

	w.say("6. A call that needs a scope which the token does not have.")
	w.get("/reports", w.token, http.StatusForbidden)

	w.say("7. The token is revoked. A gateway that nobody tells goes on accepting it\n"+
		"   for up to WithMaxTTL, %v here; a webhook that calls Forget tells it.", maxTTL)
	w.revoke()
	w.get("/orders", w.token, http.StatusOK)
	w.line("auth.Forget(token)")
	w.auth.Forget(w.token)
	w.get("/orders", w.token, http.StatusUnauthorized)
	return w.err
}

// getToken gets a token with the client credentials grant.
func (w *walker) getToken(scope string) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}}
	body := w.post("/token", form)
	if w.err != nil {
		return
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if w.err = json.Unmarshal(body, &answer); w.err != nil {
		return
	}
	w.token = answer.AccessToken
	w.line("< access_token: %s (%d random characters)", shorten(w.token), len(w.token))
	w.line("< expires_in: %d", answer.ExpiresIn)
}

// revoke revokes the token at the authorization server.
func (w *walker) revoke() { w.post("/revoke", url.Values{"token": {w.token}}) }

// post sends a form to the authorization server.
func (w *walker) post(path string, form url.Values) []byte {
	if w.err != nil {
		return nil
	}
	req, err := http.NewRequestWithContext(w.ctx, "POST", w.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.err = err
		return nil
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(appID, appSecret)
	w.line("> POST %s", path)
	w.form(form)
	resp, body := w.do(req)
	if w.err != nil {
		return nil
	}
	w.line("< %s", resp.Status)
	w.want("POST "+path, resp.StatusCode, http.StatusOK)
	return body
}

// get calls the gateway. It shows the request, what else there is to see, and
// the answer.
func (w *walker) get(path, token string, status int, between ...func()) {
	if w.err != nil {
		return
	}
	req, err := http.NewRequestWithContext(w.ctx, "GET", w.gateway+path, nil)
	if err != nil {
		w.err = err
		return
	}
	w.line("> GET %s", path)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
		w.line("> Authorization: Bearer %s", shorten(token))
	}
	resp, body := w.do(req)
	if w.err != nil {
		return
	}
	if w.want("GET "+path, resp.StatusCode, status); w.err != nil {
		return
	}
	for _, show := range between {
		show()
	}
	w.line("< %s", resp.Status)
	if challenge := resp.Header.Get("WWW-Authenticate"); challenge != "" {
		w.line("< WWW-Authenticate: %s", strings.ReplaceAll(challenge, `", `, "\",\n   <     "))
	} else {
		w.line("< %s", bytes.TrimSpace(body))
	}
}

// do sends req and reads the answer.
func (w *walker) do(req *http.Request) (*http.Response, []byte) {
	resp, err := w.client.Do(req)
	if err != nil {
		w.err = err
		return nil, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.err = err
		return nil, nil
	}
	return resp, body
}

// showIntrospection shows what the gateway asked and what it was told.
func (w *walker) showIntrospection() {
	if w.err != nil {
		return
	}
	x := w.seen.last("/introspect")
	w.say("   The token is opaque: the gateway asks the authorization server.")
	w.line("> %s %s", x.method, x.path)
	w.line("> Accept: %s", x.request.Get("Accept"))
	w.form(x.form)
	w.line("< %d %s", x.status, http.StatusText(x.status))
	w.line("< Content-Type: %s", x.response.Get("Content-Type"))
	w.line("< Cache-Control: %s", x.response.Get("Cache-Control"))
	w.line("< %s", shorten(x.body))
}

// showJWT shows what the API received.
func (w *walker) showJWT() {
	if w.err != nil {
		return
	}
	w.say("   The gateway verifies the JWT and calls the API with it. The API receives:")
	header, claims, err := decode(bearer(w.seen.last("/orders").request))
	if err != nil {
		w.err = err
		return
	}
	for _, part := range [][]byte{header, claims} {
		var b bytes.Buffer
		if w.err = json.Indent(&b, part, "   ", "  "); w.err != nil {
			return
		}
		w.line("%s", b.String())
	}
	w.say("   Its answer goes back to the client.")
}

// form shows a form, a field to a line, and no token in full.
func (w *walker) form(form url.Values) {
	for _, name := range []string{"grant_type", "scope", "token", "token_type_hint"} {
		if value := form.Get(name); name == "token" && value != "" {
			w.line(">   token=%s", shorten(value))
		} else if value != "" {
			w.line(">   %s=%s", name, value)
		}
	}
}

// say begins a step, line goes on in it.
func (w *walker) say(format string, args ...any) {
	if w.err == nil {
		fmt.Fprintf(w.out, "\n"+format+"\n\n", args...)
	}
}

func (w *walker) line(format string, args ...any) {
	if w.err == nil {
		fmt.Fprintf(w.out, "   "+format+"\n", args...)
	}
}

func (w *walker) want(what string, got, want int) {
	if w.err == nil && got != want {
		w.err = fmt.Errorf("%s: got %d, want %d", what, got, want)
	}
}
