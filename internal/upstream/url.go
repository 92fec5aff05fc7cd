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
// 8414 section 6), or http if insecure is set.
func CheckURL(raw string, insecure bool) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return "not a URL"
	case u.User != nil:
		return "has credentials in the URL"
	case u.Host == "" && strings.Contains(raw, "@"):
		return "not an absolute URL" // do not show what is before the @
	case u.Host == "" || u.Hostname() == "":
		return fmt.Sprintf("%q is not an absolute URL", WithoutQuery(raw))
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return fmt.Sprintf("%q has a fragment", WithoutQuery(raw))
	case u.Scheme == "https", u.Scheme == "http" && (insecure || isLoopback(u.Hostname())):
		return ""
	}
	return fmt.Sprintf("%q is not https", WithoutQuery(raw))
}

// WithoutQuery cuts off the query and the fragment, which may hold a secret.
func WithoutQuery(raw string) string {
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		return raw[:i]
	}
	return raw
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
