package conformance_test

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantom-token/phantom"
)

// blackHole returns an address at which connection requests vanish: that of a
// listener whose queue is full and stays so.
func blackHole(t *testing.T, address string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	raw := must(l.(*net.TCPListener).SyscallConn())
	if err := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for { // until one more gets no answer
		c, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return l.Addr()
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// The server's host swallows the connection request. The client gives up by
// the connect limit and does not try again.
//
// Catalogue: N267.
func TestBlackHoleIsGivenUpByTheConnectLimit(t *testing.T) {
	leaveNothing(t)
	as := newAS(t)
	attempts := 0
	m := as.networked("http://"+blackHole(t, "127.0.0.1:0").String(), phantom.WithTimeout(time.Minute),
		phantom.WithClientAuth(phantom.BearerToken(func(context.Context) (string, error) {
			attempts++
			return "credential", nil
		})))
	begin := time.Now()
	if got := as.try(m, "opaque-token"); got != code503A {
		t.Error(got)
	}
	// Connecting has a limit of its own, of one second, and is not tried again.
	if took := time.Since(begin); took < 900*time.Millisecond || took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if attempts != 1 {
		t.Errorf("%d attempts", attempts)
	}
	if as.logged("ERROR", "detail=timeout") != 1 {
		t.Errorf("log:\n%s", as.logs.String())
	}
}

// The client tries the second address family while the first is still
// silent.
//
// Catalogue: N284.
func TestSilentIPv6FallsBackToIPv4(t *testing.T) {
	resolve(t, func(string) ([]string, byte) { return []string{"::1", "127.0.0.1"}, 0 })
	leaveNothing(t)
	as := newAS(t)
	good := mint("ES256", claims(nil))
	s := listenTCP(t, func(p *peer) { p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) }) })
	blackHole(t, "[::1]:"+s.port())
	m := as.networked("http://as.example.test:"+s.port(), phantom.WithInsecureHTTP())
	if got := as.try(m, "opaque-token"); got != codeOK {
		t.Errorf("%s, log:\n%s", got, as.logs.String())
	}
}

// The server moves to another address. Connections to the old one must not
// keep lookups there, however many they are and however quietly the old
// address died.
//
// Catalogue: N274.
func TestAddressChangeIsFollowed(t *testing.T) {
	const idle = 8
	for _, tc := range []struct {
		name string
		dies func(s *tcpServer, dead *atomic.Bool)
		lost int // lookups at most
	}{
		{"closed", func(s *tcpServer, _ *atomic.Bool) { s.stop() }, 0},
		{"silent", func(_ *tcpServer, dead *atomic.Bool) { dead.Store(true) }, 3},
		{"no longer accepting", func(s *tcpServer, dead *atomic.Bool) { dead.Store(true); _ = s.Close() }, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var address atomic.Value
			address.Store("127.0.0.1")
			resolve(t, func(string) ([]string, byte) { return []string{address.Load().(string)}, 0 })
			leaveNothing(t)
			as := newAS(t)
			good := mint("ES256", claims(nil))
			var dead atomic.Bool
			arrived := make(chan struct{}, idle)
			allThere := make(chan struct{})
			old := listenTCP(t, func(p *peer) {
				for {
					if _, ok := p.request(); !ok {
						return
					}
					if dead.Load() {
						p.wait()
						return
					}
					arrived <- struct{}{}
					<-allThere
					p.send(rawAnswer(200, "application/jwt", good))
				}
			})
			m := as.networked("http://as.example.test:"+old.port(), phantom.WithInsecureHTTP(),
				phantom.WithTimeout(600*time.Millisecond))
			go func() {
				for range idle {
					<-arrived
				}
				close(allThere)
			}()
			if failed := together(idle, func(i int) bool { return statusOf(m, "old-"+strconv.Itoa(i)) == 200 }); failed > 0 {
				t.Fatalf("%d failed", failed)
			}
			listenAt(t, "127.0.0.2:"+old.port(), nil, func(p *peer) {
				p.serve(func(string) string { return rawAnswer(200, "application/jwt", good) })
			})
			tc.dies(old, &dead)
			address.Store("127.0.0.2")
			// One lookup finds out; a few more may begin before it has told the rest.
			lost := 0
			for i := range idle + 3 {
				if statusOf(m, "new-"+strconv.Itoa(i)) != 200 {
					lost++
				}
			}
			if lost > tc.lost {
				t.Errorf("%d lookups lost", lost)
			}
		})
	}
}
