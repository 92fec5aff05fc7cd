package mint_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/internal/jose"
	"github.com/phantom-token/phantom/mint"
)

// FuzzMint: what a server says makes a strict JWT that says nothing it may not,
// or a typed error and nothing else.
func FuzzMint(f *testing.F) {
	for _, members := range []string{
		`"scope":["a","b c","d"]`, `"scope":"a  b"`, `"scp":["\u0061"]`, `"scope":null`,
		`"exp":4102444800`, `"exp":1.0`, `"exp":"1"`, `"exp":1e400`, `"exp":-1`,
		`"act":{"sub":"x","act":{"sub":"y"}}`, `"act":[]`, `"auth_time":1700000000`, `"auth_time":null`,
		`"ext":{"n":[1152921504606846976,[1e-9]]}`, `"ext":"<\u2028>"`, "\"ext\":\"\u2028\"", `"ext":{"cnf":1}`,
		`"cnf":{"jkt":"x"}`, `"active":true,"token":"t","token_type":"Bearer","username":"u","nonce":"n"`,
		`"Sub":"x"`, `"groups":{"a":1,"A":2}`, `"groups":["` + "\xff" + `"]`, `"azp":"web"`, `"\u0063nf":1`, `"sub":"again"`,
	} {
		f.Add([]byte(goodWith(members)))
	}
	for _, claims := range []string{``, `{}`, `[]`, `null`, `{"sub":"a"}`, `{"sub":"","client_id":"b"}`, `{"sub":"\ud800"}`, good + " "} {
		f.Add([]byte(claims))
	}
	m, err := mint.New(issuer, []mint.Key{{Signer: edKey()}}, mint.WithAudience(audience), mint.WithMembers("ext", "email"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		before := string(claims)
		jwt, err := m.Mint(t.Context(), "", &phantom.Introspection{Active: true, Claims: claims})
		if string(claims) != before {
			t.Fatal("the answer was changed")
		}
		if err != nil {
			var e *phantom.Error
			if jwt != "" || !errors.As(err, &e) || !errors.Is(err, phantom.ErrUpstream) && !errors.Is(err, phantom.ErrInvalidToken) {
				t.Fatalf("%q, %v", jwt, err)
			}
			return
		}
		msg, err := jose.Parse(jwt)
		if err != nil || msg.Claims.Ambiguous() || len(jwt) > 16<<10 {
			t.Fatalf("%v: %s", err, jwt)
		}
		checkMinted(t, msg, claims)
	})
}

// checkMinted compares a JWT with the answer that it was made from.
func checkMinted(t *testing.T, msg *jose.Message, claims []byte) {
	t.Helper()
	allowed := map[string]bool{}
	for _, name := range []string{
		"iss", "aud", "sub", "client_id", "scope", "iat", "exp", "jti", "acr", "amr", "auth_time", "act",
		"authorization_details", "groups", "roles", "entitlements", "ext", "email",
	} {
		allowed[name] = true
	}
	var given map[string]json.RawMessage // encoding/json is a second reader of the answer
	if err := json.Unmarshal(claims, &given); err != nil {
		t.Fatal(err)
	}
	for name, v := range msg.Claims.All() {
		switch {
		case !allowed[name]:
			t.Fatalf("a claim %q: %s", name, msg.Payload)
		case name == "iss" || name == "aud" || name == "iat" || name == "exp" || name == "jti" || name == "scope" || name == "client_id":
		case string(v.Raw()) != string(given[name]):
			t.Fatalf("%s is %s, was %s", name, v.Raw(), given[name])
		}
	}
	now := time.Now().Unix()
	if text(msg, "iss") != issuer || text(msg, "aud") != audience || text(msg, "sub") == "" || text(msg, "client_id") == "" ||
		len(text(msg, "jti")) != 26 || date(t, msg, "iat") > now || date(t, msg, "exp") > now+300 || date(t, msg, "exp") <= date(t, msg, "iat") {
		t.Fatalf("%s", msg.Payload)
	}
	var exp struct{ Exp *float64 }
	if json.Unmarshal(claims, &exp) == nil && exp.Exp != nil && float64(date(t, msg, "exp")) > *exp.Exp {
		t.Fatalf("exp %d after %v", date(t, msg, "exp"), *exp.Exp)
	}
}
