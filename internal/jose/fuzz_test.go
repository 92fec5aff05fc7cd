package jose_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/phantom-token/phantom/internal/jose"
)

// FuzzParse: what the gate lets through has exactly one spelling, and
// encoding/json agrees about what it contains.
func FuzzParse(f *testing.F) {
	for _, header := range []string{
		goodHeader, `{"alg":"none"}`, `{"alg":"RS256","kid":"k","x":{"y":[1,2,{}]}}`, `{"alg":"EdDSA","crit":["b64"],"b64":false}`,
		`{"\u0061lg":"PS512","typ":""}`, `{"alg":"ES384","kid":"\ud83d\ude00"}`, `{"alg":"ES256","alg":"none"}`, "{}", "[]",
		`{"alg":"Ed25519","kid":""}`,
	} {
		f.Add(compact(header, goodPayload, anySignature))
		f.Add(compact(header, `{"a":[1e9,"\n"]}`, []byte{0}))
		f.Add(compact(header, header, nil))
	}
	for _, jwt := range []string{
		"", ".", "..", "...", "e30.e30.AA", "e30.e30.AB",
		"e30=.e30.AA", "e30\n.e30.AA", "eyJ9.e30.AA",
	} {
		f.Add(jwt)
	}
	f.Fuzz(func(t *testing.T, jwt string) {
		m, err := jose.Parse(jwt)
		if got := class(t, err); got != "ok" {
			if m != nil {
				t.Fatalf("a message beside %v", err)
			}
			return
		}
		segments := strings.Split(jwt, ".")
		if len(segments) != 3 || len(jwt) > jose.MaxTokenSize {
			t.Fatalf("%d segments, %d bytes", len(segments), len(jwt))
		}
		for i, segment := range segments {
			if data, err := decode64(segment); err != nil || b64(data) != segment || len(data) == 0 {
				t.Fatalf("segment %d has another spelling", i)
			}
		}
		header := must(decode64(segments[0]))
		if len(header) > jose.MaxHeaderSize || !bytes.Equal(m.Payload, must(decode64(segments[1]))) {
			t.Fatal("header too long, or another payload")
		}
		var h, p map[string]json.RawMessage
		if json.Unmarshal(header, &h) != nil || json.Unmarshal(m.Payload, &p) != nil || h == nil || p == nil {
			t.Fatal("encoding/json does not read it")
		}
		if len(h) != m.Header.Len() || len(p) != m.Claims.Len() {
			t.Fatal("encoding/json counts other members")
		}
		var alg, kid, typ string
		for name, to := range map[string]*string{"alg": &alg, "kid": &kid, "typ": &typ} {
			if raw, ok := h[name]; ok && json.Unmarshal(raw, to) != nil {
				t.Fatalf("%s is %s", name, raw)
			}
		}
		alg = jose.Canonical(alg)
		if alg != m.Algorithm || kid != m.KeyID || typ != m.Type || !slices.Contains(algorithms, alg) || len(kid) > 256 {
			t.Fatalf("header says %q %q %q, the message %q %q %q", alg, kid, typ, m.Algorithm, m.KeyID, m.Type)
		}
		for _, name := range []string{"crit", "b64", "zip", "enc"} {
			if _, ok := h[name]; ok {
				t.Fatalf("%s passed", name)
			}
		}
		if err := newKey(t, edKey().Public()).Verify(m); err == nil {
			t.Fatal("a forged signature")
		}
	})
}

// escape matches one escape sequence of a JSON text.
var escape = regexp.MustCompile(`\\(?:u([0-9a-fA-F]{4})|.)`)

// loneSurrogate looks for half a surrogate pair in a text that is valid JSON.
func loneSurrogate(data []byte) bool {
	high := -1 // where the low half must begin
	for _, at := range escape.FindAllSubmatchIndex(data, -1) {
		unit := uint64(0)
		if at[2] >= 0 {
			unit, _ = strconv.ParseUint(string(data[at[2]:at[3]]), 16, 16)
		}
		isLow := 0xdc00 <= unit && unit <= 0xdfff
		if (high >= 0) != isLow || isLow && at[0] != high {
			return true
		}
		high = -1
		if 0xd800 <= unit && unit <= 0xdbff {
			high = at[1]
		}
	}
	return high >= 0
}

// strictEnough asks encoding/json the same question that ParseObject answers,
// slowly.
func strictEnough(data []byte) bool {
	if !utf8.Valid(data) || !json.Valid(data) || loneSurrogate(data) {
		return false
	}
	type level struct {
		names  map[string]bool // nil in an array
		isName bool
	}
	var stack []level
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for first := true; ; first = false {
		token, err := decoder.Token()
		if err == io.EOF {
			return true
		}
		if err != nil || first && token != json.Delim('{') {
			return false
		}
		top := len(stack) - 1
		if top >= 0 && stack[top].isName {
			if name, ok := token.(string); ok {
				if stack[top].names[name] {
					return false
				}
				stack[top].names[name], stack[top].isName = true, false
				continue
			}
		}
		if top >= 0 && stack[top].names != nil && token != json.Delim('}') {
			stack[top].isName = true // after this value
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
		}
		if len(stack) > 64 {
			return false
		}
	}
}

