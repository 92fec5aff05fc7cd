package conformance_test

import (
	"io"
	"log"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

const (
	bareHead  = "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n"
	earlyHint = "HTTP/1.1 103 Early Hints\r\n"
)

// connectionFaults are what a server can do to a connection and an answer.
var connectionFaults = []struct {
	name     string
	want     string
	attempts int64 // at most; 0: the client is gone before
	hangs    bool  // until the time limit
	fault    func(p *peer, good string)
}{
	// Connections that end before the answer does.
	{"closed before the request is read", code503A, 0, false, func(*peer, string) {}},                   // N268
	{"closed after the request", code503A, 2, false, func(p *peer, _ string) { p.request() }},           // N268
	{"reset after the request", code503A, 2, false, func(p *peer, _ string) { p.request(); p.reset() }}, // N268
	// What the client has read when the reset arrives is a matter of luck.
	{"reset in the middle of the body", code503A, 2, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: 5000\r\n\r\n" + good)
		p.reset()
	}}, // N269
	{"short body", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: 5000\r\n\r\n" + good)
	}}, // N269
	{"short by one byte", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good[1:])
	}}, // N269

	// Bodies that lack their end, or are framed wrongly.
	{"JSON without its last chunk", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + chunkOf(activeJSON(good)))
	}}, // N270
	{"inactive without its last chunk", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(chunkedHead + chunkOf(`{"active":false}`))
	}}, // N270
	{"cut inside the last chunk", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + chunkOf(activeJSON(good)) + "0\r\n")
	}}, // N270
	{"JWT without its last chunk", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(strings.Replace(chunkedHead, "json", "jwt", 1) + chunkOf(good))
	}}, // N270
	{"a chunk's size is no number", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + chunkOf(activeJSON(good)) + "zz\r\n")
		p.wait()
	}},
	{"a chunk larger than it says", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + "5\r\n" + activeJSON(good) + "\r\n0\r\n\r\n")
		p.wait()
	}},
	{"endless chunk extensions", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(chunkedHead)
		p.flood("1;" + strings.Repeat("x", 2000) + "\r\n \r\n")
	}},
	{"endless trailer", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + chunkOf(activeJSON(good)) + "0\r\n")
		p.flood("X-Trailer: " + strings.Repeat("x", 2000) + "\r\n")
	}},

	// Answers that are no HTTP, or not enough of it.
	{"status line broken off", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("HTTP/1.1 2")
	}},
	{"header broken off", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Len")
	}},
	{"not HTTP", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("SSH-2.0-OpenSSH_9.9\r\n")
		p.wait()
	}},
	{"a TLS alert in plain text", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("\x15\x03\x01\x00\x02\x02\x46")
	}},
	{"no status code", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send("HTTP/1.1 abc\r\n\r\n")
		p.wait()
	}},
	{"a header line without a colon", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "nonsense\r\nContent-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good)
		p.wait()
	}},
	{"two lengths", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: " + strconv.Itoa(len(good)) + "\r\nContent-Length: 5\r\n\r\n" + good)
		p.wait()
	}},
	{"negative length", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: -1\r\n\r\n" + good)
		p.wait()
	}},
	{"unknown transfer coding", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunkOf(good) + chunkOf(""))
		p.wait()
	}},
	// An upgraded connection has no end and obeys no deadline.
	{"status 101", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		p.wait()
	}},
	{"status 101 with a JWT behind it", code502A, 1, false, func(p *peer, good string) {
		p.request()
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n" +
			"Content-Type: application/jwt\r\n\r\n" + good)
		p.wait()
	}},
	{"status 600, which is none (RFC 9110 section 15)", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(strings.Replace(rawAnswer(200, "application/jwt", good), "200 OK", "600 Odd", 1))
	}},

	// Bodies that are too large.
	{"one byte too many, announced", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "Content-Length: 65537\r\n\r\n")
		p.sendMany(64<<10 + 1)
		p.wait()
	}}, // A90
	{"one byte too many, chunked", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(chunkedHead + chunkOf(strings.Repeat(" ", 64<<10)) + chunkOf("x") + chunkOf(""))
	}}, // A90
	{"5 MiB", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "Content-Length: 5242880\r\n\r\n")
		if p.sendMany(5 << 20) {
			p.wait()
		}
	}}, // A90
	{"endless, announced", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "Content-Length: 10000000000\r\n\r\n")
		p.flood("x")
	}}, // A90
	{"announced and never sent", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "Content-Length: 10000000000\r\n\r\n")
		p.wait()
	}}, // A90
	{"endless, chunked", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(chunkedHead)
		p.flood(chunkOf("x"))
	}}, // A90
	{"endless, to the end of the connection", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "\r\n")
		p.flood("x")
	}}, // A90
	{"endless, of an error", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("HTTP/1.1 404 Not Found\r\n\r\n")
		p.flood("x")
	}}, // A90
	{"a redirect, endless", code502A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\n\r\n")
		p.flood("x")
	}}, // A96

	// Answers that take too long.
	{"body drips", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.send(bareHead + "Content-Length: 60000\r\n\r\n")
		p.drip("x")
	}}, // A91
	{"chunks drip", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead)
		p.drip(chunkOf("x"))
	}}, // A91
	{"header drips", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.send(bareHead)
		p.drip("X-Header: x\r\n")
	}}, // A91
	{"status line drips", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.send("HTTP/1.1 200 ")
		p.drip("O")
	}}, // A91
	{"nothing is ever sent", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.wait()
	}}, // A92
	{"nothing is ever read", code503A, 0, true, func(p *peer, _ string) {
		for p.in.Buffered() == 0 {
			if _, err := p.in.Peek(1); err != nil {
				return
			}
		}
		p.wait()
	}}, // A92
	{"all but the end", code503A, 1, true, func(p *peer, good string) {
		p.request()
		p.send(chunkedHead + chunkOf(activeJSON(good)))
		p.wait()
	}},

	// Headers and interim answers that are too many.
	{"1,000 interim answers", code503A, 1, false, func(p *peer, good string) {
		p.request()
		p.send(strings.Repeat(earlyHint+"\r\n", 1000) + rawAnswer(200, "application/jwt", good))
		p.wait()
	}}, // A106
	{"interim answers without end", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.flood(earlyHint + "Link: </style.css>; rel=preload\r\n\r\n")
	}}, // A106
	{"interim answers drip", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		for p.send(earlyHint + "\r\n") {
			time.Sleep(time.Millisecond)
		}
	}}, // A106
	{"20 MiB of header in one line", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead + "X-Header: ")
		if p.sendMany(20 << 20) {
			p.server.tb.Error("all of it was read")
		}
	}}, // A106
	{"20 MiB of header in many lines", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send(bareHead)
		p.flood("X-Header: " + strings.Repeat("x", 1000) + "\r\n")
	}}, // A106
	{"an endless status line", code503A, 1, false, func(p *peer, _ string) {
		p.request()
		p.send("HTTP/1.1 200 ")
		p.flood("x")
	}}, // A106
}

