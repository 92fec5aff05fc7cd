package jose_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/phantom-token/phantom/internal/jose"
)

func parseObject(t testing.TB, text string) jose.Object {
	t.Helper()
	o, err := jose.ParseObject([]byte(text))
	if err != nil {
		t.Fatalf("%.100s: %v", text, err)
	}
	return o
}

// member returns the value that text denotes as a member of an object.
func member(t testing.TB, text string) jose.Value {
	t.Helper()
	return parseObject(t, `{"v":`+text+`}`).Get("v")
}

func nested(open, inside, end string, levels int) string {
	return strings.Repeat(open, levels) + inside + strings.Repeat(end, levels)
}

func TestParseObjectAccepts(t *testing.T) {
	for _, text := range []string{
		`{}`, ` {} `, "\t\r\n{\t\r\n}\t\r\n",
		`{"a":1}`, ` { "a" : 1 , "b" : 2 } `, `{"":0}`, `{"a":{}, "b":[], "c":""}`,
		`{"a":[1,2,[3,[4]],{"b":[]}]}`, `{"a":[ ]}`, `{"a":{ }}`, `{"a":[ 1 , 2 ]}`,
		`{"a":true,"b":false,"c":null}`,
		`{"n":[0,-0,1,-1,10,0.5,-0.5,1e5,1E5,1e+5,1e-5,1.25E-3,0e0,123456789012345678901234567890]}`,
		`{"s":"\"\\\/\b\f\n\r\t"}`, `{"s":"\u0000\u001f\u00e9\u20AC\uFFFF"}`, `{"s":"\ud83d\ude00\uD83D\uDE00"}`,
		`{"s":"é€😀` + "\x7f\u0080\u2028" + `"}`, "{\"s\":\"\ufeff\"}", "{\"s\":\"\ufffd\"}",
		`{"a":1,"A":2,"` + "\u00e1" + `":3,"` + "a\u0301" + `":4}`, // case and normal form make a difference
		`{"k":1,"` + "\u212a" + `":2}`,
		`{"a":{"a":{"a":1}},"b":{"a":1}}`, // the same name in different objects
		`{"a":[{"x":1},{"x":2}]}`,
		nested(`{"a":`, `1`, `}`, 64), `{"a":` + nested(`[`, ``, `]`, 63) + `}`,
		`{"` + strings.Repeat("n", 10000) + `":1}`,
	} {
		parseObject(t, text)
		if !json.Valid([]byte(text)) {
			t.Errorf("encoding/json disagrees about %s", text)
		}
	}
}