// FuzzObject: ParseObject accepts exactly what is valid for encoding/json and
// passes our conditions, and both read the same members out of it.
func FuzzObject(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":null},true,false]},"d":-1.5e+10}`, `{"\u0061":"\ud83d\ude00","a":1}`,
		`{"a":"\ud800"}`, `{"a":"\udc00\ud800"}`, `{"a":"\\ud800"}`, `{"a":"\\\ud800\udc00"}`, "{\"a\":\"\xff\"}", " {\"a\" : [ ] } ", `{"a":01}`, `{"a":1}x`,
		`{"a":"\/\b\f\n\r\t\"\\"}`, `[{}]`, `null`, "\ufeff{}", nested(`{"a":`, `1`, `}`, 64), nested(`{"a":`, `1`, `}`, 65), `{"a":[[],[[]],{}],"":""}`,
		`{"a":1,"A":2}`, `{"x":[{"k":1,"K":2}]}`, `{"x":{"` + "\u212a" + `":1,"k":2}}`, `{"ſ":1,"S":2,"σ":3,"ς":4}`, `{"ß":1,"ẞ":2,"ss":3}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		o, err := jose.ParseObject(data)
		if !bytes.Equal(before, data) {
			t.Fatal("the input was changed")
		}
		if want := strictEnough(data); (err == nil) != want {
			t.Fatalf("got %v, want accepted = %v", err, want)
		}
		if err != nil {
			if !errors.Is(err, jose.ErrMalformed) || o.Len() != 0 {
				t.Fatalf("%v with %d members", err, o.Len())
			}
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(data, &want); err != nil || len(want) != o.Len() {
			t.Fatalf("%d members, want %d (%v)", o.Len(), len(want), err)
		}
		for name, raw := range want {
			compare(t, o.Get(name), raw)
		}
		whole := string(must(o.Minus(jose.Object{}).Plus(jose.Object{})))
		for _, other := range []jose.Object{o, {}, parseObject(t, `{"":0,"a":{"b":[]},"b":2,"\ud83d\ude00":"x"}`)} {
			if got, err := o.Minus(other).Plus(other); err != nil || string(got) != whole {
				t.Fatalf("%s, %v, want %s", got, err, whole)
			}
		}
		if o.Ambiguous() != foldsTogether(must(anyJSON(data))) {
			t.Fatalf("ambiguous: %v", o.Ambiguous())
		}
	})
}

func anyJSON(data []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // a float64 does not hold each of them
	return v, dec.Decode(&v)
}

// foldsTogether compares each name of each object in v with each other.
func foldsTogether(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, foldsTogether)
	case map[string]any:
		for a, inner := range v {
			for b := range v {
				if a != b && strings.EqualFold(a, b) {
					return true
				}
			}
			if foldsTogether(inner) {
				return true
			}
		}
	}
	return false
}

// compare holds a Value against what encoding/json makes of the same text.
func compare(t *testing.T, v jose.Value, raw json.RawMessage) {
	t.Helper()
	if !v.Exists() || !bytes.Equal(v.Raw(), raw) {
		t.Fatalf("got %s, want %s", v.Raw(), raw)
	}
	text, isText := v.Text()
	texts, isTexts := v.Texts()
	b, isBool := v.Bool()
	object, isObject := v.Object()
	var decoded any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // a float64 cannot hold every number
	if err := dec.Decode(&decoded); err != nil {
		t.Fatal(err)
	}
	switch want := decoded.(type) {
	case nil:
		if !v.IsNull() {
			t.Fatal("null")
		}
	case bool:
		if !isBool || b != want {
			t.Fatalf("bool %v", want)
		}
	case string:
		if !isText || text != want {
			t.Fatalf("got %q, want %q", text, want)
		}
	case []any:
		all := true
		for i, element := range want {
			s, ok := element.(string)
			all = all && ok && (!isTexts || texts[i] == s)
		}
		if isTexts != all || isTexts && len(texts) != len(want) {
			t.Fatalf("got %q, want %q", texts, want)
		}
	case map[string]any:
		if !isObject || object.Len() != len(want) {
			t.Fatalf("an object of %d, want %d", object.Len(), len(want))
		}
	}
}

// FuzzKeySet: whatever comes out of a key set passes the filter again, from
// scratch.
func FuzzKeySet(f *testing.F) {
	RSA, EC, ED := jwkOf(&rsaKey().PublicKey), jwkOf(&p256().PublicKey), jwkOf(edKey().Public())
	for _, jwk := range []any{
		RSA, EC, ED, jwkOf(&p384().PublicKey), jwkOf(&p521().PublicKey), with(RSA, "alg", "RS256", "kid", "k"), with(RSA, "e", "Aw"), with(EC, "d", "AA"),
		with(ED, "use", "enc", "kid", "k"), with(ED, "alg", "Ed25519"), with(RSA, "use", "", "alg", ""), with(EC, "y", EC["x"]), `{"kty":"oct","k":"AA"}`, `{"kty":"AKP"}`, `1`, with(EC, "key_ops", []string{"verify"}),
	} {
		f.Add(setOf(jwk))
	}
	f.Add(setOf(RSA, EC, ED))
	f.Add([]byte(`{"keys":[],"keys":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, unusable, dropped, err := jose.ParseKeySet(data)
		if err != nil {
			if !errors.Is(err, jose.ErrMalformed) || keys != nil || dropped != nil {
				t.Fatalf("%d keys, %d dropped, %v", len(keys), len(dropped), err)
			}
			return
		}
		if len(keys)+len(dropped) > jose.MaxKeys || len(keys)+len(unusable) > jose.MaxKeys {
			t.Fatalf("%d keys, %d unusable, %d dropped", len(keys), len(unusable), len(dropped))
		}
		for _, key := range unusable {
			if key.Usable() || slices.ContainsFunc(algorithms, key.Allows) || key.ID() == "" || len(key.ID()) > 256 {
				t.Fatalf("%q may be used", key.ID())
			}
		}
		for _, key := range keys {
			switch pub := key.Public().(type) {
			case *rsa.PublicKey:
				if bits := pub.N.BitLen(); bits < 2048 || bits > 8192 || pub.N.Bit(0) == 0 ||
					pub.E < 3 || pub.E%2 == 0 || jose.HasROCA(pub.N) {
					t.Fatalf("RSA of %d bits, e %d", bits, pub.E)
				}
			case *ecdsa.PublicKey:
				if _, err := pub.Bytes(); err != nil {
					t.Fatal(err)
				}
			case ed25519.PublicKey:
				if jose.CheckEd25519(pub) != nil {
					t.Fatalf("%x", pub)
				}
			default:
				t.Fatalf("key type %T", pub)
			}
			if !slices.ContainsFunc(algorithms, key.Allows) || key.Allows("none") || key.Allows("HS256") || len(key.ID()) > 256 {
				t.Fatal("a key with no algorithm, or a wrong one")
			}
			again, err := jose.NewKey(key.Public())
			if err != nil || again.Identity() == [32]byte{} {
				t.Fatalf("the filter refuses its own key: %v", err)
			}
		}
		for _, err := range dropped {
			if len(err.Error()) > 120 {
				t.Fatalf("a long error: %v", err)
			}
		}
	})
}

