package mint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantom-token/phantom"
	"github.com/phantom-token/phantom/mint"
)

// Hydra's answer for a user's token.
//
// Catalogue: A1.
func TestJWTHasTheProfileOfRFC9068(t *testing.T) {
	m := newMinter(t, nil)
	const hydra = `{"active":true,"scope":"read write","client_id":"app","sub":"alice","exp":4102444800,"iat":1700000000,` +
		`"nbf":1700000000,"aud":["https://rs.test"],"iss":"https://hydra.test","token_type":"Bearer","token_use":"access_token",` +
		`"jti":"handle","username":"al","ext":{"a":1}}`
	msg := minted(t, m, answer(hydra))
	if msg.Type != "at+jwt" || msg.Algorithm != "ES256" || msg.KeyID == "" {
		t.Errorf("typ %q, alg %q, kid %q", msg.Type, msg.Algorithm, msg.KeyID)
	}
	if got := names(msg); got != "aud client_id exp iat iss jti scope sub" {
		t.Errorf("claims %s", got)
	}
	for name, want := range map[string]string{
		"iss": issuer, "aud": audience, "sub": "alice", "client_id": "app", "scope": "read write",
	} {
		if got := text(msg, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if jti := text(msg, "jti"); len(jti) != 26 || jti == text(minted(t, m, answer(hydra)), "jti") {
		t.Errorf("jti %q", jti) // 26 letters of 5 bits
	}
	name, keys := m.Issuer()
	if name != issuer || keys != phantom.KeySet(m) {
		t.Errorf("issuer %q, %v", name, keys)
	}
}

// Catalogue: A2.
func TestJWTNeverOutlivesTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(700 * time.Millisecond) // in the midst of a second
		now := time.Now()
		in := func(d time.Duration) int64 { return now.Add(d).Unix() }
		for _, tc := range []struct {
			name    string
			opts    []mint.Option
			claims  string
			expiry  time.Time
			lasting time.Duration
		}{
			{name: "no exp", claims: good, lasting: 5 * time.Minute},
			{name: "null", claims: goodWith(`"exp":null`), lasting: 5 * time.Minute},
			{name: "sooner", claims: goodWith(fmt.Sprintf(`"exp":%d`, in(40*time.Second))), lasting: 40 * time.Second},
			{name: "a fraction", claims: goodWith(fmt.Sprintf(`"exp":%d.9`, in(40*time.Second))), lasting: 40 * time.Second},
			{name: "later", claims: goodWith(fmt.Sprintf(`"exp":%d`, in(2*time.Hour))), lasting: 5 * time.Minute},
			{name: "Expiry sooner", claims: good, expiry: now.Add(time.Minute), lasting: time.Minute},
			{name: "Expiry soonest", claims: goodWith(fmt.Sprintf(`"exp":%d`, in(time.Hour))), expiry: now.Add(time.Minute), lasting: time.Minute},
			{name: "exp soonest", claims: goodWith(fmt.Sprintf(`"exp":%d`, in(time.Minute))), expiry: now.Add(time.Hour), lasting: time.Minute},
			{name: "an hour", opts: []mint.Option{mint.WithLifetime(time.Hour)}, claims: good, lasting: time.Hour},
			{name: "a second", opts: []mint.Option{mint.WithLifetime(time.Second)}, claims: good, lasting: time.Second},
		} {
			a := answer(tc.claims)
			a.Expiry = tc.expiry
			msg := minted(t, newMinter(t, nil, tc.opts...), a)
			if got := date(t, msg, "exp"); got != in(tc.lasting) {
				t.Errorf("%s: exp in %d s, want %v", tc.name, got-now.Unix(), tc.lasting)
			}
			if got := date(t, msg, "iat"); got != now.Unix() {
				t.Errorf("%s: iat %d, want %d", tc.name, got, now.Unix())
			}
		}
	})
}

func TestExpiredAnswerMakesNoJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, now := newMinter(t, nil), time.Now()
		for _, tc := range []struct {
			claims string
			expiry time.Time
		}{
			{goodWith(fmt.Sprintf(`"exp":%d`, now.Unix())), time.Time{}},
			{goodWith(`"exp":0`), now.Add(time.Hour)},
			{good, now},
			{good, now.Add(-time.Hour)},
		} {
			a := answer(tc.claims)
			a.Expiry = tc.expiry
			if jwt, err := m.Mint(t.Context(), "", a); !errors.Is(err, phantom.ErrInvalidToken) || jwt != "" {
				t.Errorf("%s, %v: %q, %v", tc.claims, tc.expiry, jwt, err)
			}
		}
	})
}