func TestParseObjectRefuses(t *testing.T) {
	tests := map[string][]string{
		"not an object": {``, ` `, `null`, `true`, `1`, `"{}"`, `[]`, `[{}]`, `nul`, `x`, `}`, `]`, `,`, `:`, "\x00", `["a":1}`, `x"a":1}`, `[}`, `"}`},
		"trailing": {`{}{}`, `{} {}`, `{}x`, `{},`, `{}]`, `{}}`, "{}\x00", "{}\v", "{}\f", "{}\u00a0", "{}\ufeff", `{}//`, `{}/**/`,
			`{"sub":"a"}{"sub":"b"}`},
		"leading":         {"\ufeff{}", "\v{}", "\u00a0{}", "\u2028{}", `//` + "\n{}", `,{}`},
		"unclosed":        {`{`, `{ `, `{"`, `{"a`, `{"a"`, `{"a" `, `{"a":`, `{"a":1`, `{"a":1 `, `{"a":1,`, `{"a":[`, `{"a":[1`, `{"a":[1,`, `{"a":{`, `{"a":"`},
		"commas":          {`{,}`, `{"a":1,}`, `{,"a":1}`, `{"a":1,,"b":2}`, `{"a":1 "b":2}`, `{"a":[,]}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[1,,2]}`},
		"colons":          {`{"a"}`, `{"a",}`, `{"a" 1}`, `{"a"::1}`, `{"a":}`, `{"a":,}`, `{:1}`, `{"a"=1}`, `{"a":1:2}`},
		"brackets":        {`{"a":[}`, `{"a":{]}`, `{"a":[1}`, `{"a":1]`, `{"a":[}]`, `{"a":{]}}`},
		"names":           {`{a:1}`, `{'a':1}`, `{1:1}`, `{null:1}`, `{["a"]:1}`, `{{}:1}`, `{"a\x":1}`, `{"\ud800":1}`},
		"literals":        {`{"a":True}`, `{"a":TRUE}`, `{"a":tru}`, `{"a":truex}`, `{"a":nulll}`, `{"a":NaN}`, `{"a":Infinity}`, `{"a":-Infinity}`, `{"a":undefined}`, `{"a":n}`},
		"numbers":         {`{"a":01}`, `{"a":-01}`, `{"a":00}`, `{"a":+1}`, `{"a":.5}`, `{"a":-.5}`, `{"a":1.}`, `{"a":-}`, `{"a":--1}`, `{"a":1e}`, `{"a":1e+}`, `{"a":1e-}`, `{"a":1.e5}`, `{"a":1e5.5}`, `{"a":0x10}`, `{"a":1_000}`, `{"a":1,000}`, `{"a":1e+-5}`, `{"a":1 2}`, `{"a":١}`},
		"strings":         {`{"a":'b'}`, "{\"a\":\"\n\"}", "{\"a\":\"\t\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\x1f\"}", `{"a":"\`, `{"a":"\"`, `{"a":"\"}`, `{"a":"\a"}`, `{"a":"\'"}`, `{"a":"\0"}`, `{"a":"\x41"}`, `{"a":"\U0041"}`, `{"a":"\u"}`, `{"a":"\u004"}`, `{"a":"\u004g"}`, `{"a":"\u 041"}`, `{"a":"\u+041"}`, `{"a":"\u00é"}`},
		"surrogates":      {`{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\udbff"}`, `{"a":"\udfff"}`, `{"a":"\ud800x"}`, `{"a":"\ud800\n"}`, `{"a":"\ud800\u0041"}`, `{"a":"\ud800\ud800"}`, `{"a":"\udc00\ud800"}`, `{"a":"\ud800\\udc00"}`, `{"a":"\ud800 \udc00"}`, `{"a":"\ud83d\ude0"}`, `{"a":"\ud83d\ude00\ud83d"}`},
		"UTF-8":           {"{\"a\":\"\xff\"}", "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xe2\x82\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xf4\x90\x80\x80\"}", "{\"a\":\"\x80\"}", "{\"\xff\":1}", "{\"a\":1\xff}", "\xff\xfe{}", "{\xc3}"},
		"UTF-16":          {utf16le(`{"a":1}`), "\xff\xfe" + utf16le(`{}`), "\x00{\x00}"},
		"duplicates":      {`{"a":1,"a":1}`, `{"a":1,"b":2,"a":3}`, `{"a":1,"\u0061":2}`, `{"\u0061":1,"a":2}`, `{"":1,"":2}`, `{"a/":1,"a\/":2}`, `{"é":1,"\u00e9":2}`, `{"😀":1,"\ud83d\ude00":2}`, `{"x":{"a":1,"a":2}}`, `{"x":[[{"a":1,"a":2}]]}`, `{"x":{"y":{"z":{"a":1,"b":1,"a":2}}}}`, `{"a":{"b":1},"a":{"c":2}}`, "{\"\t\":1}", `{"\t":1,"\u0009":2}`},
		"too deep":        {nested(`{"a":`, `1`, `}`, 65), `{"a":` + nested(`[`, ``, `]`, 64) + `}`, nested(`{"a":`, ``, ``, 100000), `{"a":` + nested(`[`, ``, ``, 100000)},
		"byte order mark": {"\ufeff{\"sub\":\"a\"}", `null`, `[]`, ``}, // J154
		"comments":        {`{/**/}`, `{"a":1/**/}`, "{\"a\":1//\n}", "{#\n}"},
		"other escape":    {`{"a":"\u{41}"}`, `{"a":"\N"}`},
	}
	for name, texts := range tests {
		t.Run(name, func(t *testing.T) {
			for _, text := range texts {
				o, err := jose.ParseObject([]byte(text))
				if !errors.Is(err, jose.ErrMalformed) {
					t.Errorf("%.60q: %v", text, err)
				}
				if o.Len() != 0 {
					t.Errorf("%.60q: an object of %d members beside the error", text, o.Len())
				}
			}
		})
	}
}

func TestDuplicatesAreFoundWhereverTheyAre(t *testing.T) {
	// Every pair of positions in an object of twelve members.
	const n = 12
	for i := range n {
		for j := range i {
			names := make([]string, n)
			for k := range names {
				names[k] = fmt.Sprintf(`"m%d":{"m0":0,"m1":1}`, k)
			}
			parseObject(t, "{"+strings.Join(names, ",")+"}")
			names[i] = fmt.Sprintf(`"m%d":1`, j)
			if _, err := jose.ParseObject([]byte("{" + strings.Join(names, ",") + "}")); err == nil {
				t.Fatalf("%d and %d have the same name", j, i)
			}
		}
	}
}

func TestDuplicateDetectionIsNotQuadratic(t *testing.T) {
	const n = 150_000
	var distinct, long strings.Builder
	for i := range n {
		fmt.Fprintf(&distinct, `"%d":0,`, i*7919%n)
		if i < 20_000 {
			fmt.Fprintf(&long, `"a long common prefix for all the names %d":0,`, i)
		}
	}
	start := time.Now()
	o := parseObject(t, "{"+distinct.String()+`"last":0}`)
	if o.Len() != n+1 {
		t.Errorf("%d members", o.Len())
	}
	parseObject(t, `{"a":{`+long.String()+`"last":0}}`)
	if _, err := jose.ParseObject([]byte("{" + distinct.String() + `"0":0}`)); err == nil {
		t.Error("the duplicate was not found")
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// Every letter that has cases is tried in each pair of them, at the end of a
// name and alone. strings.EqualFold is the judge.
func TestAmbiguousAgreesWithEqualFold(t *testing.T) {
	pairs := [][2]string{{"a", "b"}, {"", "A"}, {"i", "\u0130"}, {"ss", "\u00df"}, {"a_b", "aB"}, {"\u00e9", "e\u0301"}, {"A", "\u0410"}}
	for r := rune('A'); r <= unicode.MaxRune; r++ {
		for other := unicode.SimpleFold(r); other != r && utf8.ValidRune(r); other = unicode.SimpleFold(other) {
			pairs = append(pairs, [2]string{string(r), string(other)}, [2]string{"role" + string(r), "ROLE" + string(other)})
		}
	}
	if len(pairs) < 5000 {
		t.Fatalf("%d pairs", len(pairs))
	}
	for _, p := range pairs {
		text := fmt.Sprintf(`{"z":[{"%s":1,"b":0,"%s":2}]}`, p[0], p[1])
		if p[0] == "b" || p[1] == "b" {
			continue
		}
		if got, want := parseObject(t, text).Ambiguous(), strings.EqualFold(p[0], p[1]); got != want {
			t.Errorf("%s: ambiguous %v", text, got)
		}
	}
}

func TestAmbiguousLooksIntoEachObjectAlone(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: false, `{"A":1}`: false, `{"a":1,"B":2,"c":3}`: false,
		`{"a":{"A":1}}`: false, `{"a":{"b":1},"x":{"B":1}}`: false, `{"x":[{"a":1},{"A":1}]}`: false,
		`{"a":1,"A":2}`: true, `{"a":{"b":1,"B":2}}`: true, `{"x":[[{"b":1,"B":2}]]}`: true,
		`{"b":1,"x":{"a":1,"A":2},"c":1}`: true, `{"a":{"x":1,"y":2},"A":{}}`: true, `{"\u0041":1,"a":2}`: true,
	} {
		o := parseObject(t, text)
		if o.Ambiguous() != want {
			t.Errorf("%s: ambiguous %v", text, !want)
		}
	}
	o := parseObject(t, `{"x":{"a":1,"A":2},"y":{"a":1}}`)
	x, _ := o.Get("x").Object()
	y, _ := o.Get("y").Object()
	if !x.Ambiguous() || y.Ambiguous() {
		t.Error("an inner object is not judged alone")
	}
}

func TestAmbiguityIsFoundAtTheCostOfSorting(t *testing.T) {
	var names strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&names, `"NAME %d \u0394":0,`, i*7919%100_000)
	}
	text := `{"x":{` + names.String() + `"last":0}}`
	start := time.Now()
	if parseObject(t, text).Ambiguous() {
		t.Error("ambiguous")
	}
	if !parseObject(t, strings.Replace(text, `"last"`, `"name 7 \u03b4"`, 1)).Ambiguous() {
		t.Error("not ambiguous")
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	if n := allocated(func() { parseObject(t, text) }); n > uint64(16*len(text)) {
		t.Errorf("%d bytes allocated for a text of %d", n, len(text))
	}
}

func TestDepthIsRefusedFast(t *testing.T) {
	for _, text := range []string{
		`{"a":` + nested("[", "", "]", 10_000) + `}`,
		nested(`{"a":`, "1", "}", 10_000),
		nested(`{"a":[`, "1", "]}", 2_000_000),
	} {
		start := time.Now()
		if _, err := jose.ParseObject([]byte(text)); !errors.Is(err, jose.ErrMalformed) {
			t.Errorf("%d bytes: %v", len(text), err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%d bytes took %v", len(text), took)
		}
	}
}

func TestObjectGet(t *testing.T) {
	o := parseObject(t, `{"b":2,"a":1,"\u0063":3,"":0,"B":4,"long name":5,"\ud83d\ude00":6,"a.b":7}`)
	for name, want := range map[string]string{
		"a": "1", "b": "2", "c": "3", "": "0", "B": "4", "long name": "5", "😀": "6", "a.b": "7",
	} {
		if got := string(o.Get(name).Raw()); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"A", "C", "long", "long names", " a", `\u0063`, "a.", "\x00"} {
		if v := o.Get(name); v.Exists() || v.Raw() != nil {
			t.Errorf("%q exists", name)
		}
	}
	if o.Len() != 8 {
		t.Errorf("Len is %d", o.Len())
	}
	var zero jose.Object
	if zero.Len() != 0 || zero.Get("a").Exists() || zero.Get("").Exists() {
		t.Error("the zero Object has members")
	}
}

// Catalogue: J166.
func TestNamesAreExact(t *testing.T) {
	o := parseObject(t, `{"EXP":1999999999,"Sub":"a","ACTIVE":true,"`+"\u212a"+`id":"x"}`)
	for _, name := range []string{"exp", "sub", "active", "kid"} {
		if o.Get(name).Exists() {
			t.Errorf("%s was found under another name", name)
		}
	}
}

func TestObjectAll(t *testing.T) {
	o := parseObject(t, `{"b":2,"a":1,"\u0063":[3]}`)
	var names, values []string
	for name, value := range o.All() {
		names, values = append(names, name), append(values, string(value.Raw()))
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) || !slices.Equal(values, []string{"1", "2", "[3]"}) {
		t.Errorf("got %v %v", names, values)
	}
	for name := range o.All() {
		if name != "a" {
			t.Errorf("went on to %s after break", name)
		}
		break
	}
}

// TestValueKinds asks every question about every kind of value.
func TestValueKinds(t *testing.T) {
	tests := []struct{ text, kinds string }{
		{`null`, "null"}, {`true`, "bool"}, {`false`, "bool"},
		{`""`, "text"}, {`"true"`, "text"}, {`"null"`, "text"}, {`"1"`, "text"}, {`"[]"`, "text"}, {`"{}"`, "text"},
		{`0`, "date"}, {`1`, "date"}, {`-0`, "date"},
		{`[]`, "texts"}, {`["a"]`, "texts"}, {`["a","b"]`, "texts"}, {`[ "a" , "" ]`, "texts"},
		{`[1]`, ""}, {`["a",1]`, ""}, {`[null]`, ""}, {`[["x"]]`, ""}, {`["a",{}]`, ""}, {`[true]`, ""},
		{`{}`, "object"}, {`{"x":1}`, "object"}, {`-1`, ""},
	}
	for _, tc := range tests {
		v := member(t, " "+tc.text+" ")
		var kinds []string
		if v.IsNull() {
			kinds = append(kinds, "null")
		}
		if _, ok := v.Bool(); ok {
			kinds = append(kinds, "bool")
		}
		if _, ok := v.Text(); ok {
			kinds = append(kinds, "text")
		}
		if _, ok := v.Texts(); ok {
			kinds = append(kinds, "texts")
		}
		if _, ok := v.NumericDate(); ok {
			kinds = append(kinds, "date")
		}
		if _, ok := v.Object(); ok {
			kinds = append(kinds, "object")
		}
		if got := strings.Join(kinds, " "); got != tc.kinds {
			t.Errorf("%s is %q, want %q", tc.text, got, tc.kinds)
		}
		if !v.Exists() || string(v.Raw()) != tc.text {
			t.Errorf("%s: raw %s", tc.text, v.Raw())
		}
	}
	var absent jose.Value
	_, isBool := absent.Bool()
	_, isText := absent.Text()
	_, isTexts := absent.Texts()
	_, isDate := absent.NumericDate()
	_, isObject := absent.Object()
	if absent.Exists() || absent.IsNull() || isBool || isText || isTexts || isDate || isObject || absent.Raw() != nil {
		t.Error("an absent value is something")
	}
}

func TestBool(t *testing.T) {
	if b, ok := member(t, `true`).Bool(); !b || !ok {
		t.Error("true")
	}
	if b, ok := member(t, `false`).Bool(); b || !ok {
		t.Error("false")
	}
	for _, text := range []string{`"true"`, `1`, `null`, `[true]`} {
		if b, ok := member(t, text).Bool(); b || ok {
			t.Error(text)
		}
	}
}

func TestTextDecodesLikeEncodingJSON(t *testing.T) {
	for _, text := range []string{
		`""`, `"a"`, `"read write"`, `"\"\\\/\b\f\n\r\t"`, `"\u0041\u00e9\u20ac\uffff\u0000"`, `"\uD83D\uDE00"`,
		`"a\u0062c"`, `"\u0061"`, `"é€😀"`, `"\\u0041"`, `"\\\\"`, `"\\\""`, `"x\ud83d\ude00y\ud834\udd1ez"`, `"\u2028"`, `"\uFfFd"`,
		`"` + strings.Repeat(`\n`, 3000) + `"`,
	} {
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if got, ok := member(t, text).Text(); !ok || got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestTexts(t *testing.T) {
	got, ok := member(t, `[ "a","\u0062" , "" ,"a"]`).Texts()
	if !ok || !slices.Equal(got, []string{"a", "b", "", "a"}) {
		t.Errorf("got %q", got)
	}
	if got, ok := member(t, `[ ]`).Texts(); !ok || len(got) != 0 {
		t.Errorf("empty: %q %v", got, ok)
	}
	if got, ok := member(t, `["a",[],"b"]`).Texts(); ok || got != nil {
		t.Errorf("mixed: %q", got)
	}
}

func TestNestedObject(t *testing.T) {
	inner, ok := member(t, ` {"sub":"a","act":{"sub":"b"}} `).Object()
	if !ok || inner.Len() != 2 {
		t.Fatal("no object")
	}
	act, ok := inner.Get("act").Object()
	if sub, _ := act.Get("sub").Text(); !ok || sub != "b" {
		t.Errorf("act.sub is %q", sub)
	}
}

func TestValueSharesMemoryButCannotGrow(t *testing.T) {
	data := []byte(`{"a":[1],"b":2}`)
	o, err := jose.ParseObject(data)
	if err != nil {
		t.Fatal(err)
	}
	raw := o.Get("a").Raw()
	if &raw[0] != &data[5] {
		t.Error("the value was copied")
	}
	_ = append(raw, 'x')
	if string(data) != `{"a":[1],"b":2}` {
		t.Errorf("appending to a value wrote into the document: %s", data)
	}
}

func TestNumericDate(t *testing.T) {
	const last = 253402300799
	refused := int64(-1)
	tests := []struct {
		name, text string
		want       int64
	}{
		{"null", `null`, refused},                          // J157
		{"true", `true`, refused},                          // J157
		{"array", `[9999999999]`, refused},                 // J157
		{"string", `"1999999999"`, refused},                // J157
		{"date string", `"2099-01-01T00:00:00Z"`, refused}, // J157
		{"string with a space", `" 1999999999"`, refused},  // J157
		{"object", `{"sec":1}`, refused},
		{"fraction", `1999999999.75`, 1999999999}, // J158
		{"fraction, many digits", `1999999999.9999999999999999999`, 1999999999},
		{"fraction below one", `0.99999999999999999999999999`, 0},
		{"exponent", `9e9`, 9000000000}, // J159
		{"2e9", `2e9`, 2000000000},
		{"2E+9", `2E+9`, 2000000000},
		{"1.9999999995e9", `1.9999999995e9`, 1999999999},
		{"1.999999999e9", `1.999999999e9`, 1999999999},
		{"19999999995e-1", `19999999995e-1`, 1999999999},
		{"exponent with zeros in front", `2e0000000000000000000000000009`, 2000000000},
		{"0e9", `0e9`, 0},
		{"1e-1", `1e-1`, 0},
		{"1e0", `1e0`, 1},
		{"10e-1", `10e-1`, 1},
		{"0.0000000002e19", `0.0000000002e19`, 2000000000},
		{"0.000e5", `0.000e5`, 0},
		{"zeros and a long exponent", `0.0e999999999999999999999`, 0},
		{"minus one", `-1`, refused}, // J161
		{"zero", `0`, 0},             // J161
		{"minus zero", `-0`, 0},
		{"minus zero fraction", `-0.0e5`, 0},
		{"minus half", `-0.5`, refused},
		{"minus tiny", `-1e-400`, refused},
		{"minus huge", `-1e400`, refused},
		{"last", `253402300799`, last},
		{"last with fraction", `253402300799.999`, last},
		{"last + 1", `253402300800`, refused},
		{"milliseconds", `1999999999000`, refused},    // J162
		{"microseconds", `1999999999000000`, refused}, // J162
		{"twelve nines", `999999999999`, refused},
		{"1e11", `1e11`, 100000000000},
		{"1e12", `1e12`, refused},
		{"MaxInt64", `9223372036854775807`, refused},
		{"MaxInt64 + 1", `9223372036854775808`, refused},
		{"2^64 + 5", `18446744073709551621`, refused},
		{"2^64 × 1e9", `18446744073709551616000000000`, refused},
		{"1e400", `1e400`, refused},
		{"1e99999999", `1e99999999`, refused},
		{"1e-99999999", `1e-99999999`, 0},
		{"exponent beyond int64", `1e99999999999999999999999`, refused},
		{"exponent beyond minus int64", `9e-99999999999999999999999`, 0},
		{"exponent wraps int32", `1e4294967296`, refused},
		{"exponent wraps int64", `1e18446744073709551616`, refused},
		{"long mantissa comes back", `0.` + strings.Repeat("0", 999) + `2e1009`, 2000000000},
		{"long mantissa comes down", `2` + strings.Repeat("0", 1009) + `e-1000`, 2000000000},
		{"30,000 digits", strings.Repeat("9", 30000), refused},
		{"30,000 digits after the point", `5.` + strings.Repeat("9", 30000), 5},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := member(t, tc.text).NumericDate()
			if !ok {
				got = refused
			}
			if got != tc.want {
				t.Errorf("%.60s: got %d, want %d", tc.text, got, tc.want)
			}
		})
	}
}

func TestNumericDateIsCheap(t *testing.T) {
	for _, text := range []string{`1e400`, `1e99999999`, `-1e99999999`, `1e-99999999`, `9e999999999999999999999999999`} {
		v := member(t, text)
		if n := testing.AllocsPerRun(100, func() { v.NumericDate() }); n > 6 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
	v := member(t, strings.Repeat("7", 1<<20)+"e-1048570")
	start := time.Now()
	if n := allocated(func() { v.NumericDate() }); n > 3<<20 {
		t.Errorf("%d bytes for a number of 1 MiB", n)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// What is left of an object is written in one order, and makes it whole again.
func TestDifferenceOfObjects(t *testing.T) {
	for _, test := range []struct{ in, without, want string }{
		{`{}`, "", `{}`},
		{`{"a":1}`, "a", `{}`},
		{`{"b": [ 1 , {"c":null} ], "a":"<\u00e9>", "jwt":"x"}`, "jwt", `{"a":"<\u00e9>","b":[1,{"c":null}]}`},
		{`{"n":9007199254740993,"\u0061\"b":1e2}`, "none", `{"a\"b":1e2,"n":9007199254740993}`},
		{`{"<&>":true}`, "", `{"<&>":true}`},
	} {
		o := parseObject(t, test.in).Without(test.without)
		for _, other := range []string{`{}`, test.in, `{"a":2,"b":[1,{"c":null}],"z":0}`} {
			got, err := o.Minus(parseObject(t, other)).Plus(parseObject(t, other))
			if err != nil || string(got) != test.want {
				t.Errorf("%s without %q, less %s: %s, %v, want %s", test.in, test.without, other, got, err, test.want)
			}
		}
	}
}