// FuzzNumericDate: the number that comes out is the exact floor.
func FuzzNumericDate(f *testing.F) {
	for _, text := range []string{
		"0", "-0", "1", "-1", "1999999999", "1999999999.9999999999999999999", "2e9", "2E+9", "0.2e10", "253402300799", "253402300799.9", "253402300800",
		"1e-1", "19999999995e-1", "1e400", "-1e-400", "9223372036854775808", "0.00000000000000000000000001e30", "0e99", "-0.5", "1e11", "1e12",
	} {
		f.Add(text)
	}
	last := new(big.Int).SetInt64(253402300799)
	f.Fuzz(func(t *testing.T, text string) {
		o, err := jose.ParseObject([]byte(`{"v":` + text + `}`))
		if err != nil {
			return
		}
		v := o.Get("v")
		got, ok := v.NumericDate()
		if got < 0 || got > last.Int64() && ok {
			t.Fatalf("%s: %d", text, got)
		}
		number := string(v.Raw())
		if c := number[0]; c != '-' && (c < '0' || c > '9') {
			if ok {
				t.Fatalf("%s is a date", number)
			}
			return
		}
		if _, exponent, found := strings.Cut(strings.ToLower(number), "e"); found {
			if n, err := strconv.Atoi(exponent); err != nil || n > 400 || n < -400 {
				return // too expensive for the arithmetic of this test
			}
		}
		exact, valid := new(big.Rat).SetString(number)
		if !valid {
			t.Fatalf("big.Rat does not read %s", number)
		}
		floor := new(big.Int).Div(exact.Num(), exact.Denom()) // rounds down: the divisor is positive
		inRange := floor.Sign() >= 0 && floor.Cmp(last) <= 0
		if ok != inRange || ok && floor.Int64() != got {
			t.Fatalf("%s: got %d %v, want %v %v", number, got, ok, floor, inRange)
		}
	})
}
