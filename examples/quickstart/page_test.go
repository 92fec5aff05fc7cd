package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// openPage serves the page of a site with a kind of server, and returns its URL.
func openPage(t *testing.T, server string) (url string, p *page) {
	t.Helper()
	s, err := start(t.Context(), &journal{console: io.Discard, feed: newFeed()}, server)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	p = newPage(srv.Listener.Addr().String(), s)
	srv.Config.Handler = p.handler()
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := p.stop(nil); err != nil {
			t.Error(err)
		}
	})
	return srv.URL, p
}

// ask sends a request to the page with header fields, and Host if it is one of
// them.
func ask(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for field := range slices.Chunk(header, 2) {
		if field[0] == "Host" {
			req.Host = field[1]
		}
		req.Header.Set(field[0], field[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// press presses a button as the page's script does.
func press(t *testing.T, url, path string) {
	t.Helper()
	resp, body := ask(t, http.MethodPost, url+path, "Origin", url, "Sec-Fetch-Site", "same-origin")
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("POST %s: %s, %s", path, resp.Status, body)
	}
}

// first returns the first update that a page gets when it is opened now.
func first(t *testing.T, url string) (u update) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("Content-Type %q", kind)
	}
	return next(t, bufio.NewReader(resp.Body))
}

func next(t *testing.T, stream *bufio.Reader) (u update) {
	t.Helper()
	line, err := stream.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	data, ok := strings.CutPrefix(line, "data: ")
	if !ok {
		t.Fatalf("line %q", line)
	}
	if err := json.Unmarshal([]byte(data), &u); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return u
}

// Each file comes with the headers that let the page load its own files, talk
// to its own server, and nothing else.
func TestPageLetsNothingElseIn(t *testing.T) {
	url, _ := openPage(t, "jwt")
	for path, kind := range map[string]string{
		"/":           "text/html; charset=utf-8",
		"/style.css":  "text/css; charset=utf-8",
		"/script.js":  "text/javascript; charset=utf-8",
		"/icon.svg":   "image/svg+xml",
		"/not-there":  "text/plain; charset=utf-8",
		"/do/nothing": "text/plain; charset=utf-8",
	} {
		resp, _ := ask(t, http.MethodGet, url+path)
		for name, want := range map[string]string{
			"Content-Type": kind,
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
				"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
				"require-trusted-types-for 'script'; trusted-types 'none'",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"X-Content-Type-Options":       "nosniff",
		} {
			if got := resp.Header.Values(name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
	resp, _ := ask(t, http.MethodGet, url+"/")
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
}

// The files name no other place to load from. Links are for people to follow.
func TestPageNamesNoOtherPlace(t *testing.T) {
	link := regexp.MustCompile(`<a href="https://github\.com/phantom-token/phantom[^"]*" rel="noreferrer">`)
	err := fs.WalkDir(assets, "page", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := assets.ReadFile(path)
		rest := link.ReplaceAllString(string(text), "")
		rest = strings.NewReplacer(`xmlns="http://www.w3.org/2000/svg"`, "", `replace("http://", "")`, "").Replace(rest)
		if found := regexp.MustCompile(`.*//\w.*`).FindString(rest); found != "" {
			t.Errorf("%s names another place: %s", path, found)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A name that a stranger lets point here is not the page's (DNS rebinding).
func TestPageHasOneName(t *testing.T) {
	url, p := openPage(t, "jwt")
	port := p.host[strings.LastIndex(p.host, ":"):]
	for _, host := range []string{"evil.example", "evil.example" + port, "localhost" + port, "127.0.0.1", p.host + "."} {
		for method, path := range map[string]string{"GET": "/", "HEAD": "/script.js", "POST": "/do/token"} {
			if resp, body := ask(t, method, url+path, "Host", host); resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s %s of %s: %s, %s", method, path, host, resp.Status, body)
			}
		}
	}
	if acts, _, _, _ := p.seen.feed.since(0); len(acts) > 0 {
		t.Errorf("a button was pressed: %v", acts)
	}
}

// Another site that is open in the browser cannot press a button.
func TestPageIsNotForOtherSites(t *testing.T) {
	url, p := openPage(t, "jwt")
	for name, header := range map[string][]string{
		"another site":              {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		"another port":              {"Origin", "http://127.0.0.1:1", "Sec-Fetch-Site", "same-site"},
		"an old browser":            {"Origin", "https://evil.example"},
		"a document of no origin":   {"Origin", "null"},
		"no origin, another site's": {"Sec-Fetch-Site", "cross-site"},
	} {
		for _, path := range []string{"/do/token", "/do/call", "/server/mint"} {
			if resp, _ := ask(t, http.MethodPost, url+path, header...); resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: POST %s: %s", name, path, resp.Status)
			}
		}
	}
	for _, path := range []string{"/do/token", "/server/mint"} {
		if resp, _ := ask(t, http.MethodGet, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
	for _, path := range []string{"/do/nothing", "/server/opaque"} {
		if resp, _ := ask(t, http.MethodPost, url+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("POST %s: %s", path, resp.Status)
		}
	}
	if acts, _, _, _ := p.seen.feed.since(0); len(acts) > 0 {
		t.Errorf("a button was pressed: %v", acts)
	}
}

// What each button causes: its outcome, and the messages that show it.
func TestPageActs(t *testing.T) {
	url, _ := openPage(t, "jwt")
	for _, tc := range []struct {
		act, outcome string
		messages     []string
	}{
		{"forget", "there is no token yet.", nil},
		{"revoke", "there is no token yet.", nil},
		{"call", "401 Unauthorized; no question asked.", []string{
			"client gateway GET /orders",
			"gateway gateway Refused",
			"gateway client 401 Unauthorized",
		}},
		{"token", "26 random characters, with nothing to read in them.", []string{
			"client server POST /token",
			"server client 200 OK",
		}},
		{"call", "200 OK; 1 introspection.", []string{
			"client gateway GET /orders",
			"gateway server GET /.well-known/oauth-authorization-server",
			"server gateway 200 OK",
			"gateway server POST /introspect",
			"server gateway 200 OK jwt",
			"gateway server GET /jwks",
			"server gateway 200 OK",
			"gateway gateway Verified",
			"gateway api GET /orders jwt",
			"api gateway 200 OK",
			"gateway client 200 OK",
		}},
		{"call", "200 OK; no question asked.", []string{
			"client gateway GET /orders",
			"gateway gateway Cache hit",
			"gateway api GET /orders jwt",
			"api gateway 200 OK",
			"gateway client 200 OK",
		}},
		{"revoke", "the server calls it inactive from now on.", []string{
			"client server POST /revoke",
			"server client 200 OK",
		}},
		{"forget", "the gateway remembers nothing of it.", []string{"gateway gateway Forget"}},
		{"call", "401 Unauthorized; 1 introspection.", []string{
			"client gateway GET /orders",
			"gateway server POST /introspect",
			"server gateway 204 No Content",
			"gateway gateway Refused",
			"gateway client 401 Unauthorized",
		}},
		{"junk", "401 Unauthorized; 1 introspection.", []string{
			"client gateway GET /orders",
			"gateway server POST /introspect",
			"server gateway 204 No Content",
			"gateway gateway Refused",
			"gateway client 401 Unauthorized",
		}},
		{"junk", "401 Unauthorized; no question asked.", []string{
			"client gateway GET /orders",
			"gateway gateway Refused",
			"gateway client 401 Unauthorized",
		}},
		{"rotate", "the server signs with a new key.", []string{"server server New key"}},
		{"stop", "the server hangs up on each request.", []string{"server server Stopped"}},
		{"token", "the server does not answer.", []string{
			"client server POST /token",
			"server client No answer",
		}},
		{"start", "the server answers again.", []string{"server server Started"}},
	} {
		press(t, url, "/do/"+tc.act)
		u := first(t, url)
		if last := u.Acts[len(u.Acts)-1]; last.Outcome != tc.outcome || last.Title != deeds[tc.act].title {
			t.Errorf("%s: %+v, want the outcome %s", tc.act, last, tc.outcome)
		}
		if got := spell(u.Messages); !slices.Equal(got, tc.messages) {
			t.Errorf("%s: got\n  %s\nwant\n  %s", tc.act, strings.Join(got, "\n  "), strings.Join(tc.messages, "\n  "))
		}
		if found := regexp.MustCompile(`[\w-]{60,}`).FindString(spellOut(u.Messages)); found != "" {
			t.Errorf("%s: a JWT in full: %s", tc.act, found)
		}
	}
}

// spell returns who sends what to whom.
func spell(messages []message) (lines []string) {
	for _, m := range messages {
		line := m.From + " " + m.To + " " + m.Title
		if m.JWT != nil {
			line += " jwt"
		}
		lines = append(lines, line)
	}
	return lines
}

func spellOut(messages []message) (text string) {
	for _, m := range messages {
		text += m.Gist + "\n" + m.Text + "\n"
	}
	return text
}

// The picture shows the opaque token on the one side and the JWT, decoded, on
// the other, and the challenge of a refusal.
func TestPageShowsTheSwap(t *testing.T) {
	url, p := openPage(t, "jwt")
	press(t, url, "/do/token")
	press(t, url, "/do/call")
	u := first(t, url)
	outside, inside := u.Messages[0], u.Messages[len(u.Messages)-3]
	if want := "Authorization: Bearer " + p.site.held; !strings.Contains(outside.Text, want) ||
		u.State.Token != p.site.held {
		t.Errorf("no %q in %s", want, outside.Text)
	}
	if inside.JWT == nil || !strings.Contains(inside.JWT.Header, `"alg": "ES256"`) ||
		!strings.Contains(inside.JWT.Claims, `"client_id": "app"`) {
		t.Errorf("the API gets %+v", inside)
	}
	press(t, url, "/do/call")
	press(t, url, "/do/junk")
	u = first(t, url)
	refusal := u.Messages[len(u.Messages)-1]
	if !strings.HasPrefix(refusal.Gist, "WWW-Authenticate: Bearer ") ||
		!strings.Contains(refusal.Text, `error="invalid_token"`) {
		t.Errorf("the client gets %+v", refusal)
	}
	want := []counter{
		{"cache hits", 1}, {"cache misses", 2}, {"joined a lookup", 0},
		{"refused as before", 0}, {"refused in all", 1}, {"tokens kept", 1},
	}
	if !slices.Equal(u.State.Counters, want) {
		t.Errorf("numbers: %v, want %v", u.State.Counters, want)
	}
}

// A hundred calls are one picture, and one question.
func TestPageCountsACrowd(t *testing.T) {
	url, _ := openPage(t, "jwt")
	press(t, url, "/do/token")
	press(t, url, "/do/crowd")
	u := first(t, url)
	if got, want := u.Acts[len(u.Acts)-1].Outcome, "100 × 200 OK; 1 introspection."; got != want {
		t.Errorf("outcome %q, want %q", got, want)
	}
	counts := map[string]int{}
	for _, m := range u.Messages {
		counts[m.From+" "+m.To+" "+m.Title] += m.Count
	}
	for _, tc := range []struct {
		message string
		want    int
	}{
		{"client gateway GET /orders", 100},
		{"gateway server POST /introspect", 1},
		{"gateway api GET /orders", 100},
		{"gateway client 200 OK", 100},
	} {
		if counts[tc.message] != tc.want {
			t.Errorf("%s: %d times, want %d", tc.message, counts[tc.message], tc.want)
		}
	}
	if len(u.Messages) > 15 {
		t.Errorf("%d messages in the picture", len(u.Messages))
	}
}

// Each kind of server can be chosen, and is there again when it is chosen again.
func TestPageHasEachServer(t *testing.T) {
	url, p := openPage(t, "jwt")
	for kind, want := range map[string]string{
		"claims":   "gateway api GET /orders",
		"mint":     "gateway api GET /orders jwt",
		"exchange": "gateway server POST /token",
	} {
		press(t, url, "/server/"+kind)
		if u := first(t, url); u.State.Server != kind || u.State.Token != "" || len(u.Messages) > 0 {
			t.Errorf("%s: %+v", kind, u)
		}
		press(t, url, "/do/rotate")
		press(t, url, "/do/token")
		press(t, url, "/do/call")
		u := first(t, url)
		if got := spell(u.Messages); !slices.Contains(got, want) || got[len(got)-1] != "gateway client 200 OK" {
			t.Errorf("%s: %s", kind, strings.Join(got, "\n"))
		}
		site := p.site
		press(t, url, "/server/jwt")
		press(t, url, "/server/"+kind)
		if u := first(t, url); p.site != site || u.State.Token != site.held {
			t.Errorf("%s: another site", kind)
		}
	}
}

// Who uses curl sees it on the page.
func TestPageShowsOtherClients(t *testing.T) {
	url, p := openPage(t, "jwt")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	if u := next(t, stream); len(u.Acts)+len(u.Messages) > 0 {
		t.Errorf("at first: %+v", u)
	}
	ask(t, http.MethodGet, p.site.gateway+"/orders")
	seen := map[string]bool{}
	for deadline := time.Now().Add(10 * time.Second); !seen["gateway client 401 Unauthorized"]; {
		if time.Now().After(deadline) {
			t.Fatalf("seen: %v", seen)
		}
		for _, line := range spell(next(t, stream).Messages) {
			seen[line] = true
		}
	}
	if u := first(t, url); len(u.Acts) != 1 || u.Acts[0].Title != "GET /orders" {
		t.Errorf("acts: %+v", u.Acts)
	}
}

// A page that is still open does not keep the program from ending.
func TestServeEndsWithAnOpenPage(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := new(lockedBuffer)
	done := make(chan error, 1)
	go func() { done <- run(ctx, out, []string{"-serve"}) }()
	var url []string
	for deadline := time.Now().Add(10 * time.Second); url == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no page in\n%s", out)
		}
		url = regexp.MustCompile(`Open the page:\n\n  (http://127\.0\.0\.1:\d+)/\n`).FindStringSubmatch(out.String())
	}
	press(t, url[1], "/server/mint")
	resp, err := http.Get(url[1] + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	next(t, bufio.NewReader(resp.Body))

	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still serving after the end of the context")
	}
	if _, err := io.ReadAll(resp.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
