package conformance_test

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// The types, flags and codes of HTTP/2 frames (RFC 9113 sections 6 and 7).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePush         = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	endStream  = 1
	ack        = 1
	endHeaders = 4

	internalError = 2
	refusedStream = 7
	http11Wanted  = 13
)

// An h2peer is the server's end of an HTTP/2 connection, a frame at a time.
type h2peer struct {
	*peer
	mu sync.Mutex // of what is written
}

// speakingH2 makes the Middleware ask over HTTP/2, which its own transport does
// not speak.
func speakingH2() phantom.Option {
	client := trusting(testCA)
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	return phantom.WithHTTPClient(client)
}

// listenH2 runs a script on each HTTP/2 connection, after the preface. The
// script sends the settings.
func listenH2(t testing.TB, script func(*h2peer)) *tcpServer {
	t.Helper()
	config := serverTLS(testCA.issue(nil))
	config.NextProtos = []string{"h2"}
	return listenAt(t, "127.0.0.1:0", config, func(p *peer) {
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(p.in, preface); err != nil {
			return
		}
		if got := p.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != "h2" {
			t.Errorf("protocol %q", got)
		}
		script(&h2peer{peer: p})
	})
}

func (p *h2peer) frame(kind, flags byte, stream uint32, payload string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.send(h2frame(kind, flags, stream, payload))
}

func h2frame(kind, flags byte, stream uint32, payload string) string {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = append(head, flags)
	return string(binary.BigEndian.AppendUint32(head, stream)) + payload
}

func uint32s(values ...uint32) string {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return string(b)
}

func setting(id uint16, value uint32) string {
	return string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, id), value))
}