// Catalogue: A5.
func TestPlainJWTNeedsNoClient(t *testing.T) {
	const noClient = `{"sub":"alice"}`
	_, err := newMinter(t, nil).Mint(t.Context(), "", answer(noClient))
	wantUpstream(t, err, "client_id; see mint.WithPlainJWT")

	plain := newMinter(t, nil, mint.WithPlainJWT())
	msg := minted(t, plain, answer(noClient))
	if got := names(msg); msg.Type != "JWT" || got != "aud exp iat iss jti sub" {
		t.Errorf("typ %q, claims %s", msg.Type, got)
	}
	if got := text(minted(t, plain, answer(good)), "client_id"); got != "app" {
		t.Errorf("client_id %q", got)
	}
}

func TestClientIsThatOfTheAnswer(t *testing.T) {
	m := newMinter(t, nil)
	for claims, want := range map[string]string{
		`{"sub":"s","azp":"web"}`:                     "web",
		`{"sub":"s","client_id":null,"azp":"web"}`:    "web",
		`{"sub":"s","client_id":"app","azp":"web"}`:   "app",
		`{"sub":"s","client_id":"","azp":"web"}`:      "web",
		`{"sub":"s","client_id":"a<b>&c\u2028\"é"}`:   "a<b>&c\u2028\"é",
		`{"sub":"s","client_id":"\u0061pp","azp":""}`: "app",
	} {
		if got := text(minted(t, m, answer(claims)), "client_id"); got != want {
			t.Errorf("%s: %q", claims, got)
		}
	}
}

// Catalogue: A6.
func TestScopeIsOneStringOfScopeTokens(t *testing.T) {
	m := newMinter(t, nil)
	for _, tc := range []struct{ members, want string }{
		{`"scope":["a","b c","d"]`, "a d"}, // A6
		{`"scope":["a","","ü","b\"","c\\","\u0000","~!"]`, "a ~!"},
		{`"scope":"a b"`, "a b"},
		{`"scope":"  a   b\tc é d "`, "a d"},
		{`"scope":"a","scp":"b"`, "a"},
		{`"scp":["a","b"]`, "a b"},
		{`"scope":null,"scp":"a"`, "a"},
		{`"x":1`, ""},
		{`"scope":null`, ""},
		{`"scope":""`, ""},
		{`"scope":[]`, ""},
		{`"scope":["b c"]`, ""},
		{`"scope":["a",1]`, ""},
		{`"scope":{"a":1}`, ""},
		{`"scope":7`, ""},
	} {
		msg := minted(t, m, answer(goodWith(tc.members)))
		if got := text(msg, "scope"); got != tc.want || msg.Claims.Get("scope").Exists() != (tc.want != "") {
			t.Errorf("%s: scope %q, want %q", tc.members, got, tc.want)
		}
		if msg.Claims.Get("scp").Exists() {
			t.Errorf("%s: scp", tc.members)
		}
	}
}

func TestAudienceIsAStringOrAnArray(t *testing.T) {
	for _, tc := range []struct {
		audience []string
		want     string
	}{
		{[]string{"https://a.test/?x=1&y=<2>"}, `"https://a.test/?x=1&y=<2>"`},
		{[]string{"https://a.test", "https://b.test"}, `["https://a.test","https://b.test"]`},
	} {
		m := newMinter(t, nil, mint.WithAudience(tc.audience...))
		tc.audience[0] = "changed"
		if got := string(minted(t, m, answer(goodWith(`"aud":"other"`))).Claims.Get("aud").Raw()); got != tc.want {
			t.Errorf("aud %s, want %s", got, tc.want)
		}
	}
}

