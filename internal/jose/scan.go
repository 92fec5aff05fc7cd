package jose

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner walks one JSON text from left to right, once. The text is valid
// UTF-8.
//
// members is a stack. An object under construction owns its upper end, and
// objects inside it push and pop above that, so that one slice serves the whole
// text.
type scanner struct {
	data      []byte
	pos       int
	members   []member
	ambiguous bool // an object so far has names that fold together
}

// peek returns the next byte, or 0 at the end, which no token of JSON starts
// with.
func (s *scanner) peek() byte {
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

// next consumes the byte c if it is the next one.
func (s *scanner) next(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) value(depth int) error {
	switch c := s.peek(); {
	case (c == '{' || c == '[') && depth > maxDepth:
		return malformed("JSON nested too deep")
	case c == '{':
		base := len(s.members)
		err := s.object(depth)
		s.members = s.members[:base]
		return err
	case c == '[':
		return s.array(depth)
	case c == '"':
		_, err := s.text()
		return err
	case c == '-' || isDigit(c):
		return s.number()
	default:
		return s.literal()
	}
}

// object leaves the members of the object, sorted, on the stack.
func (s *scanner) object(depth int) error {
	base := len(s.members)
	s.pos++
	s.space()
	if s.next('}') {
		return nil
	}
	for {
		name, err := s.text()
		if err != nil {
			return err
		}
		s.space()
		if !s.next(':') {
			return malformed("JSON member without a colon")
		}
		s.space()
		start := s.pos
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.members = append(s.members, member{unescape(name), Value{s.data[start:s.pos:s.pos]}})
		s.space()
		if s.next('}') {
			break
		}
		if !s.next(',') {
			return malformed("JSON object not closed")
		}
		s.space()
	}
	// Sorting puts equal names side by side, at n log n even for a hostile
	// text.
	own := s.members[base:]
	slices.SortFunc(own, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	for i := 1; i < len(own); i++ {
		if bytes.Equal(own[i-1].name, own[i].name) {
			return malformed("duplicate JSON member name")
		}
	}
	s.ambiguous = s.ambiguous || foldTogether(own)
	return nil
}

// foldTogether reports whether two of the names, which are all different, are
// equal under simple case folding. Nearly all objects have lower-case names
// alone and cost one look at each byte. For the others it sorts, as object
// does.
func foldTogether(members []member) bool {
	size, folded := 0, true
	for _, m := range members {
		size += len(m.name)
		folded = folded && isFolded(m.name)
	}
	if folded || len(members) < 2 {
		return false
	}
	names, buf := make([][]byte, len(members)), make([]byte, 0, size)
	for i, m := range members {
		start := len(buf)
		buf = appendFolded(buf, m.name)
		names[i] = buf[start:]
	}
	slices.SortFunc(names, bytes.Compare)
	for i := 1; i < len(names); i++ {
		if bytes.Equal(names[i-1], names[i]) {
			return true
		}
	}
	return false
}

// isFolded reports whether appendFolded would surely change nothing.
func isFolded(name []byte) bool {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// appendFolded appends the name with one letter for all cases of a letter. It
// is never longer than the name.
func appendFolded(dst, name []byte) []byte {
	for len(name) > 0 {
		r, n := utf8.DecodeRune(name)
		name = name[n:]
		if r >= utf8.RuneSelf {
			r = firstCase(r)
		}
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// firstCase returns the first of the runes that are the cases of one letter.
// unicode.SimpleFold goes around them in order.
func firstCase(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}

func (s *scanner) array(depth int) error {
	s.pos++
	s.space()
	if s.next(']') {
		return nil
	}
	for {
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		if s.next(']') {
			return nil
		}
		if !s.next(',') {
			return malformed("JSON array not closed")
		}
		s.space()
	}
}

// text consumes a string and returns what is between its quotes, still escaped.
func (s *scanner) text() ([]byte, error) {
	if !s.next('"') {
		return nil, malformed("JSON string expected")
	}
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], nil
		case c < ' ':
			return nil, malformed("control byte in a JSON string")
		case c == '\\':
			_, n := unescapeRune(s.data[s.pos:])
			if n == 0 {
				return nil, malformed("bad escape in a JSON string")
			}
			s.pos += n
		default:
			s.pos++
		}
	}
	return nil, malformed("JSON string not closed")
}

// number consumes the number grammar of RFC 8259 section 6.
func (s *scanner) number() error {
	s.next('-')
	if !s.next('0') && !s.digits() {
		return malformed("bad JSON number")
	}
	if s.next('.') && !s.digits() {
		return malformed("bad JSON number")
	}
	if s.next('e') || s.next('E') {
		if !s.next('+') {
			s.next('-')
		}
		if !s.digits() {
			return malformed("bad JSON number")
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for isDigit(s.peek()) {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) literal() error {
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
			s.pos += len(word)
			return nil
		}
	}
	return malformed("JSON value expected")
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// unescape decodes the inside of a string that text has accepted. Without an
// escape it returns its argument.
func unescape(text []byte) []byte {
	i := bytes.IndexByte(text, '\\')
	if i < 0 {
		return text
	}
	out := make([]byte, i, len(text)) // an escape is never shorter than what it stands for
	copy(out, text)
	for i < len(text) {
		if text[i] != '\\' {
			out = append(out, text[i])
			i++
			continue
		}
		r, n := unescapeRune(text[i:])
		out = utf8.AppendRune(out, r)
		i += n
	}
	return out
}

// unescapeRune decodes the escape at the start of b, a surrogate pair included,
// and returns its length: 0 when it is not an escape, or is half of a surrogate
// pair.
func unescapeRune(b []byte) (r rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	const letters, meanings = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if i := strings.IndexByte(letters, b[1]); i >= 0 {
		return rune(meanings[i]), 2
	}
	r, ok := unescapeUnit(b)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return r, 6
	}
	low, _ := unescapeUnit(b[6:])
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, 0
	}
	return r, 12
}

// unescapeUnit decodes one \uXXXX.
func unescapeUnit(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(unit), err == nil
}
