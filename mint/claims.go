package mint

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/httpauth"
	"github.com/phantom-token/phantom/internal/jose"
)

var (
	// ours are the claims that a Minter sets itself, or leaves out.
	ours = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "scope"}
	// neverCopied are members that bind the opaque token to a key, speak of it,
	// or may hold it.
	neverCopied = []string{
		"cnf", "active", "token_type", "username", "nonce", "phantom_token", "jwt", "token_string",
	}
	// alwaysCopied are the members by which upstreams decide (RFC 9068 section
	// 2.2, RFC 8693 section 4.1, RFC 9396 section 9).
	alwaysCopied = []string{
		"acr", "amr", "auth_time", "act", "authorization_details", "groups", "roles", "entitlements",
	}
	// notYours are the claims that WithClaims may not set.
	notYours = append(slices.Clip(ours), "cnf")
)

// isOneOf also sees the names in another case, which a reader that folds it,
// such as encoding/json, would take for the same.
func isOneOf(name string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// payload makes the claims of the JWT.
func (m *Minter) payload(ctx context.Context, answer *phantom.Introspection) ([]byte, error) {
	switch {
	case answer == nil:
		return nil, unusable("no answer to mint from")
	case !answer.Active:
		return nil, refused("not active")
	}
	members, err := jose.ParseObject(answer.Claims)
	if err != nil || members.Ambiguous() {
		return nil, unusable("introspection claims: not strict JSON")
	}
	if active, given := lookUp(members, "active"); given {
		if yes, ok := active.Bool(); !ok || !yes {
			return nil, unusable("active")
		}
	}
	own, err := m.ownClaims(ctx, members)
	if err != nil {
		return nil, err
	}
	w := &writer{}
	if err := m.identity(w, members); err != nil {
		return nil, err
	}
	if err := m.times(w, members, answer.Expiry); err != nil {
		return nil, err
	}
	if err := m.copyMembers(w, members, own); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if value := own[name]; string(value) != "null" {
			w.add(name, value)
		}
	}
	payload := w.object()
	// A function's own JSON may be as odd as a stranger's.
	if all, err := jose.ParseObject(payload); err != nil || all.Ambiguous() {
		return nil, unusable("minted claims: ambiguous name")
	}
	return payload, nil
}

// ownClaims asks the function of WithClaims.
func (m *Minter) ownClaims(ctx context.Context, members jose.Object) (map[string]json.RawMessage, error) {
	if m.own == nil {
		return nil, nil
	}
	answer := make(map[string]json.RawMessage, members.Len())
	for name, v := range members.All() {
		answer[name] = bytes.Clone(v.Raw())
	}
	claims, err := m.own(ctx, answer)
	if err != nil {
		return nil, err
	}
	own := make(map[string]json.RawMessage, len(claims))
	for name, value := range claims {
		if isOneOf(name, notYours) {
			return nil, unusable("mint.WithClaims set a claim that is not its own")
		}
		if own[name], err = encode(value); err != nil {
			return nil, unusable("mint.WithClaims: no JSON")
		}
	}
	return own, nil
}

// identity writes who the JWT is from, for and about.
func (m *Minter) identity(w *writer, members jose.Object) error {
	w.add("iss", m.iss)
	w.add("aud", m.aud)
	sub := members.Get("sub")
	if text, _ := sub.Text(); text == "" {
		return unusable("sub")
	}
	w.add("sub", sub.Raw())

	client, given := lookUp(members, "client_id")
	if !given || client.Is("") {
		client, given = lookUp(members, "azp") // OpenID's name, Keycloak's habit
	}
	text, ok := client.Text()
	switch {
	case given && !ok:
		return unusable("client_id")
	case text != "":
		w.add("client_id", client.Raw())
	case !m.plain:
		return unusable("client_id; see mint.WithPlainJWT")
	}

	if scope := readScope(members); scope != "" {
		w.add("scope", strconv.AppendQuote(nil, scope)) // JSON: a scope-token has no character to escape
	}
	return nil
}

// times writes how long the JWT is valid, and its id. The id of the opaque
// token may be a handle of it and is not used.
func (m *Minter) times(w *writer, members jose.Object, expiry time.Time) error {
	now := time.Now()
	exp := now.Add(m.lifetime).Unix()
	if !expiry.IsZero() {
		exp = min(exp, expiry.Unix())
	}
	if v, given := lookUp(members, "exp"); given {
		sec, ok := v.NumericDate()
		if !ok {
			return unusable("exp")
		}
		exp = min(exp, sec)
	}
	if !now.Before(time.Unix(exp, 0)) {
		return refused("exp")
	}
	w.add("iat", strconv.AppendInt(nil, now.Unix(), 10))
	w.add("exp", strconv.AppendInt(nil, exp, 10))
	w.add("jti", strconv.AppendQuote(nil, rand.Text()))
	return nil
}

// copyMembers writes the members that are copied as they are, unless own has
// them.
func (m *Minter) copyMembers(w *writer, members jose.Object, own map[string]json.RawMessage) error {
	for _, name := range m.copied {
		v, given := lookUp(members, name)
		if !given {
			continue
		}
		switch name {
		case "act": // RFC 8693 section 4.1
			if _, ok := v.Object(); !ok {
				return unusable(name)
			}
		case "auth_time":
			if _, ok := v.NumericDate(); !ok {
				return unusable(name)
			}
		}
		if _, replaced := own[name]; !replaced {
			w.add(name, v.Raw())
		}
	}
	return nil
}

// readScope returns the scope-tokens in the scope, or in scp if there is none,
// as a Token has them: a string, or an array of strings. An element that is no
// scope-token is left out, because to split it would make scopes of its parts.
func readScope(members jose.Object) string {
	v, given := lookUp(members, "scope")
	if !given {
		v = members.Get("scp")
	}
	list, ok := v.Texts()
	if !ok {
		text, _ := v.Text()
		list = strings.Split(text, " ")
	}
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return !httpauth.IsScopeToken(s) }), " ")
}

// lookUp returns a member that may be missing. A null is as good as none.
func lookUp(members jose.Object, name string) (v jose.Value, given bool) {
	v = members.Get(name)
	return v, v.Exists() && !v.IsNull()
}

// A writer makes a JSON object out of texts that are JSON already, so that what
// is copied keeps its bytes.
type writer struct{ buf bytes.Buffer }

func (w *writer) add(name string, value []byte) {
	if w.buf.Len() == 0 {
		w.buf.WriteByte('{')
	} else {
		w.buf.WriteByte(',')
	}
	text, _ := encode(name) // a string always has a text
	w.buf.Write(text)
	w.buf.WriteByte(':')
	w.buf.Write(value)
}

func (w *writer) object() []byte {
	w.buf.WriteByte('}')
	return w.buf.Bytes()
}

// encode is json.Marshal without its escapes for HTML.
func encode(v any) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