// Numbers above 2^53, spaces and the characters of HTML stay as they came.
//
// Catalogue: A8.
func TestMembersAreCopiedByteByByte(t *testing.T) {
	m := newMinter(t, nil, mint.WithMembers("ext", "tenant"), mint.WithMembers("n"))
	members := map[string]string{
		"ext":                   `{ "a" : [[1, [1152921504606846976, -0.10e+2]], {"b":null}], "h":"<a href=\"x\">&\u003c\u2028` + "\u2028" + `"}`,
		"tenant":                `"é\ud83d\ude00"`,
		"n":                     `1152921504606846976`,
		"acr":                   `"urn:x"`,
		"amr":                   `["pwd","otp"]`,
		"auth_time":             `1700000000.5`,
		"act":                   `{"sub":"svc","act":{"sub":"x"}}`,
		"authorization_details": `[{"type":"a","amount":1.00}]`,
		"groups":                `["a","b"]`,
		"roles":                 `{"admin":true}`,
		"entitlements":          `[]`,
	}
	claims := good
	for name, value := range members {
		claims = strings.TrimSuffix(claims, "}") + "," + string(must(json.Marshal(name))) + ":" + value + "}"
	}
	a := answer(claims)
	msg := minted(t, m, a)
	for name, want := range members {
		if got := string(msg.Claims.Get(name).Raw()); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if string(a.Claims) != claims {
		t.Error("the answer was changed")
	}
}

func TestOtherMembersAreNotCopied(t *testing.T) {
	m := newMinter(t, nil, mint.WithMembers("ext"))
	msg := minted(t, m, answer(goodWith(
		`"cnf":{"jkt":"x"},"token_type":"Bearer","username":"al","nonce":"n","nbf":1,"jti":"handle","iss":"https://as.test",`+
			`"aud":"other","phantom_token":"a.b.c","jwt":"a.b.c","token_string":"t","email":"a@b",`+
			`"ext":null,"acr":null,"act":null,"auth_time":null,"groups":null`)))
	if got := names(msg); got != "aud client_id exp iat iss jti sub" {
		t.Errorf("claims %s", got)
	}
}

// wantUpstream wants the error for an answer that makes no JWT.
func wantUpstream(t *testing.T, err error, detail string) {
	t.Helper()
	var e *phantom.Error
	if !errors.Is(err, phantom.ErrUpstream) || !errors.As(err, &e) || e.StatusCode() != 502 || e.Detail != detail {
		t.Errorf("got %v, want a 502 for %q", err, detail)
	}
}

// Catalogue: A9.
func TestMalformedMemberMakesNoJWT(t *testing.T) {
	m := newMinter(t, nil)
	for _, tc := range []struct{ claims, detail string }{
		{goodWith(`"act":"svc"`), "act"},
		{goodWith(`"act":[]`), "act"},
		{goodWith(`"act":false`), "act"},
		{goodWith(`"auth_time":"1700000000"`), "auth_time"},
		{goodWith(`"auth_time":-1`), "auth_time"},
		{goodWith(`"auth_time":1700000000000`), "auth_time"},
		{goodWith(`"exp":"4102444800"`), "exp"},
		{goodWith(`"exp":1e99`), "exp"},
		{`{"client_id":"app"}`, "sub"},
		{`{"client_id":"app","sub":""}`, "sub"},
		{`{"client_id":"app","sub":null}`, "sub"},
		{`{"client_id":"app","sub":7}`, "sub"},
		{`{"sub":"alice","client_id":7}`, "client_id"},
		{`{"sub":"alice","client_id":["app"]}`, "client_id"},
		{`{"sub":"alice","client_id":""}`, "client_id; see mint.WithPlainJWT"},
		{`{"active":false,"sub":"alice","client_id":"app"}`, "active"},
		{`{"active":"true","sub":"alice","client_id":"app"}`, "active"},
		{`{"sub":"alice","sub":"bob","client_id":"app"}`, "introspection claims: not strict JSON"},
		{goodWith(`"Sub":"bob"`), "introspection claims: not strict JSON"},
		{goodWith(`"groups":{"a":1,"A":2}`), "introspection claims: not strict JSON"},
		{`[]`, "introspection claims: not strict JSON"},
		{``, "introspection claims: not strict JSON"},
		{good + "x", "introspection claims: not strict JSON"},
		{goodWith("\"x\":\"\xff\""), "introspection claims: not strict JSON"},
		{goodWith(`"groups":"` + strings.Repeat("g", 16<<10) + `"`), "minted JWT longer than 16 KiB"},
	} {
		jwt, err := m.Mint(t.Context(), "", answer(tc.claims))
		if jwt != "" {
			t.Errorf("%.60s: a JWT", tc.claims)
		}
		wantUpstream(t, err, tc.detail)
	}
}

func TestJWTMayHave16KiB(t *testing.T) {
	m := newMinter(t, nil)
	longest := 0
	for size := 11 << 10; size < 12<<10; size++ {
		jwt, err := m.Mint(t.Context(), "", answer(goodWith(`"groups":"`+strings.Repeat("g", size)+`"`)))
		if err != nil {
			wantUpstream(t, err, "minted JWT longer than 16 KiB")
			break
		}
		longest = len(jwt)
	}
	if longest > 16<<10 || longest < 16<<10-2 {
		t.Errorf("the longest JWT has %d bytes", longest)
	}
}

func TestOnlyAnActiveAnswerMakesAJWT(t *testing.T) {
	m := newMinter(t, nil)
	if jwt, err := m.Mint(t.Context(), "", &phantom.Introspection{Claims: []byte(good)}); !errors.Is(err, phantom.ErrInvalidToken) || jwt != "" {
		t.Errorf("%q, %v", jwt, err)
	}
	jwt, err := m.Mint(t.Context(), "", nil)
	if jwt != "" {
		t.Error("a JWT for nothing")
	}
	wantUpstream(t, err, "no answer to mint from")
}

func TestEndedContextSignsNothing(t *testing.T) {
	d := &device{Signer: p256()}
	m := newMinter(t, []mint.Key{{Signer: d}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if jwt, err := m.Mint(ctx, "", answer(good)); !errors.Is(err, context.Canceled) || jwt != "" || d.signatures.Load() != 0 {
		t.Errorf("%q, %v, %d signatures", jwt, err, d.signatures.Load())
	}
}
