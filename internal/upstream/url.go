package upstream

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// CheckURL says why a URL of the authorization server is refused, or returns ""
// for a good one. The URL must be absolute, without credentials or a fragment.
// It must be https, or http to the loopback interface (RFC 7662 section 4, RFC
// 8414 section 6), or http if insecure is set. What it says shows no secret.
func CheckURL(raw string, insecure bool) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "not a URL"
	case u.User != nil:
		return fmt.Sprintf("%q has credentials in the URL", Shown(raw))
	case u.Host == "" || u.Hostname() == "":
		return fmt.Sprintf("%q is not an absolute URL", Shown(raw))
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return fmt.Sprintf("%q has a fragment", Shown(raw))
	case u.Scheme == "https", u.Scheme == "http" && (insecure || isLoopback(u.Hostname())):
		return ""
	case u.Scheme == "http":
		return fmt.Sprintf("%q is not https; see WithInsecureHTTP", Shown(raw))
	}
	return fmt.Sprintf("%q is not https", Shown(raw))
}

// Shown returns what may be shown of a URL, well formed or not. Query and
// fragment may hold a secret, and so may all that stands before an @.
func Shown(raw string) string {
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		raw = raw[:i]
	}
	if i := strings.LastIndexByte(raw, '@'); i >= 0 {
		return "…" + raw[i:]
	}
	return raw
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
