package conformance_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
)

// Only the compact serialization of a JWS is a JWT to us.
//
// Catalogue: J147, J149.
func TestOtherSerializationIsRefused(t *testing.T) {
	good := es256(goodHeader, goodPayload())
	part := strings.Split(good, ".")
	flattened := fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, part[1], part[0], part[2])
	general := fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, part[1], part[0], part[2])
	runJWTCases(t, []jwtCase{
		{"JWE", b64([]byte(`{"alg":"RSA-OAEP-256","enc":"A256GCM"}`)) + ".AAAA.AAAA.AAAA.AAAA", code502A, "", ""},
		{"JWE around the JWT", good + "." + part[1] + "." + part[2], code502A, "", ""},
		{"flattened JSON", flattened, code502A, "", ""},
		{"general JSON", general, code502A, "", ""},
		{"compact inside JSON", `{"jwt":"` + good + `"}`, code502A, "", ""},
	})
}

// A JWT has three segments in strict base64url, with nothing around them.
//
// Catalogue: J151.
func TestSegmentsAreStrict(t *testing.T) {
	good := es256(goodHeader, goodPayload())
	part := strings.Split(good, ".")
	signed := func(payload string) string { return es256(goodHeader, payload) }
	// Another spelling of the same octets: the bits behind the last one.
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, good[len(good)-1])
	respelt := good[:len(good)-1] + alphabet[last^1:last^1+1]
	standard := strings.NewReplacer("-", "+", "_", "/")
	escaped := strings.TrimSuffix(goodPayload(), "}") + `,"~~":"???>>>~~~"}` // whose base64 has 62 and 63
	runJWTCases(t, []jwtCase{
		{"one segment", part[0], code502A, "", ""},
		{"two segments", part[0] + "." + part[1], code502A, "", ""},
		{"four segments", good + ".AAAA", code502A, "", ""},
		{"empty header", "." + part[1] + "." + part[2], code502A, "", ""},
		{"empty payload", part[0] + ".." + part[2], code502A, "", ""},
		{"dots only", "..", code502A, "", ""},
		{"30,000 dots", strings.Repeat(".", 30000), code502A, "", ""},
		{"padding of the signature", part[0] + "." + part[1] + "." + part[2] + "==", code502A, "", ""},
		{"padding of the payload", part[0] + "." + part[1] + "=." + part[2], code502A, "", ""},
		{"plus and slash", standard.Replace(signed(escaped)), code502A, "", ""},
		{"line break in a segment", part[0] + "." + part[1][:8] + "\r\n" + part[1][8:] + "." + part[2], code502A, "", ""},
		{"space in front", " " + good, code502A, "", ""},
		{"two line breaks behind", good + "\n\n", code502A, "", ""},
		{"percent-encoded", strings.ReplaceAll(good, ".", "%2E"), code502A, "", ""},
		{"length of no octets", part[0] + "." + part[1] + "A." + part[2] + "AAAAA", code502A, "", ""},
		{"other spelling of the last octet", respelt, code502A, "", ""},
		{"Bearer in front", "Bearer " + good, code502A, "", ""},
		{"scheme of its own", "phantom:" + good, code502A, "", ""},
	})
}

