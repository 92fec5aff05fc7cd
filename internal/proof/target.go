package proof

import (
	"net/http"
	"strings"
)

// Normalize returns the form in which two http or https URIs are compared (RFC
// 9449 section 4.3, RFC 3986 sections 6.2.2 and 6.2.3): without query and
// fragment, with scheme and host in lower case, without the default port, with
// a slash for an empty path, and with as few percent-encoded characters as
// possible. Dot segments stay, because a server may tell them apart. ok is
// false for what has no scheme, no host, userinfo, or a "%" that encodes
// nothing, which could encode something once what follows it is decoded.
func Normalize(uri string) (normal string, ok bool) {
	if end := strings.IndexAny(uri, "?#"); end >= 0 {
		uri = uri[:end]
	}
	scheme, rest, found := strings.Cut(uri, "://")
	if !found {
		return "", false
	}
	authority, path := rest, ""
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		authority, path = rest[:slash], rest[slash:]
	}
	if strings.ContainsFunc(authority, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '@' }) {
		return "", false
	}
	scheme, authority = strings.ToLower(scheme), strings.ToLower(authority)
	defaultPort := ":80"
	switch scheme {
	case "https":
		defaultPort = ":443"
	case "http":
	default:
		return "", false
	}
	host, found := strings.CutSuffix(authority, defaultPort)
	if !found {
		host = strings.TrimSuffix(authority, ":")
	}
	// Behind the brackets of an IPv6 address, and without them, one port.
	if host == "" || strings.Count(authority[strings.LastIndexByte(authority, ']')+1:], ":") > 1 {
		return "", false
	}
	return Join(scheme+"://"+host, path)
}

// Join returns the normal form of a path below origin, which is in this form
// already, without a slash at its end. All of path belongs to it, "?" and "#"
// too.
func Join(origin, path string) (normal string, ok bool) {
	if path == "" {
		path = "/"
	}
	if path, ok = decodeUnreserved(path); !ok {
		return "", false
	}
	return origin + path, true
}

// decodeUnreserved decodes the percent-encoded characters that need not be
// (RFC 3986 section 2.3), and writes the hex digits of the others in upper
// case.
func decodeUnreserved(path string) (normal string, ok bool) {
	if !strings.Contains(path, "%") {
		return path, true
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			out = append(out, path[i])
			continue
		}
		if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
			return "", false
		}
		digits := strings.ToUpper(path[i+1 : i+3])
		if c := unhex(digits[0])<<4 | unhex(digits[1]); isUnreserved(c) {
			out = append(out, c)
		} else {
			out = append(append(out, '%'), digits...)
		}
		i += 2
	}
	return string(out), true
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// unhex returns the value of a hex digit in upper case.
func unhex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c - 'A' + 10
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isUnreserved(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("-._~", c) >= 0
}

// Path returns the path that the client asked for, percent-encoded as it was
// sent. No handler changes RequestURI, so that of http.StripPrefix shows the
// whole path too. ok is false for the host and port that CONNECT sends, and for
// what only looks like an absolute URI: net/http takes all of "a:/b://c/d" but
// "a:" for the path.
func Path(r *http.Request) (path string, ok bool) {
	uri := r.RequestURI
	switch {
	case uri == "": // a request that did not come over a connection
		return r.URL.EscapedPath(), true
	case uri == "*": // the server as a whole (RFC 9110 section 7.1)
		return "", true
	case uri[0] != '/': // absolute-form
		scheme, rest, _ := strings.Cut(uri, "://")
		if !strings.EqualFold(scheme, "https") && !strings.EqualFold(scheme, "http") {
			return "", false
		}
		uri = ""
		if end := strings.IndexAny(rest, "/?"); end >= 0 {
			uri = rest[end:]
		}
	}
	path, _, _ = strings.Cut(uri, "?")
	return path, true
}