// Each fault of a connection or an answer has its outcome, costs at most two
// attempts, and leaves nothing behind. There is one place for lookups: the
// next lookup of the same token shows that the place is free, the connection
// is closed or fit for use, and the fault is not remembered.
func TestConnectionFaultsLeaveNothingBehind(t *testing.T) {
	for _, tc := range connectionFaults {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			var healthy atomic.Bool
			s := listenTCP(t, func(p *peer) {
				if healthy.Load() {
					p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
					return
				}
				tc.fault(p, good)
			})
			limit := 20 * time.Second
			if tc.hangs {
				limit = 150 * time.Millisecond
			}
			m := as.networked(s.url(), phantom.WithTimeout(limit), phantom.WithMaxInFlight(1))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			if got := as.try(m, "opaque-token"); got != tc.want {
				t.Error(got)
			}
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			if n := s.lookups.Load(); n > tc.attempts || n == 0 && tc.attempts > 0 {
				t.Errorf("%d attempts", n)
			}
			if took > 15*time.Second || tc.hangs && took < limit {
				t.Errorf("took %v", took)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes allocated", grown)
			}
			// The client gives the connection up by itself: the scripts wait for that.
			eventually(t, "all connections closed", func() bool { return s.open.Load() == 0 })
			if as.logged("ERROR", "") != 1 {
				t.Errorf("log:\n%s", as.logs.String())
			}
			healthy.Store(true)
			as.recovers(m, tc.hangs)
		})
	}
}

// An answer that is complete is an answer, in every form that HTTP gives it.
func TestCompleteAnswerCountsInAnyForm(t *testing.T) {
	for _, tc := range []struct {
		name   string
		want   string
		answer func(good string) string
	}{
		{"to the end of the connection", codeOK, func(good string) string {
			return "HTTP/1.1 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good
		}},
		{"HTTP/1.0", codeOK, func(good string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/jwt\r\n\r\n" + good
		}},
		{"HTTP/1.0, inactive", code401T, func(string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"active":false}`
		}},
		{"JSON cut at the end of the connection", code502A, func(string) string {
			return "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"active":false`
		}},
		{"chunks of one byte", codeOK, func(good string) string {
			var b strings.Builder
			for i := range good {
				b.WriteString(chunkOf(good[i : i+1]))
			}
			return strings.Replace(chunkedHead, "json", "jwt", 1) + b.String() + chunkOf("")
		}},
		{"chunked with a trailer", codeOK, func(good string) string {
			return strings.Replace(chunkedHead, "Transfer", "Trailer: Content-Type\r\nTransfer", 1) +
				chunkOf(activeJSON(good)) + "0\r\nContent-Type: text/html\r\n\r\n"
		}},
		{"one early hint", codeOK, func(good string) string {
			return earlyHint + "Link: </style.css>; rel=preload\r\n\r\n" + rawAnswer(200, "application/jwt", good)
		}},
		{"100 Continue unasked", codeOK, func(good string) string {
			return "HTTP/1.1 100 Continue\r\n\r\n" + rawAnswer(200, "application/jwt", good)
		}},
		{"a header of 60 KiB", codeOK, func(good string) string {
			return "HTTP/1.1 200 OK\r\nX-Header: " + strings.Repeat("x", 60<<10) + "\r\nContent-Type: application/jwt\r\n" +
				"Content-Length: " + strconv.Itoa(len(good)) + "\r\n\r\n" + good
		}},
		{"a body of 64 KiB", codeOK, func(good string) string {
			body := activeJSON(good)
			return rawAnswer(200, "application/json", body+strings.Repeat(" ", 64<<10-len(body)))
		}},
		{"a body of 64 KiB, chunked", codeOK, func(good string) string {
			body := activeJSON(good)
			return chunkedHead + chunkOf(body) + chunkOf(strings.Repeat(" ", 64<<10-len(body))) + chunkOf("")
		}},
		{"a line feed alone at the end of each line", codeOK, func(good string) string {
			return strings.ReplaceAll(rawAnswer(200, "application/jwt", good), "\r\n", "\n")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			good := as.secret(mint("ES256", claims(nil)))
			s := listenTCP(t, func(p *peer) {
				p.request()
				p.send(tc.answer(good))
				p.tcp.CloseWrite()
				p.wait()
			})
			if got := as.try(as.networked(s.url()), "opaque-token"); got != tc.want {
				t.Errorf("%s, log:\n%s", got, as.logs.String())
			}
			if n := s.lookups.Load(); n != 1 {
				t.Errorf("%d attempts", n)
			}
		})
	}
}