// The payload is one object, in which no name comes twice.
//
// Catalogue: J153.
func TestPayloadIsOneObject(t *testing.T) {
	signed := func(payload string) string { return es256(goodHeader, payload) }
	runJWTCases(t, []jwtCase{
		{"two objects", signed(goodPayload() + `{"sub":"b"}`), code502A, "", ""},
		{"object and a byte", signed(goodPayload() + "x"), code502A, "", ""},
		{"object and NUL", signed(goodPayload() + "\x00"), code502A, "", ""},
		{"space around", signed(" \t\r\n" + goodPayload() + "\n"), codeOK, "", ""},
		{"sub twice", signed(strings.TrimSuffix(goodPayload(), "}") + `,"sub":"b"}`), code502A, "", ""},
		{"sub twice, once escaped", signed(strings.TrimSuffix(goodPayload(), "}") + `,"s\u0075b":"b"}`), code502A, "", ""},
		{"act.sub twice", signed(strings.TrimSuffix(goodPayload(), "}") + `,"act":{"sub":"a","sub":"b"}}`), code502A, "", ""},
		{"twice inside an array", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":[{"a":1,"a":1}]}`), code502A, "", ""},
	})
}

// The header is one JSON object, and nothing behind it.
//
// Catalogue: J154.
func TestHeaderIsStrictJSON(t *testing.T) {
	runJWTCases(t, []jwtCase{
		{"null", es256("null", goodPayload()), code502A, "", ""},
		{"an array", es256(`["ES256"]`, goodPayload()), code502A, "", ""},
		{"byte order mark", es256("\ufeff"+goodHeader, goodPayload()), code502A, "", ""},
		{"bytes behind the object", es256(goodHeader+"{}", goodPayload()), code502A, "", ""},
	})
}

// The payload is JSON by the letter of RFC 8259, in UTF-8.
//
// Catalogue: J154.
func TestPayloadIsStrictJSON(t *testing.T) {
	signed := func(payload string) string { return es256(goodHeader, payload) }
	utf16le := func(s string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	nested := func(depth int) string {
		lists := strings.Repeat("[", depth) + strings.Repeat("]", depth)
		return strings.TrimSuffix(goodPayload(), "}") + `,"x":` + lists + "}"
	}
	runJWTCases(t, []jwtCase{
		{"null instead of an object", signed("null"), code502A, "", ""},
		{"an array", signed("[" + goodPayload() + "]"), code502A, "", ""},
		{"a string", signed(`"` + "x" + `"`), code502A, "", ""},
		{"a number", signed("1"), code502A, "", ""},
		{"true", signed("true"), code502A, "", ""},
		{"byte order mark", signed("\ufeff" + goodPayload()), code502A, "", ""},
		{"UTF-16", signed(utf16le(goodPayload())), code502A, "", ""},
		{"UTF-16 with a byte order mark", signed("\xff\xfe" + utf16le(goodPayload())), code502A, "", ""},
		{"byte 0xFF in sub", signed(strings.Replace(goodPayload(), "alice", "al\xffce", 1)), code502A, "", ""},
		{"overlong UTF-8", signed(strings.Replace(goodPayload(), "alice", "al\xc0\xafce", 1)), code502A, "", ""},
		{"lone surrogate in sub", signed(strings.Replace(goodPayload(), "alice", `al\ud800ce`, 1)), code502A, "", ""},
		{"lone surrogate in a name", signed(strings.TrimSuffix(goodPayload(), "}") + `,"\udc00":1}`), code502A, "", ""},
		{"control byte in sub", signed(strings.Replace(goodPayload(), "alice", "al\nce", 1)), code502A, "", ""},
		{"comment", signed("/**/" + goodPayload()), code502A, "", ""},
		{"single quotes", signed(strings.ReplaceAll(goodPayload(), `"`, `'`)), code502A, "", ""},
		{"trailing comma", signed(strings.TrimSuffix(goodPayload(), "}") + `,}`), code502A, "", ""},
		{"NaN", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":NaN}`), code502A, "", ""},
		{"leading zero", signed(strings.TrimSuffix(goodPayload(), "}") + `,"x":01}`), code502A, "", ""},
		{"nested 64 deep", signed(nested(62)), codeOK, "", ""},
		{"nested 10,000 deep", signed(nested(10000)), code502A, "", ""},
		{"cut off", signed(strings.TrimSuffix(goodPayload(), "}")), code502A, "", ""},
	})
}

// An empty payload leaves an empty segment, which is no segment.
//
// Catalogue: J154.
func TestEmptyPayloadIsRefused(t *testing.T) {
	trial(t, es256(goodHeader, ""), code502A, "")
}

// A JWT has 32 KiB at most, and as many claims as fit.
//
// Catalogue: J176.
func TestJWTSizeIsBounded(t *testing.T) {
	sized := func(jwtSize int) string { // as near below as base64 permits
		base := len(es256(goodHeader, goodPayload()))
		pad := (jwtSize-base)*3/4 - len(`,"x":""`) - 3
		jwt := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"x":"`+strings.Repeat("x", pad)+`"}`)
		if len(jwt) > jwtSize || len(jwt) < jwtSize-16 {
			panic(fmt.Sprintf("%d bytes, want %d", len(jwt), jwtSize))
		}
		return jwt
	}
	var many strings.Builder
	count := 0
	for many.Len() < 20<<10 {
		fmt.Fprintf(&many, `,"%x":%d`, count, count%10)
		count++
	}
	withMany := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+many.String()+"}")
	withValues := es256(goodHeader, strings.TrimSuffix(goodPayload(), "}")+`,"x":[1`+strings.Repeat(",1", 9999)+"]}")
	for _, tc := range []struct{ name, jwt, want string }{
		{"as many claims as fit 30 KiB", withMany, codeOK},
		{"10,000 values in 30 KiB", withValues, codeOK},
		{"30 KiB", sized(30 << 10), codeOK},
		{"32 KiB", sized(32 << 10), codeOK},
		{"33 KiB, a KiB too much", sized(33 << 10), code502A},
	} {
		t.Run(tc.name, func(t *testing.T) { trial(t, tc.jwt, tc.want, "") })
	}
}