// request reads frames up to the end of a request and returns its stream and
// the token that it asks about. It is false when the client is gone.
func (p *h2peer) request() (stream uint32, token string, ok bool) {
	var body strings.Builder
	for {
		var head [9]byte
		if _, err := io.ReadFull(p.in, head[:]); err != nil {
			return 0, "", false
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(p.in, payload); err != nil {
			return 0, "", false
		}
		kind, flags := head[3], head[4]
		stream := binary.BigEndian.Uint32(head[5:])
		switch {
		case kind == frameSettings && flags&ack == 0:
			p.frame(frameSettings, ack, 0, "")
		case kind == framePing && flags&ack == 0:
			p.frame(framePing, ack, 0, string(payload))
		case kind == frameData:
			body.Write(payload)
			if flags&endStream != 0 {
				p.server.lookups.Add(1)
				form, _ := url.ParseQuery(body.String())
				p.form = form
				return stream, form.Get("token"), true
			}
		}
	}
}

// literal is a header field that is in no table (RFC 7541 section 6.2.2).
func literal(name, value string) string {
	return "\x00" + hpackLength(len(name)) + name + hpackLength(len(value)) + value
}

func hpackLength(n int) string {
	if n < 127 {
		return string([]byte{byte(n)})
	}
	b := []byte{127}
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return string(append(b, byte(n)))
}

// The header blocks of answers: 0x88 and 0x8d are :status 200 and 404 in the
// static table (RFC 7541 appendix A).
var (
	head200 = "\x88" + literal("content-type", "application/jwt")
	head103 = literal(":status", "103")
)

func (p *h2peer) answer(stream uint32, jwt string) {
	p.frame(frameHeaders, endHeaders, stream, head200)
	p.frame(frameData, endStream, stream, jwt)
}

// serve answers all further requests.
func (p *h2peer) serve(jwt string) {
	for {
		stream, _, ok := p.request()
		if !ok {
			return
		}
		p.answer(stream, jwt)
	}
}

// The tests' own HTTP/2 server speaks well enough for lookups to share one
// connection.
func TestHTTP2LookupsShareAConnection(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenH2(t, func(p *h2peer) {
		p.frame(frameSettings, 0, 0, "")
		p.serve(good)
	})
	m := as.networked(s.url(), speakingH2())
	for i := range 10 {
		if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != codeOK {
			t.Errorf("%s, log:\n%s", got, as.logs.String())
		}
	}
	if n := s.opened.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// The client asks once more if the server says that it did not process the
// request. A fault in the middle of an answer is an outage.
func TestHTTP2UnprocessedLookupIsRetried(t *testing.T) {
	goAway := func(p *h2peer, last, code uint32) { p.frame(frameGoAway, 0, 0, uint32s(last, code)) }
	for _, tc := range []struct {
		name  string
		want  string
		fault func(p *h2peer, stream uint32, good string)
	}{
		{"GOAWAY, not processed", codeOK, func(p *h2peer, stream uint32, _ string) { goAway(p, stream-2, 0); p.wait() }}, // N271
		{"GOAWAY, not processed, closed", codeOK, func(p *h2peer, stream uint32, _ string) { goAway(p, stream-2, 0) }},   // N271
		{"GOAWAY, closed", codeOK, func(p *h2peer, stream uint32, _ string) { goAway(p, stream, 0) }},                    // N271
		{"GOAWAY with an error", codeOK, func(p *h2peer, stream uint32, _ string) { goAway(p, stream, internalError) }},  // N271
		{"GOAWAY, then the answer", codeOK, func(p *h2peer, stream uint32, good string) {
			goAway(p, stream, 0)
			p.answer(stream, good)
			p.wait()
		}}, // N271
		{"REFUSED_STREAM", codeOK, func(p *h2peer, stream uint32, good string) {
			p.frame(frameReset, 0, stream, uint32s(refusedStream))
			p.serve(good)
		}}, // N271
		{"REFUSED_STREAM, closed", codeOK, func(p *h2peer, stream uint32, _ string) {
			p.frame(frameReset, 0, stream, uint32s(refusedStream))
		}}, // N271
		{"reset before an answer", codeOK, func(p *h2peer, stream uint32, good string) {
			p.frame(frameReset, 0, stream, uint32s(internalError))
			p.serve(good)
		}},
		{"closed before an answer", codeOK, func(*h2peer, uint32, string) {}},
		{"TCP reset before an answer", codeOK, func(p *h2peer, _ uint32, _ string) { p.reset() }},
		{"reset in the middle of the body", code503A, func(p *h2peer, stream uint32, good string) {
			p.frame(frameHeaders, endHeaders, stream, head200)
			p.frame(frameData, 0, stream, good[:100])
			p.frame(frameReset, 0, stream, uint32s(internalError))
			p.serve(good)
		}}, // N269
		{"closed in the middle of the body", code503A, func(p *h2peer, stream uint32, good string) {
			p.frame(frameHeaders, endHeaders, stream, head200)
			p.frame(frameData, 0, stream, good)
		}}, // N269
		{"short body", code503A, func(p *h2peer, stream uint32, good string) {
			p.frame(frameHeaders, endHeaders, stream, head200+literal("content-length", "5000"))
			p.frame(frameData, endStream, stream, good)
			p.serve(good)
		}}, // N269
		{"a body longer than it says", code503A, func(p *h2peer, stream uint32, good string) {
			p.frame(frameHeaders, endHeaders, stream, head200+literal("content-length", "5"))
			p.frame(frameData, endStream, stream, good)
			p.serve(good)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			var faulty atomic.Bool
			s := listenH2(t, func(p *h2peer) {
				p.frame(frameSettings, 0, 0, "")
				for {
					stream, _, ok := p.request()
					if !ok {
						return
					}
					as.secret(p.form.Get("client_assertion"))
					if faulty.Swap(false) {
						tc.fault(p, stream, good)
						return
					}
					p.answer(stream, good)
				}
			})
			m := as.networked(s.url(), speakingH2(), phantom.WithMaxInFlight(1), phantom.WithTimeout(20*time.Second))
			if got := as.try(m, "first-token"); got != codeOK {
				t.Fatal(got)
			}
			faulty.Store(true)
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Errorf("%s, log:\n%s", got, as.logs.String())
			}
			if n := s.lookups.Load(); n > 3 {
				t.Errorf("%d attempts", n-1)
			}
			if got := as.try(m, "third-token"); got != codeOK {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// A server that refuses every stream is asked twice, not until the time is
// up.
//
// Catalogue: N271.
func TestHTTP2RefusalIsRetriedOnce(t *testing.T) {
	for _, tc := range []struct {
		name   string
		refuse func(p *h2peer, stream uint32)
	}{
		{"REFUSED_STREAM", func(p *h2peer, stream uint32) { p.frame(frameReset, 0, stream, uint32s(refusedStream)) }},
		{"GOAWAY", func(p *h2peer, _ uint32) { p.frame(frameGoAway, 0, 0, uint32s(0, 0)) }},
		{"PROTOCOL_ERROR", func(p *h2peer, stream uint32) { p.frame(frameReset, 0, stream, uint32s(1)) }},
		{"HTTP_1_1_REQUIRED", func(p *h2peer, stream uint32) { p.frame(frameReset, 0, stream, uint32s(http11Wanted)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			var mu sync.Mutex
			assertions := map[string]bool{}
			s := listenH2(t, func(p *h2peer) {
				p.frame(frameSettings, 0, 0, "")
				for {
					stream, _, ok := p.request()
					if !ok {
						return
					}
					mu.Lock()
					assertions[as.secret(p.form.Get("client_assertion"))] = true
					mu.Unlock()
					tc.refuse(p, stream)
				}
			})
			m := as.networked(s.url(), speakingH2(),
				phantom.WithClientAuth(phantom.PrivateKeyJWT(clientID, "k-1", "ES256", p256Key())))
			if got := as.try(m, "opaque-token"); got != code503A {
				t.Error(got)
			}
			n := s.lookups.Load()
			if n > 2 {
				t.Errorf("%d attempts", n)
			}
			if len(assertions) != int(n) {
				t.Errorf("%d assertions in %d attempts", len(assertions), n)
			}
		})
	}
}

const floodText = "a header that is sent over and over again, "

// hostileHTTP2 are what a server can do to an HTTP/2 connection.
var hostileHTTP2 = []struct {
	name  string
	hangs bool // until the time limit
	stays bool // the connection
	fault func(p *h2peer, good string)
}{
	{"SETTINGS_MAX_FRAME_SIZE 0", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(5, 0))
		p.request()
		p.wait()
	}}, // N273
	{"SETTINGS_MAX_FRAME_SIZE 0 later", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.frame(frameSettings, 0, 0, setting(5, 0))
		p.wait()
	}}, // N273
	{"SETTINGS_MAX_FRAME_SIZE too large", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(5, 1<<24))
		p.wait()
	}},
	{"SETTINGS_INITIAL_WINDOW_SIZE too large", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(4, 1<<31))
		p.wait()
	}},
	{"SETTINGS_INITIAL_WINDOW_SIZE 0", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(4, 0))
		p.wait()
	}},
	{"SETTINGS_MAX_CONCURRENT_STREAMS 0", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(3, 0))
		p.wait()
	}},
	{"SETTINGS_HEADER_TABLE_SIZE huge", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, setting(1, 1<<32-1))
		p.wait()
	}},
	{"no SETTINGS", true, false, func(p *h2peer, _ string) { p.wait() }},
	{"silent", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.wait()
	}},
	{"HTTP/1.1 after all", false, false, func(p *h2peer, good string) {
		p.send(rawAnswer(200, "application/jwt", good))
		p.wait()
	}},
	{"header flood in one block", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, 0, stream, head200)
		for p.frame(frameContinuation, 0, stream, strings.Repeat(literal("x-flood", floodText), 100)) {
		}
	}}, // N273
	{"header flood of empty frames", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, 0, stream, head200)
		p.flood(strings.Repeat(h2frame(frameContinuation, 0, stream, ""), 100))
	}}, // N273
	{"a header of 10 MiB from a few bytes", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		// Stored once in the table, then named again and again.
		entry := "\x40" + hpackLength(6) + "x-bomb" + hpackLength(4000) + strings.Repeat("x", 4000)
		p.frame(frameHeaders, endHeaders|endStream, stream, "\x88"+entry+strings.Repeat("\xbe", 2600))
		p.wait()
	}}, // N273
	{"interim answers without end", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.flood(h2frame(frameHeaders, endHeaders, stream, head103))
	}}, // A106
	{"1,000 interim answers", true, false, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.send(strings.Repeat(h2frame(frameHeaders, endHeaders, stream, head103), 1000))
		p.answer(stream, good)
		p.wait()
	}}, // A106
	{"PING flood", true, true, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.flood(h2frame(framePing, 0, 0, "12345678"))
	}}, // N273
	{"PING flood, acknowledged", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		go p.wait()
		p.flood(h2frame(framePing, 0, 0, "12345678"))
	}}, // N273
	{"PING flood from the beginning", true, true, func(p *h2peer, _ string) {
		p.flood(h2frame(frameSettings, 0, 0, "") + h2frame(framePing, 0, 0, "12345678"))
	}}, // N273
	{"SETTINGS flood", true, true, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.flood(h2frame(frameSettings, 0, 0, setting(3, 100)))
	}},
	{"WINDOW_UPDATE flood", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		for range 2_000_000 { // no more fit into the window
			if !p.send(strings.Repeat(h2frame(frameWindow, 0, 0, uint32s(1)), 1000)) {
				return
			}
		}
	}},
	{"RST_STREAM flood", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.flood(h2frame(frameReset, 0, stream-2, uint32s(8)))
	}},
	{"unknown frames without end", true, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.flood(h2frame(0xee, 0, 0, floodText))
	}},
	{"empty DATA without end", true, true, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders, stream, head200)
		p.flood(h2frame(frameData, 0, stream, ""))
	}},
	{"DATA drips", true, true, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders, stream, head200)
		for p.frame(frameData, 0, stream, "x") {
			time.Sleep(5 * time.Millisecond)
		}
	}}, // A91
	{"all but the end", true, true, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders, stream, head200)
		p.frame(frameData, 0, stream, good)
		p.wait()
	}},
	{"WINDOW_UPDATE overflow", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.frame(frameWindow, 0, 0, uint32s(1<<31-1))
		p.wait()
	}},
	{"a push", false, false, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(framePush, endHeaders, stream, uint32s(2)+"\x82\x84\x87")
		p.answer(2, good)
		p.wait()
	}},
	{"a frame larger than allowed", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		p.request()
		p.send("\xff\xff\xff\x00\x00\x00\x00\x00\x01")
		p.wait()
	}},
	{"an answer without a status", false, false, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders, stream, literal("content-type", "application/jwt"))
		p.frame(frameData, endStream, stream, good)
	}},
	{"an answer with two status codes", false, false, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders, stream, "\x88\x8d"+literal("content-type", "application/jwt"))
		p.frame(frameData, endStream, stream, good)
	}},
	{"a header block that cannot be decoded", false, false, func(p *h2peer, _ string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameHeaders, endHeaders|endStream, stream, "\xff\xff\xff\xff\xff\xff\xff")
		p.wait()
	}},
	{"DATA before HEADERS", true, false, func(p *h2peer, good string) {
		p.frame(frameSettings, 0, 0, "")
		stream, _, _ := p.request()
		p.frame(frameData, endStream, stream, good)
		p.wait()
	}},
}

