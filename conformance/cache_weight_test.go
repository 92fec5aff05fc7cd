package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"

	"github.com/phantom-token/phantom"
)

// weighing makes a JWT of exactly size bytes with the given claims, and the
// payload that is in it. Its signature is of a length that no algorithm has.
func weighing(t *testing.T, size int, changes map[string]any) (jwt string, payload []byte) {
	t.Helper()
	all := claims(changes)
	for range 4 { // one length in four is no base64url
		payload = must(json.Marshal(all))
		jwt = b64([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + b64(payload) + "."
		if rest := size - len(jwt); rest > 1 && rest%4 != 1 {
			jwt += b64(make([]byte, rest*3/4))
			break
		}
		all["pad"] = fmt.Sprint(all["pad"], "x")
	}
	if len(jwt) != size {
		t.Fatalf("a JWT of %d bytes, want %d", len(jwt), size)
	}
	return jwt, payload
}

// answering returns the claims of a payload as a server repeats them beside the
// JWT, with more members.
func answering(payload []byte, more map[string]any) []byte {
	var members map[string]any
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	if err := dec.Decode(&members); err != nil {
		panic(err)
	}
	maps.Copy(members, more)
	return must(json.Marshal(members))
}

// A remembered token takes its JWT and 1,200 bytes at most, however long its
// subject is and however much of the JWT the answer repeats. Go's allocator has
// blocks of 32 KiB, and larger ones in steps of 8 KiB.
//
// Catalogue: V11.
func TestEntryWeighsTheJWTAnd1200Bytes(t *testing.T) {
	const capacity, limit = 200, 1200
	long := strings.Repeat("long", 2000)
	roles := make([]string, 300)
	for i := range roles {
		roles[i] = fmt.Sprint("role-", i)
	}
	more := map[string]any{"active": true, "token_type": "Bearer", "username": "alice@example.com"}
	for _, tc := range []struct {
		name    string
		size    int
		changes map[string]any
		more    map[string]any // nil: a bare JWT
	}{
		{"1 KiB", 1 << 10, nil, nil},
		{"1 KiB in JSON", 1 << 10, nil, more},
		{"32 KiB", 32 << 10, nil, nil},
		{"8 bytes less", 32<<10 - 8, nil, nil},
		{"32 KiB in JSON", 32 << 10, nil, more},
		{"a long subject", 32 << 10, map[string]any{"sub": long}, nil},
		{"a long subject in a JWT that fits its block", 18_000, map[string]any{"sub": long}, nil},
		{"a long subject in JSON", 32 << 10, map[string]any{"sub": long}, more},
		{"a long ID", 32 << 10, map[string]any{"jti": long}, more},
		{"many roles", 32 << 10, map[string]any{"realm_access": map[string]any{"roles": roles}}, more},
		{"a subject of 200 bytes at the edge", 32<<10 - 100, map[string]any{"sub": long[:200]}, more},
	} {
		t.Run(tc.name, func(t *testing.T) {
			jwt, payload := weighing(t, tc.size, tc.changes)
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
				answer := &phantom.Introspection{Active: true, JWT: strings.Clone(jwt), MaxAge: -1}
				if tc.more != nil {
					answer.Claims = answering(payload, tc.more)
				}
				return answer, nil
			}}
			m := o.middleware(t, phantom.WithCacheSize(capacity))
			before := heap()
			for i := range 2 * capacity {
				if _, err := m.Verify(t.Context(), fmt.Sprintf("token-%08d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if over := (heap()-before)/capacity - int64(tc.size); over > limit {
				t.Errorf("%d bytes beyond the JWT", over)
			} else {
				t.Logf("%d bytes beyond the JWT", over)
			}
			runtime.KeepAlive(m)
		})
	}
}

// What is kept once says as much as what the server said twice.
//
// Catalogue: V11.
func TestTokenOfAnyWeightSaysAllItWasGiven(t *testing.T) {
	long := "é\u2028\"\\" + strings.Repeat("long", 2000)
	many := map[string]any{}
	for i := range 100 { // more claims than are kept once
		many[fmt.Sprintf("c%02d", i)] = []any{i, fmt.Sprint(i)}
	}
	for _, tc := range []struct {
		name    string
		changes map[string]any
		answer  func(payload []byte) []byte
	}{
		{"nothing of the JWT", nil, func([]byte) []byte { return []byte(`{"active":true,"username":"a"}`) }},
		{"nothing at all", nil, func([]byte) []byte { return []byte(`{}`) }},
		{"all of the JWT", nil, func(payload []byte) []byte { return payload }},
		{"a long subject and ID", map[string]any{"sub": long, "jti": long}, func(payload []byte) []byte { return answering(payload, nil) }},
		{"other values", map[string]any{"a": 1, "b": "x", "c": nil, "d": []int{1}}, func(payload []byte) []byte {
			return answering(payload, map[string]any{"a": 1.0, "b": "X", "c": null, "d": []int{1, 2}, "exp": null, "aa": 1, "z": 2})
		}},
		{"large numbers", map[string]any{"uid": json.RawMessage("9007199254740993")}, func(payload []byte) []byte { return answering(payload, nil) }},
		{"numbers that are equal only in worth", map[string]any{"n": json.RawMessage("1.0")}, func(payload []byte) []byte {
			return answering(payload, map[string]any{"n": json.RawMessage("1")})
		}},
		{"white space and escapes", map[string]any{"o": json.RawMessage(`{ "a" : [ 1 , "\u0061" ] }`)}, func(payload []byte) []byte {
			return answering(payload, map[string]any{"o": json.RawMessage(`{"a":[1,"a"]}`)})
		}},
		{"odd names", map[string]any{`quo"te`: 1, "<&>": 2, "\u2028": 3, "": 4}, func(payload []byte) []byte {
			return answering(payload, map[string]any{"zz": 1, `quo"t`: 5})
		}},
		{"many", many, func(payload []byte) []byte { return answering(payload, map[string]any{"c50": "other", "c99": 1}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answer := unsigned(tc.changes)
			payload := must(decodePayload(answer.JWT))
			answer.Claims = tc.answer(payload)
			o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) { return answer, nil }}
			tok, err := o.middleware(t).Verify(t.Context(), "opaque")
			if err != nil {
				t.Fatal(err)
			}
			var said, want, whole map[string]any
			var raw json.RawMessage
			if err := tok.Introspection(&raw); err != nil {
				t.Fatal(err)
			}
			_ = tok.Introspection(&said)
			decodeNumbers(answer.Claims, &want)
			decodeNumbers(raw, &whole)
			if fmt.Sprint(said) != fmt.Sprint(want) || fmt.Sprint(whole) != fmt.Sprint(want) {
				t.Errorf("said %v, want %v", said, want)
			}
			var c struct{ Sub, Jti string }
			if err := tok.Decode(&c); err != nil || tok.Subject() != c.Sub || tok.ID() != c.Jti || c.Sub == "" || c.Jti == "" {
				t.Errorf("%q, %q, %v", tok.Subject(), tok.ID(), err)
			}
		})
	}
}

// decodePayload returns the payload of a JWT.
func decodePayload(jwt string) ([]byte, error) {
	return (&oracle{}).VerifySignature(context.Background(), jwt)
}

// decodeNumbers decodes JSON and keeps each digit of a number.
func decodeNumbers(data []byte, v any) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		panic(err)
	}
}

// A JWT of each length around 32 KiB reaches next whole, as the token says it.
//
// Catalogue: V11.
func TestJWTOfAnyWeightReachesNext(t *testing.T) {
	for size := 32<<10 - 12; size <= 32<<10; size++ {
		jwt, _ := weighing(t, size, nil)
		o := &oracle{ask: func(context.Context, string) (*phantom.Introspection, error) {
			return &phantom.Introspection{Active: true, JWT: jwt, MaxAge: -1}, nil
		}}
		m, as, next := o.middleware(t), newAS(t), &spy{}
		for range 2 {
			before := next.calls()
			rec := serve(m.Handler(m.Handler(next)), get("Bearer opaque"))
			if got := as.outcome(rec, next, before); got != codeOK {
				t.Fatalf("%d bytes: %s", size, got)
			}
		}
		tok := next.tokens[0]
		if tok.JWT() != jwt || next.last().Header.Get("Authorization") != "Bearer "+jwt || tok.Subject() != "alice" || tok.ID() != "id-1" {
			t.Errorf("%d bytes: a JWT of %d, %q, %q", size, len(tok.JWT()), tok.Subject(), tok.ID())
		}
	}
}
