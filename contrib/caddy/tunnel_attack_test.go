package phantomcaddy_test

import (
	"net/http"
	"strings"
	"testing"
)

// An upgrade to h2c would be a tunnel for requests without any token. An API
// gets such a request without the offer, and so cannot accept it.
//
// Catalogue: P72.
func TestOnlyWebsocketsAreUpgraded(t *testing.T) {
	s := protectedSite(t)
	token := "Authorization: Bearer " + s.issue(nil)
	for _, tc := range []struct {
		offer []string
		want  string
	}{
		{[]string{"Upgrade: h2c"}, ""},
		{[]string{"Upgrade: H2C", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"}, ""},
		{[]string{"Upgrade: TLS/1.0"}, ""},
		{[]string{"Upgrade: TLS/1.0, websocket"}, ""},
		{[]string{"Upgrade: TLS/1.0", "Upgrade: websocket"}, ""},
		{[]string{"Upgrade: websocket", "Upgrade: TLS/1.0"}, ""},
		{[]string{"Upgrade: websocket, h2c"}, "websocket"},
		{[]string{"Upgrade: h2c", "Upgrade: websocket"}, "websocket"},
	} {
		r := s.served(t, s.send(t, "GET /x", append(tc.offer, "Connection: Upgrade, HTTP2-Settings, close", token), ""))
		checkJWT(t, r)
		if got := strings.Join(r.Header.Values("Upgrade"), "|"); got != tc.want || r.Header["Http2-Settings"] != nil {
			t.Errorf("%q: the API got Upgrade %q, HTTP2-Settings %q", tc.offer, got, r.Header["Http2-Settings"])
		}
	}
}

// CONNECT asks for a tunnel too.
//
// Catalogue: P59.
func TestConnectEndsHere(t *testing.T) {
	s := protectedSite(t)
	for _, field := range []string{"Authorization: Bearer " + s.issue(nil), "Authorization: Bearer junk", "X: y"} {
		for _, line := range []string{"CONNECT /x", "connect /x", "CONNECT " + s.address} {
			a := s.send(t, line, []string{field}, "")
			if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" {
				t.Errorf("%s: status %d, Allow %q", line, a.status, a.header.Get("Allow"))
			}
			if got := s.take(); len(got) > 0 {
				t.Errorf("%s reached the API", line)
			}
		}
	}
}