// A hostile server cannot hold a lookup beyond its deadline. The connection
// ends as well, unless the transport cannot finish with it: it waits for the
// rest of an answer, or for the server to read.
func TestHTTP2HostileServerHoldsNoLookup(t *testing.T) {
	for _, tc := range hostileHTTP2 {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			var healthy atomic.Bool
			s := listenH2(t, func(p *h2peer) {
				if healthy.Load() {
					p.frame(frameSettings, 0, 0, "")
					p.serve(good)
					return
				}
				tc.fault(p, good)
			})
			limit := 20 * time.Second
			if tc.hangs {
				limit = 150 * time.Millisecond
			}
			m := as.networked(s.url(), speakingH2(), phantom.WithTimeout(limit), phantom.WithMaxInFlight(1))
			begin := time.Now()
			if got := as.try(m, "opaque-token"); got != code503A {
				t.Errorf("%s, log:\n%s", got, as.logs.String())
			}
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("took %v", took)
			}
			if n := s.lookups.Load(); n > 2 {
				t.Errorf("%d attempts", n)
			}
			if tc.stays {
				return
			}
			opened, occasion := s.opened.Load(), time.Now().Add(time.Second)
			eventually(t, "the connection given up", func() bool {
				if time.Now().After(occasion) { // the next lookup over it is its last
					_ = statusOf(m, "another-token")
					occasion = time.Now().Add(time.Second)
				}
				return s.open.Load() == 0 || s.opened.Load() > opened
			})
			healthy.Store(true)
			as.recovers(m, tc.hangs)
		})
	}
}