// A server may answer as soon as it has seen the header. Each lookup still
// gets the answer to its own request.
//
// Catalogue: N283.
func TestEarlyAnswerGoesToItsOwnRequest(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after func(p *peer, rest io.Reader) (more bool)
	}{
		{"read then", func(_ *peer, rest io.Reader) bool { _, _ = io.Copy(io.Discard, rest); return true }},
		{"then closed", func(p *peer, _ io.Reader) bool { _ = p.tcp.CloseWrite(); p.wait(); return false }},
		{"a while later", func(p *peer, rest io.Reader) bool {
			time.Sleep(time.Millisecond)
			_, _ = io.Copy(io.Discard, rest)
			return true
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			jwts := map[string]string{}
			for i := range 20 {
				user := "user-" + strconv.Itoa(i)
				jwts["token-of-"+user] = mint("ES256", claims(map[string]any{"sub": user}))
			}
			s := listenTCP(t, func(p *peer) {
				for more := true; more; {
					r, err := http.ReadRequest(p.in)
					if err != nil {
						return
					}
					body := must(p.in.Peek(int(r.ContentLength))) // which leaves it where it is
					form, _ := url.ParseQuery(string(body))
					p.send(rawAnswer(200, "application/jwt", jwts[form.Get("token")]))
					more = tc.after(p, r.Body)
				}
			})
			m := as.networked(s.url())
			for range 5 {
				for token := range jwts {
					tok, err := m.Verify(t.Context(), token)
					if err != nil {
						t.Fatal(err)
					}
					if "token-of-"+tok.Subject() != token {
						t.Fatalf("%s got the answer of %s", token, tok.Subject())
					}
					m.Forget(token)
				}
			}
		})
	}
}

// The client gives up a connection on which the server says more than it was
// asked. Otherwise the surplus would answer the next request.
//
// Catalogue: N283.
func TestConnectionWithMoreThanOneAnswerIsGivenUp(t *testing.T) {
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // net/http complains there
	good := mint("ES256", claims(nil))
	stranger := rawAnswer(200, "application/jwt", mint("ES256", claims(map[string]any{"sub": "mallory"})))
	for _, tc := range []struct {
		name         string
		answer, want string
	}{
		{"behind a JWT", rawAnswer(200, "application/jwt", good) + stranger, codeOK},
		{"behind no body", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" + stranger, code502A},
		{"behind a 204", "HTTP/1.1 204 No Content\r\n\r\n" + stranger, code401T},
		{"in the body of a 204", "HTTP/1.1 204 No Content\r\nContent-Length: " + strconv.Itoa(len(stranger)) + "\r\n\r\n" + stranger, code401T},
		{"behind the last chunk", chunkedHead + chunkOf(`{"active":false}`) + chunkOf("") + stranger, code401T},
		{"noise", rawAnswer(200, "application/jwt", good) + "\r\n\r\nnoise", codeOK},
		{"an interim answer", rawAnswer(200, "application/jwt", good) + "HTTP/1.1 103 Early Hints\r\n\r\n", codeOK},
		{"length and last chunk", strings.Replace(chunkedHead, "Transfer", "Content-Length: 5\r\nTransfer", 1) + chunkOf(`{"active":false}`) + chunkOf("") + stranger, code401T},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaveNothing(t)
			as := newAS(t)
			s := listenTCP(t, func(p *peer) {
				p.request()
				p.send(tc.answer)
				p.wait()
			})
			m := as.networked(s.url())
			for i := range 3 {
				if got := as.try(m, "opaque-token-"+strconv.Itoa(i)); got != tc.want {
					t.Errorf("%s, log:\n%s", got, as.logs.String())
				}
				eventually(t, "the connection closed", func() bool { return s.open.Load() == 0 })
			}
		})
	}
}
