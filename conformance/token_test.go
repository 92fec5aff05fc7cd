package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// tokenOf returns the token that handlers find for a JWT with these claims.
func (as *fakeAS) tokenOf(t *testing.T, answer http.HandlerFunc, extra ...phantom.Option) *phantom.Token {
	t.Helper()
	as.introspect = answer
	tok, err := as.middleware(extra...).Verify(t.Context(), as.secret("opaque-token-of-alice"))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// tokenWith returns the token for a JWT with changes to the default claims.
func tokenWith(t *testing.T, changes map[string]any, extra ...phantom.Option) *phantom.Token {
	t.Helper()
	as := newAS(t)
	return as.tokenOf(t, answerJWT(mint("ES256", claims(changes))), extra...)
}

// A token gives the claims of its JWT, and sets the header that carries it.
func TestTokenHoldsTheClaims(t *testing.T) {
	now := time.Now().Unix()
	tok := tokenWith(t, map[string]any{
		"aud": []string{"https://other.test", audience}, "exp": now + 100, "iat": now - 5, "scope": "read  write ",
		"sub": "Ωmega \x00 user", "jti": "id-7",
	})
	if tok.Subject() != "Ωmega \x00 user" || tok.Issuer() != issuer || tok.ClientID() != "app" || tok.ID() != "id-7" {
		t.Errorf("%q %q %q %q", tok.Subject(), tok.Issuer(), tok.ClientID(), tok.ID())
	}
	if got := tok.Audience(); !slices.Equal(got, []string{"https://other.test", audience}) {
		t.Errorf("audience %q", got)
	}
	if got := tok.Scopes(); !slices.Equal(got, []string{"read", "write"}) {
		t.Errorf("scopes %q", got)
	}
	if !tok.Expiry().Equal(time.Unix(now+100, 0)) || !tok.IssuedAt().Equal(time.Unix(now-5, 0)) {
		t.Errorf("%v %v", tok.Expiry(), tok.IssuedAt())
	}
	r := &http.Request{}
	tok.SetAuthHeader(r)
	if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+tok.JWT() {
		t.Errorf("Authorization %q", got)
	}
}

// A claim that the JWT does not have is empty, and an absent scope
// grants nothing.
func TestMissingClaimsAreEmpty(t *testing.T) {
	as := newAS(t)
	as.introspect = answerJWT(mint("ES256", claims(map[string]any{
		"aud": nil, "client_id": nil, "jti": nil, "scope": nil, "iat": nil,
	})))
	options := as.options()
	options[1] = phantom.WithoutAudienceCheck()
	tok, err := must(phantom.New(options...)).Verify(t.Context(), "opaque")
	if err != nil {
		t.Fatal(err)
	}
	if tok.Subject() != "alice" || tok.ClientID() != "" || tok.ID() != "" ||
		tok.Audience() != nil || tok.Scopes() != nil || !tok.IssuedAt().IsZero() {
		t.Errorf("%q %q %q %q %v", tok.ClientID(), tok.ID(), tok.Audience(), tok.Scopes(), tok.IssuedAt())
	}
	if tok.HasScope("") || tok.HasScope("read") || tok.HasScope(" ") {
		t.Error("a scope out of nothing")
	}
}

// The client is client_id, or azp if there is no client_id.
func TestClientIDMayComeAsAzp(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"client_id", nil, "app"},
		{"client_id before azp", map[string]any{"azp": "web"}, "app"},
		{"azp alone", map[string]any{"client_id": nil, "azp": "web"}, "web"},
		{"azp beside an empty one", map[string]any{"client_id": "", "azp": "web"}, "web"},
		{"azp a number", map[string]any{"client_id": nil, "azp": 1}, ""},
		{"azp null", map[string]any{"client_id": nil, "azp": null}, ""},
		{"neither", map[string]any{"client_id": nil}, ""},
		{"cid is no client of ours", map[string]any{"client_id": nil, "cid": "web"}, ""},
	} {
		if got := tokenWith(t, tc.changes).ClientID(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// HasScope compares whole names, and allocates nothing.
func TestHasScopeComparesWholeNames(t *testing.T) {
	for _, scope := range []any{"orders:read orders:write  admin", []string{"orders:read", "orders:write", "admin"}} {
		tok := tokenWith(t, map[string]any{"scope": scope})
		for _, name := range []string{"orders:read", "orders:write", "admin"} {
			if !tok.HasScope(name) {
				t.Errorf("%v has no %q", scope, name)
			}
		}
		for _, name := range []string{
			"", " ", "orders", "orders:", "read", "dmin", "admi", "Admin",
			"orders:read orders:write", "admin ", " admin", "orders:read\x00",
		} {
			if tok.HasScope(name) {
				t.Errorf("%v has %q", scope, name)
			}
		}
		if n := testing.AllocsPerRun(100, func() { _ = tok.HasScope("admin") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// Scopes come as a text with spaces or as an array of names. Any other form
// holds none.
func TestScopesComeAsTextOrArray(t *testing.T) {
	for _, tc := range []struct {
		name  string
		scope any
		want  []string
	}{
		{"string", "a b", []string{"a", "b"}},
		{"array", []string{"a", "b"}, []string{"a", "b"}},
		{"empty elements", []string{"", "a", ""}, []string{"a"}},
		{"an element of two names", []string{"a b", "c"}, []string{"a", "b", "c"}},
		{"empty array", []string{}, nil},
		{"empty", "", nil},
		{"spaces", "   ", nil},
		{"number", 1, nil},
		{"object", map[string]any{"a": 1}, nil},
		{"mixed array", []any{"a", 1}, nil},
		{"null", null, nil},
	} {
		got := tokenWith(t, map[string]any{"scope": tc.scope}).Scopes()
		if !slices.Equal(got, tc.want) || (got == nil) != (tc.want == nil) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// What accessors and decoders hand out belongs to the caller: writing to it
// reaches no other request that shares the token.
func TestCallersOwnWhatTheyGet(t *testing.T) {
	as := newAS(t)
	body := fmt.Sprintf(`{"active":true,"phantom_token":%q,"roles":["a","b"]}`,
		mint("ES256", claims(map[string]any{"aud": []string{audience, "b"}, "nested": map[string]any{"list": []int{1, 2}}})))
	tok := as.tokenOf(t, answerJSON(body))
	tok.Audience()[0], tok.Scopes()[0] = "evil", "evil"
	var first, second, members map[string]any
	for _, err := range []error{tok.Decode(&first), tok.Introspection(&members)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	first["sub"] = "evil"
	first["nested"].(map[string]any)["list"].([]any)[0] = "evil"
	members["roles"].([]any)[0] = "evil"
	var raw, rawAgain json.RawMessage
	for _, err := range []error{tok.Decode(&raw), tok.Decode(&rawAgain)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	clear(raw)
	if !json.Valid(rawAgain) {
		t.Error("two raw messages share their bytes")
	}
	if err := tok.Decode(&second); err != nil {
		t.Fatal(err)
	}
	var roles struct{ Roles []string }
	if err := tok.Introspection(&roles); err != nil {
		t.Fatal(err)
	}
	if tok.Audience()[0] != audience || tok.HasScope("evil") || tok.Scopes()[0] != "read" || second["sub"] != "alice" ||
		second["nested"].(map[string]any)["list"].([]any)[0] != json.Number("1") || roles.Roles[0] != "a" {
		t.Errorf("changed: %v %v %v %v", tok.Audience(), tok.Scopes(), second, roles)
	}
}

// Many goroutines may read one token, and write to what they got of it.
func TestTokenIsSafeToShare(t *testing.T) {
	tok := tokenWith(t, map[string]any{"aud": []string{audience, "b"}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				var c map[string]any
				if err := tok.Decode(&c); err != nil || c["sub"] != "alice" {
					t.Error(err)
				}
				c["sub"] = "evil"
				slices.Reverse(tok.Audience())
				r := &http.Request{Header: http.Header{}}
				tok.SetAuthHeader(r)
				r.Header["Authorization"][0] = "evil"
				_ = tok.HasScope("read")
				_ = tok.LogValue()
			}
		})
	}
	wg.Wait()
}

// Decode reads numbers and text exactly, and its errors do not show the JWT.
//
// Catalogue: J175.
func TestDecodeKeepsAllDigits(t *testing.T) {
	const digits = "123456789012345678901234567890.12345678901234567890"
	as := newAS(t)
	tok := as.tokenOf(t, answerJWT(es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+
		`,"uid":9007199254740993,"big":`+digits+`,"list":[9007199254740993],"deep":{"n":1e400},"esc":"\u00e9\ud83d\ude00"}`)))
	var exact struct {
		UID  int64       `json:"uid"`
		Big  json.Number `json:"big"`
		Esc  string
		Exp  int64
		List []uint64
	}
	if err := tok.Decode(&exact); err != nil ||
		exact.UID != 9007199254740993 || exact.Big != digits || exact.Esc != "é😀" ||
		exact.Exp != tok.Expiry().Unix() || exact.List[0] != 9007199254740993 {
		t.Errorf("%+v, %v", exact, err)
	}
	var loose any
	if err := tok.Decode(&loose); err != nil {
		t.Fatal(err)
	}
	m := loose.(map[string]any)
	if m["uid"] != json.Number("9007199254740993") || m["big"] != json.Number(digits) ||
		m["list"].([]any)[0] != json.Number("9007199254740993") || m["deep"].(map[string]any)["n"] != json.Number("1e400") {
		t.Errorf("%v", m)
	}
	for _, tc := range []struct {
		name string
		v    any
	}{
		{"a number too large", &struct {
			UID int32 `json:"uid"`
		}{}},
		{"a string for a number", &struct{ Sub int }{}},
		{"nil", nil},
		{"no pointer", struct{}{}},
		{"nil pointer", (*struct{})(nil)},
		{"a slice", &[]string{}},
	} {
		err := tok.Decode(tc.v)
		if err == nil || !strings.HasPrefix(err.Error(), "phantom: claims: ") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil && strings.Contains(err.Error(), tok.JWT()) {
			t.Errorf("%s: the error holds the JWT", tc.name)
		}
	}
}

// endsEarly is a type of the caller's whose decoding fails as a reader would.
type endsEarly struct{ Sub string }

func (*endsEarly) UnmarshalJSON([]byte) error { return io.EOF }

// The error of a caller's own type comes back from Decode, and Claims gives
// nothing then.
func TestDecodeReturnsTheErrorOfTheType(t *testing.T) {
	tok := tokenWith(t, nil)
	if err := tok.Decode(new(endsEarly)); !errors.Is(err, io.EOF) {
		t.Errorf("decoded, with %v", err)
	}
	if got, err := phantom.Claims[endsEarly](phantom.NewContext(t.Context(), tok)); err == nil {
		t.Errorf("claims %+v", got)
	}
}

// The members of an answer are kept as they came, and do not grow by escapes.
func TestIntrospectionIsKeptAsItCame(t *testing.T) {
	as := newAS(t)
	marks := strings.Repeat("<>&", 1000)
	jwt := mint("ES256", claims(nil))
	as.introspect = answerJSON(`{"active":true,"phantom_token":"` + jwt + `","note":"` + marks + `"}`)
	var raw json.RawMessage
	if err := must(as.middleware().Verify(t.Context(), "opaque-token")).Introspection(&raw); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), marks) {
		t.Errorf("%d bytes of %d", len(raw), len(marks))
	}
}

// Claims reads the token of the context into a type. Without a token, or if
// that fails, it returns an error and no half-read value.
//
// Catalogue: P69.
func TestClaimsNeedATokenInTheContext(t *testing.T) {
	type mine struct {
		Sub string `json:"sub"`
		UID int64  `json:"uid"`
	}
	tok := tokenWith(t, map[string]any{"uid": json.Number("9007199254740993")})
	ctx := phantom.NewContext(t.Context(), tok)
	if got, err := phantom.Claims[mine](ctx); err != nil || got != (mine{"alice", 9007199254740993}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := phantom.Claims[*mine](ctx); err != nil || *got != (mine{"alice", 9007199254740993}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := phantom.Claims[map[string]any](ctx); err != nil || got["uid"] != json.Number("9007199254740993") {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := phantom.Claims[struct{ Sub, Client_ID string }](ctx); err != nil || got.Client_ID != "app" {
		t.Errorf("%v, %v", got, err)
	}
	// A failure gives nothing, not even what was read before it.
	type wrong struct {
		Aud string `json:"aud"`
		Sub int    `json:"sub"`
	}
	if got, err := phantom.Claims[wrong](ctx); err == nil || got != (wrong{}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, tc := range []struct {
		name string
		ctx  context.Context
	}{
		{"none", t.Context()},
		{"nil", phantom.NewContext(t.Context(), nil)},
		{"hidden", phantom.NewContext(ctx, nil)},
	} {
		if got, err := phantom.Claims[mine](tc.ctx); !errors.Is(err, phantom.ErrNoToken) || got != (mine{}) {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		if got, ok := phantom.FromContext(tc.ctx); ok || got != nil {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	if got, ok := phantom.FromContext(ctx); !ok || got != tok {
		t.Error("not the same token")
	}
}

// Introspection gives the members of a JSON answer, of which the JWT is none. A
// bare JWT came with no members.
func TestIntrospectionGivesTheOtherMembers(t *testing.T) {
	as := newAS(t)
	jwt := mint("ES256", claims(nil))
	as.secret(jwt)
	tok := as.tokenOf(t, answerJSON(
		`{"active":true,"username":"Alice","uid":9007199254740993,"phantom_token":"`+jwt+`","x":{"y":[1]}}`))
	var known struct {
		Active   bool
		Username string
		UID      int64
	}
	if err := tok.Introspection(&known); err != nil ||
		!known.Active || known.Username != "Alice" || known.UID != 9007199254740993 {
		t.Errorf("%+v, %v", known, err)
	}
	var all map[string]any
	if err := tok.Introspection(&all); err != nil || all["uid"] != json.Number("9007199254740993") || len(all) != 4 {
		t.Errorf("%v, %v", all, err)
	}
	if strings.Contains(fmt.Sprint(all), jwt) {
		t.Error("the JWT is one of the other members")
	}
	// These members are not the JWT's, and the other way round.
	if err := tok.Decode(&all); err != nil || all["sub"] != "alice" {
		t.Error(err)
	}
	bare := tokenWith(t, nil)
	all = nil
	if err := bare.Introspection(&all); err == nil || all != nil {
		t.Errorf("application/jwt: %v, %v", all, err)
	}
}

// However a token is printed, logged or encoded, the text holds neither the JWT
// nor a member of the answer.
func TestTokenIsRedacted(t *testing.T) {
	as := newAS(t)
	jwt := as.secret(mint("ES256", claims(nil)))
	as.secret(strings.Split(jwt, ".")[2])
	tok := as.tokenOf(t, answerJSON(
		`{"active":true,"username":"`+as.secret("member-of-the-answer")+`","phantom_token":"`+jwt+`"}`))
	type holder struct {
		Tok  *phantom.Token
		Any  any
		List []*phantom.Token
		Map  map[string]*phantom.Token
	}
	type hider struct { // fmt calls no methods of what is in here
		tok *phantom.Token
		any any
	}
	in := holder{tok, tok, []*phantom.Token{tok}, map[string]*phantom.Token{"t": tok}}
	ctx := phantom.NewContext(t.Context(), tok)
	var out bytes.Buffer
	for _, tc := range []struct {
		name  string
		value any
		bare  bool // fmt shows the fields without asking these
	}{
		{"the token", tok, false},
		{"a copy", *tok, false},
		{"a struct", in, false},
		{"a pointer to it", &in, false},
		{"a slice", in.List, false},
		{"a map", in.Map, false},
		{"the context", ctx, true},
		{"an error", fmt.Errorf("failed for %v", tok), false},
		{"its value", slog.AnyValue(tok), true},
		{"its log value", tok.LogValue(), true},
	} {
		v := tc.value
		verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%10.3v", "%T"}
		if !tc.bare {
			verbs = append(verbs, "%d", "%t", "%08b", "%z")
		}
		for _, verb := range verbs {
			fmt.Fprintf(&out, "%s %s: "+verb+"\n", tc.name, verb[1:], v)
		}
		data, err := json.Marshal(v)
		fmt.Fprintln(&out, string(data), err)
		data, err = xml.Marshal(v)
		fmt.Fprintln(&out, string(data), err)
		for _, h := range []slog.Handler{
			slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil),
		} {
			slog.New(h).With("with", v).WithGroup("g").Info("x", "v", v, slog.Group("in", "v", v))
		}
		log.New(&out, "", 0).Println(v)
		func() {
			defer func() { fmt.Fprint(&out, recover()) }()
			panic(v)
		}()
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		fmt.Fprintf(&out, "unexported "+verb[1:]+": "+verb+" "+verb+"\n", hider{tok, tok}, &hider{tok, tok})
	}
	text := out.String()
	for _, secret := range as.leaks(text) {
		t.Errorf("%q is printed: %s", secret[:10], around(text, secret))
	}
	if strings.Contains(text, fmt.Sprintf("%x", jwt[:20])) || strings.Contains(text, "eyJ") {
		t.Errorf("the JWT is printed: %s", around(text, "eyJ"))
	}
	if got := fmt.Sprint(tok); got != "phantom.Token(redacted)" {
		t.Error(got)
	}
	for _, verb := range []string{"%#v", "%d", "%08b"} {
		if got := fmt.Sprintf(verb, tok); got != "phantom.Token(redacted)" {
			t.Error(got)
		}
	}
}

// The log shows a token as its issuer, its client and its expiry, and a nil one
// as none.
func TestTokenIsLoggedInShort(t *testing.T) {
	tok := tokenWith(t, nil)
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})).Info("x", "token", tok)
	want := "level=INFO msg=x token.issuer=https://as.test token.client_id=app token.expiry=" +
		tok.Expiry().Format("2006-01-02T15:04:05.000Z07:00") + "\n"
	if got := out.String(); got != want {
		t.Errorf("logged %q, want %q", got, want)
	}
	out.Reset()
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "token", (*phantom.Token)(nil))
	if !strings.Contains(out.String(), `"token":"none"`) {
		t.Errorf("a nil token is logged as %s", out.String())
	}
}

// around shows where a text was found, without the secret itself.
func around(text, secret string) string {
	i := strings.Index(text, secret)
	return text[max(0, i-80):max(0, i)]
}

// A program that panics with a token dies without printing the JWT. The test
// runs itself to see that.
func TestTokenInAPanicIsRedacted(t *testing.T) {
	const flag = "PHANTOM_TEST_PANIC"
	tok := tokenWith(t, nil)
	if os.Getenv(flag) != "" {
		panic(tok)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestTokenInAPanicIsRedacted$", "-test.count=1")
	cmd.Env = append(os.Environ(), flag+"=1", "GOTRACEBACK=all")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: phantom.Token(redacted)") {
		t.Errorf("%v: %s", err, out)
	}
	if strings.Contains(string(out), "eyJ") {
		t.Errorf("the JWT is printed: %s", around(string(out), "eyJ"))
	}
}