// The client gives up a connection on which no lookup is answered any more,
// even if its other end is alive.
//
// Catalogue: N274.
func TestHTTP2StuckConnectionIsGivenUp(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stuck func(p *h2peer)
	}{
		{"silent", func(p *h2peer) { p.wait() }},
		{"alive", func(p *h2peer) {
			for {
				if _, _, ok := p.request(); !ok {
					return
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			s := listenH2(t, func(p *h2peer) {
				p.frame(frameSettings, 0, 0, "")
				if p.nth > 1 {
					p.serve(good)
					return
				}
				stream, _, _ := p.request()
				p.answer(stream, good)
				tc.stuck(p)
			})
			m := as.networked(s.url(), speakingH2(), phantom.WithTimeout(100*time.Millisecond))
			as.recovers(m, true)
			for s.opened.Load() == 1 { // the first connection was good for one lookup
				m.Forget("opaque-token")
				as.recovers(m, true)
			}
		})
	}
}

// The library's own transport gives each lookup a connection to itself, also
// with servers that can do more.
func TestOwnTransportSpeaksHTTP1(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			t.Errorf("HTTP/%d", r.ProtoMajor)
		}
		wait(5*time.Millisecond, answerJWT(good))(w, r)
	}
	base, opened, _ := as.serveTLS()
	m := as.networked(base, phantom.WithTimeout(30*time.Second), phantom.WithMaxInFlight(8))
	served := func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }
	if failed := together(200, served); failed != 0 {
		t.Errorf("%d failed, log:\n%s", failed, as.logs.String())
	}
	if n := opened.Load(); n > 8 {
		t.Errorf("%d connections", n)
	}
}

// Over HTTP/2, too, lookups at once stay within the cap.
//
// Catalogue: N278.
func TestHTTP2ConcurrentLookupsStayWithinTheCap(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	as.introspect = wait(5*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("HTTP/%d", r.ProtoMajor)
		}
		answerJWT(good)(w, r)
	})
	base, opened, _ := as.serveTLS()
	m := as.networked(base, speakingH2(), phantom.WithTimeout(30*time.Second))
	served := func(i int) bool { return statusOf(m, "opaque-token-"+strconv.Itoa(i)) == 200 }
	if failed := together(500, served); failed != 0 {
		t.Errorf("%d failed, log:\n%s", failed, as.logs.String())
	}
	if n := opened.Load(); n > 64 {
		t.Errorf("%d connections", n)
	}
	if n := as.peak.Load(); n > 64 {
		t.Errorf("%d at once", n)
	}
}
