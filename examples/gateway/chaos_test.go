package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantom-token/phantom/phantomtest"
)

// An engine is a Valkey or Redis of the test's own.
type engine struct {
	t       *testing.T
	path    string
	address string
	cmd     *exec.Cmd
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, address: freeAddress(t)}
	for _, name := range []string{"valkey-server", "redis-server"} {
		if path, err := exec.LookPath(name); err == nil {
			e.path = path
		}
	}
	if e.path == "" {
		if os.Getenv("CI")+os.Getenv("PHANTOM_NEEDS_ENGINE") != "" {
			t.Fatal("neither valkey-server nor redis-server is installed, and it must be")
		}
		t.Skip("needs valkey-server or redis-server in the PATH")
	}
	e.start()
	t.Cleanup(e.kill)
	return e
}

func (e *engine) start() {
	e.t.Helper()
	_, port, _ := net.SplitHostPort(e.address)
	e.cmd = exec.Command(e.path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", e.t.TempDir())
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", e.address); err == nil {
			_ = conn.Close()
			return
		}
	}
	e.t.Fatal("the engine does not come up")
}

func (e *engine) kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// Replicas ask once for all of them, and forget together.
func TestReplicas(t *testing.T) {
	e, s := newEngine(t), newSite(t)
	changes := map[string]string{
		"store": e.address, "store-secret-file": write(t, s.secret(storeSecret)+"\n"),
		"dpop-origin": "https://api.test",
	}
	a, b := s.start(t, changes), s.start(t, changes)
	token := s.issue(nil)
	// A copy gets there once both are connected, and nobody waits for that.
	a.eventually(t, "a copy", func() bool {
		token = s.issue(nil)
		a.get(t, "/", token).served(t)
		time.Sleep(20 * time.Millisecond)
		asked := s.as.Introspections()
		b.get(t, "/", token).served(t)
		return s.as.Introspections() == asked
	})
	// A proof passes once at all of them.
	key := phantomtest.NewProofKey()
	bound := s.secret(s.as.IssueBound("jkt", key.Thumbprint(), nil))
	proof := s.secret(key.Sign(phantomtest.Proof{Method: "GET", URI: changes["dpop-origin"] + "/", Token: bound}))
	a.do(t, http.MethodGet, "/", "", "Authorization", "DPoP "+bound, "DPoP", proof).served(t)
	if again := b.do(t, http.MethodGet, "/", "", "Authorization", "DPoP "+bound, "DPoP", proof); again.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d for a proof that the other replica has seen", again.StatusCode)
	}
	s.as.Revoke(token)
	a.get(t, "/", token).served(t)
	b.get(t, "/", token).served(t)
	if answer := post(t, a.forget+"/forget", map[string][]string{"token": {token}}); answer.StatusCode != http.StatusNoContent {
		t.Fatalf("status %d", answer.StatusCode)
	}
	b.eventually(t, "end of the token at the other replica", func() bool {
		return b.get(t, "/", token).StatusCode == http.StatusUnauthorized
	})

	e.kill()
	other := s.issue(nil)
	a.get(t, "/", other).served(t)
	if answer := post(t, a.forget+"/forget", map[string][]string{"token": {other}}); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d when the other replicas cannot be told", answer.StatusCode)
	}
}

// Under load the server is slow, fails, is gone and comes back, its keys change
// and the store is killed. Each request has one answer: what the upstream says
// of the right user, or a rejection that fits. What the upstream was asked was
// answered, in the end also when the gateway stops. Afterwards all is well.
func TestChaos(t *testing.T) {
	e, s := newEngine(t), newSite(t)
	const users = 8
	tokens := make([]atomic.Pointer[string], users)
	renew := func() {
		for i := range tokens {
			token := s.issue(map[string]any{"sub": fmt.Sprint("user-", i)})
			tokens[i].Store(&token)
		}
	}
	renew()
	var reached, answered atomic.Int64
	s.upstream.handler.be(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, subjectOf(bearer(r)), " ", string(body))
	})
	g := s.start(t, map[string]string{
		"store": e.address, "store-secret-file": write(t, s.secret(storeSecret)), "max-ttl": "1s", "timeout": "500ms", "drain": "1s",
	})

	var stop atomic.Bool
	var load sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for i := range users {
		load.Go(func() {
			for n := 0; !stop.Load(); n++ {
				body := fmt.Sprint("request-", i, "-", n)
				req, _ := http.NewRequest(http.MethodPost, g.url+"/", strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+*tokens[i].Load())
				resp, err := client.Do(req)
				if err != nil {
					if !stop.Load() {
						t.Errorf("%s has no answer: %v", body, err)
					}
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				mu.Lock()
				statuses[resp.StatusCode]++
				mu.Unlock()
				switch resp.StatusCode {
				case http.StatusOK:
					answered.Add(1)
					if want := fmt.Sprint("user-", i, " ", body); err != nil || string(got) != want {
						t.Errorf("%q, %v; want %q", got, err, want)
					}
				case http.StatusUnauthorized, http.StatusBadGateway, http.StatusServiceUnavailable:
					time.Sleep(time.Millisecond)
				default:
					t.Errorf("status %d: %s", resp.StatusCode, got)
				}
				if resp.Close && resp.StatusCode == http.StatusOK { // the gateway is stopping
					return
				}
			}
		})
	}
	count := func(status int) int {
		mu.Lock()
		defer mu.Unlock()
		return statuses[status]
	}
	works := func(t *testing.T) {
		t.Helper()
		before := count(http.StatusOK)
		g.eventually(t, "answers of the upstream", func() bool { return count(http.StatusOK) > before+20*users })
	}
	works(t)
	gone := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	for _, trouble := range []struct {
		name        string
		begin, end  func()
		isRejecting bool
	}{
		{"slow", func() { s.as.Delay(100 * time.Millisecond) }, func() { s.as.Delay(0) }, false},
		{"failing", func() { s.as.Fail(http.StatusServiceUnavailable, 1_000_000) }, func() { s.as.Fail(http.StatusServiceUnavailable, 0) }, true},
		{"gone", func() { s.asServer.be(gone) }, func() { s.asServer.be(s.as.ServeHTTP) }, true},
		{"store killed", e.kill, e.start, false},
		{"keys rotated", func() { s.as.RotateKeys(); renew() }, func() {}, false},
	} {
		rejected := count(http.StatusServiceUnavailable)
		trouble.begin()
		renew()
		if trouble.isRejecting {
			g.eventually(t, "rejections while the server is "+trouble.name, func() bool { return count(http.StatusServiceUnavailable) > rejected })
		} else if trouble.name != "keys rotated" { // keys are fetched again after a while
			works(t)
		}
		trouble.end()
		begin := time.Now()
		for ok := false; !ok; {
			before := count(http.StatusOK)
			time.Sleep(100 * time.Millisecond)
			if ok = count(http.StatusOK) > before+users; !ok && time.Since(begin) > 2*patience {
				t.Fatalf("%s: no recovery; statuses %v\n%s", trouble.name, statuses, &g.stdout)
			}
		}
	}
	renew()
	works(t)

	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	if code := g.wait(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	stop.Store(true)
	load.Wait()
	if reached.Load() != answered.Load() {
		t.Errorf("the upstream was asked %d times, and clients have %d of the answers", reached.Load(), answered.Load())
	}
	t.Logf("statuses %v", statuses)
}
