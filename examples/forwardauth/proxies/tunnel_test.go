package proxies

import (
	"net/http"
	"strings"
	"testing"
)

// An upgrade to h2c would be a tunnel for requests without any token. An API
// that gets no offer cannot accept it.
func TestOnlyWebsocketsAreUpgraded(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		token := "Authorization: Bearer " + g.issue(map[string]any{"scope": "orders:read"})
		for _, offer := range [][]string{
			{"Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"}, {"upgrade: H2C"}, {"Upgrade: TLS/1.0"}, {"Upgrade: xwebsocket"},
			{"Upgrade: websocket, h2c"}, {"Upgrade: h2c", "Upgrade: websocket"}, {"Upgrade: websocket", "Upgrade: h2c"},
		} {
			for _, path := range []string{"/x", "/orders/1"} {
				a := g.send(t, "GET "+path, append(offer, "Connection: Upgrade, HTTP2-Settings, close", token), "")
				got := g.upstream.take()
				if a.status != http.StatusBadRequest && len(got) != 1 {
					t.Errorf("%q: status %d, %d requests", offer, a.status, len(got))
				}
				for _, r := range got {
					checkJWT(t, r)
					if value := r.Header.Values("Upgrade"); len(value) > 0 {
						t.Errorf("%q: the API got %q", offer, value)
					}
				}
			}
		}
	})
}

// nginx.conf has no upgrade at all.
func TestWebsocketsAreUpgraded(t *testing.T) {
	each(t, func(t *testing.T, g *gate) {
		if g.name == "nginx" {
			return
		}
		for _, websocket := range []string{"websocket", "WebSocket"} {
			g.send(t, "GET /x", []string{
				"Connection: Upgrade", "Upgrade: " + websocket, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
				"Authorization: Bearer " + g.issue(nil),
			}, "").served(t)
			r := g.upstream.one(t)
			if got := r.Header.Get("Upgrade"); !strings.EqualFold(got, "websocket") || r.Header.Get("Connection") != "Upgrade" {
				t.Errorf("the API got Upgrade %q, Connection %q", got, r.Header.Get("Connection"))
			}
		}
	})
}
