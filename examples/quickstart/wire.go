package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/phantom-token/phantom"
)

// A jwt is the readable part of a JWT.
type jwt struct {
	Header string `json:"header"`
	Claims string `json:"claims"`
}

// jwts finds JWTs in a text.
var jwts = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)

// asked is the message that is the request.
func (x exchange) asked() message {
	m := message{From: x.from, To: x.to, Title: x.method + " " + x.path, kind: x.kind()}
	switch {
	case x.to != atServer:
		m.Gist = cmp.Or(field(x.request, "Authorization"), "no Authorization")
	case x.form.Get("token") != "":
		m.Gist = "token=" + shorten(x.form.Get("token"))
	case x.form.Has("grant_type"):
		grant := x.form.Get("grant_type")
		m.Gist = "grant_type=" + grant[strings.LastIndex(grant, ":")+1:]
	}
	text := head(m.Title, x.request, "Authorization", "Accept", "Content-Type")
	if len(x.form) > 0 {
		text += "\n" + formLines(x.form)
	}
	m.JWT, m.Text = readable(text, x.request.Get("Authorization"))
	return m
}

// answered is the message that is the answer.
func (x exchange) answered() message {
	m := message{
		From: x.to, To: x.from, Title: x.outcome(), Answer: true,
		Refused: x.status < 200 || x.status >= 400, kind: x.kind(),
	}
	m.Title = strings.ToUpper(m.Title[:1]) + m.Title[1:]
	if x.status == 0 {
		m.Gist = "the connection is closed"
		return m
	}
	challenges := x.response.Values("WWW-Authenticate")
	switch {
	case len(challenges) > 0:
		m.Gist = "WWW-Authenticate: " + challenges[0]
	case x.status == http.StatusNoContent:
		m.Gist = "not active"
	default:
		m.Gist = beginning(jwts.ReplaceAllStringFunc(x.body, shorten))
	}
	text := head(m.Title, x.response, "Content-Type", "Cache-Control", "WWW-Authenticate", "Retry-After")
	if body := indent(x.body); body != "" {
		text += "\n" + body
	}
	m.JWT, m.Text = readable(text, x.body)
	return m
}

// decided is the message of the gateway to itself that is its decision on a
// request.
func decided(d phantom.Decision) message {
	m := message{From: atGateway, To: atGateway, Text: "outcome: " + string(d.Outcome) + "\n"}
	switch {
	case d.Err != nil:
		m.Title, m.Gist, m.Refused = "Refused", "reason: "+string(d.Err.Reason), true
		m.Text += m.Gist + "\ndetail: " + d.Err.Detail
		if d.Outcome == phantom.OutcomeNegative {
			m.Gist = "as before: no question asked"
		}
		return m
	case d.Outcome == phantom.OutcomeHit:
		m.Title, m.Gist = "Cache hit", "remembered: no question asked"
	default:
		m.Title, m.Gist = "Verified", "remembered for at most "+maxTTL.String()
	}
	if d.Token != nil {
		m.Text += "subject: " + d.Token.Subject() + "\nscopes: " + strings.Join(d.Token.Scopes(), " ")
	}
	return m
}

// kind is equal for exchanges that ask the same of the same party.
func (x exchange) kind() string { return x.to + x.method + x.path }

// beginning is as much of a body as fits on a line.
func beginning(body string) string {
	const n = 52
	if len(body) <= n {
		return body
	}
	return body[:n-3] + "..."
}

// head is the first line and the named header fields.
func head(line string, h http.Header, names ...string) string {
	text := line + "\n"
	for _, name := range names {
		for _, value := range h.Values(name) {
			text += name + ": " + value + "\n"
		}
	}
	return text
}

// field is a header field on one line, with its credentials shortened.
func field(h http.Header, name string) string {
	value := h.Get(name)
	if value == "" {
		return ""
	}
	scheme, credentials, _ := strings.Cut(value, " ")
	return fmt.Sprintf("%s: %s %s", name, scheme, shorten(credentials))
}

// formLines is a form with one parameter a line.
func formLines(form url.Values) (text string) {
	for _, name := range slices.Sorted(maps.Keys(form)) {
		for _, value := range form[name] {
			text += name + "=" + value + "\n"
		}
	}
	return text
}

// readable returns the JWT that is in part of a text, decoded, and the text
// with the beginning of each JWT alone.
func readable(text, part string) (*jwt, string) {
	short := jwts.ReplaceAllStringFunc(text, shorten)
	header, claims, err := decode(jwts.FindString(part))
	if err != nil {
		return nil, short
	}
	return &jwt{Header: indent(string(header)), Claims: indent(string(claims))}, short
}

// indent returns JSON with a line for each member, and any other text as it is.
func indent(text string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(text), "", "  ") != nil {
		return text
	}
	return b.String()
}
