package failure

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// The endpoints of the authorization server, as the log names them.
const (
	Introspection = "introspection"
	Keys          = "keys"
	Metadata      = "metadata"
	Exchange      = "exchange"
)

// Facts are what an operator must know of a failure to mend it. They are for
// the log and never sent. Like an [Error], they are immutable once returned.
type Facts struct {
	Endpoint string // of the authorization server; see the constants
	URL      string // its, without a query
	// Expected and Got are what differs: words of the configuration or of a
	// protocol, or addresses.
	Expected, Got string
	// Words are a hook's own, or what a refusal of ours goes back to.
	Words string
	// Tokens says which ones were kept from the server: "new" or "known".
	Tokens string
}

// String describes what differs, and where.
func (f *Facts) String() string {
	s := ""
	if f.Expected != "" {
		s += fmt.Sprintf(", expected %q", f.Expected)
	}
	if f.Got != "" {
		s += fmt.Sprintf(", got %q", f.Got)
	}
	if f.Endpoint != "" {
		s += fmt.Sprintf(" (%s %s)", f.Endpoint, f.URL)
	}
	return s
}

// At returns e with the endpoint that it is about, unless it has one already or
// is a verdict on the token.
func (e *Error) At(endpoint, url string) *Error {
	if e.IsVerdict() || e.Facts != nil && e.Facts.Endpoint != "" {
		return e
	}
	own, facts := *e, Facts{}
	if e.Facts != nil {
		facts = *e.Facts
	}
	facts.Endpoint, facts.URL = endpoint, url
	own.Facts = &facts
	return &own
}

// Differs sets what was expected and what came in its place, and returns e. It
// is for an Error that was just made.
func (e *Error) Differs(expected, got string) *Error {
	e.Facts = &Facts{Expected: expected, Got: got}
	return e
}

// Saying sets the words of a hook, and returns e. It is for an Error that was
// just made.
func (e *Error) Saying(words string) *Error {
	if words != "" {
		e.Facts = &Facts{Words: words}
	}
	return e
}

// minSecret is the length from which no text holds a secret by chance, in
// bytes.
const minSecret = 8

// maxWords bounds what a line says in words that are not ours, in bytes.
const maxWords = 512

// aJWT looks like the beginning of a JWT, whose first segment is a JSON object.
var aJWT = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}(\.[A-Za-z0-9_-]*)*`)

// Words returns the text of a hook's error as the log may have it: cut to size,
// and without the secrets that the hook was given and anything that looks like
// a JWT.
func Words(text string, secrets ...string) string {
	text = aJWT.ReplaceAllString(Without(text, secrets...), redacted)
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + "…"
	}
	return text
}

const redacted = "[redacted]"

// Without returns the text without the secrets, also as URLs spell them.
func Without(text string, secrets ...string) string {
	for _, secret := range secrets {
		if len(secret) < minSecret {
			continue
		}
		for _, spelt := range [...]string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			text = strings.ReplaceAll(text, spelt, redacted)
		}
	}
	return text
}

// Without returns e without the secret in what the server wrote.
func (e *Error) Without(secret string) *Error {
	if e.Facts == nil {
		return e
	}
	facts := *e.Facts
	facts.Got, facts.URL = Without(facts.Got, secret), Without(facts.URL, secret)
	if facts == *e.Facts {
		return e
	}
	own := *e
	own.Facts = &facts
	return &own
}

// maxAddress bounds an address that the server wrote, in bytes.
const maxAddress = 200

// Address returns what may be shown of an address that the server wrote, such
// as an issuer: no query, no credentials, and nothing that is no address.
func Address(text string) string {
	if i := strings.IndexAny(text, "?#"); i >= 0 {
		text = text[:i]
	}
	isOther := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(".:/-_~%[]", c))
	}
	switch {
	case text == "":
		return "(none)"
	case len(text) > maxAddress, strings.ContainsFunc(text, isOther), aJWT.MatchString(text):
		return "(no address)"
	}
	return text
}
