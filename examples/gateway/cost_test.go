package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bareVariable has the test's own program be a bare proxy in front of a URL, at
// the address of the gateway's variable.
const bareVariable = "BARE_PROXY_OF"

// serveBare is httputil.ReverseProxy as it comes, with as many connections.
func serveBare(upstream string) {
	target, err := url.Parse(upstream)
	if err != nil {
		panic(err)
	}
	panic(http.ListenAndServe(os.Getenv(variable("listen")), &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
	}))
}

// BenchmarkAddedCPU measures what the gateway costs beyond a bare proxy: user
// and system time of each process for b.N requests of 8 clients with a token
// that is in the cache, without an access log. The processes take turns, and
// the figures are medians of 5.
//
// Between them stands the gateway with a path that needs no token. It has all
// that a bare proxy lacks, such as limits of time, except phantom: what the
// token costs is the rest.
//
//	go -C examples/gateway test -run '^$' -bench AddedCPU -benchtime 100000x
func BenchmarkAddedCPU(b *testing.B) {
	s := newSite(b)
	s.upstream.handler.be(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
	request := "GET /orders/7?page=2 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: application/json\r\n" +
		"Accept-Encoding: gzip\r\nAccept-Language: en\r\nX-Request-Id: 1\r\nAuthorization: Bearer " + s.issue(nil) + "\r\n\r\n"
	own, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	gateway := func(more ...string) (*exec.Cmd, []string) {
		args := []string{"-upstream", s.upstream.URL, "-issuer", s.issuer, "-audience", audience, "-client-id", clientID,
			"-log-level", "warn", "-max-ttl", "1h", "-drain", "1ms"}
		return exec.Command(binary, append(args, more...)...), []string{"PHANTOM_CLIENT_SECRET=" + clientSecret,
			"PHANTOM_HEALTH_LISTEN=127.0.0.1:0", "PHANTOM_FORGET_LISTEN=127.0.0.1:0", "PHANTOM_METRICS_LISTEN=127.0.0.1:0"}
	}
	proxies := []func() (*exec.Cmd, []string){
		func() (*exec.Cmd, []string) { return exec.Command(own), []string{bareVariable + "=" + s.upstream.URL} },
		func() (*exec.Cmd, []string) { return gateway("-public-paths", "/orders/7") },
		func() (*exec.Cmd, []string) { return gateway() },
	}
	const rounds = 5
	times := make([][]time.Duration, len(proxies))
	for range rounds {
		for i, proxy := range proxies {
			command, env := proxy()
			times[i] = append(times[i], cpuTime(b, request, command, env...))
		}
	}
	each := make([]float64, len(proxies))
	for i := range times {
		slices.Sort(times[i])
		each[i] = float64(times[i][rounds/2].Nanoseconds()) / float64(b.N) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each[0], "bare-µs/req")
	b.ReportMetric(each[2], "gateway-µs/req")
	b.ReportMetric(each[2]-each[0], "added-µs/req")
	b.ReportMetric(each[2]-each[1], "token-µs/req")
}

// cpuTime starts a proxy, sends it b.N requests and returns the time of its
// processors for these, less what its start took.
func cpuTime(b *testing.B, request string, proxy *exec.Cmd, env ...string) time.Duration {
	b.Helper()
	address := freeAddress(b)
	proxy.Env, proxy.Stderr = append(env, variable("listen")+"="+address), os.Stderr
	if err := proxy.Start(); err != nil {
		b.Fatal(err)
	}
	defer proxy.Process.Kill()
	send(b, address, request, 1)
	before := spent(b, proxy.Process.Pid)
	var all sync.WaitGroup
	const clients = 8
	for i := range clients {
		all.Go(func() { send(b, address, request, (b.N+i)/clients) })
	}
	all.Wait()
	_ = proxy.Process.Signal(syscall.SIGTERM)
	_ = proxy.Wait()
	return proxy.ProcessState.UserTime() + proxy.ProcessState.SystemTime() - before
}

// send sends n requests over one connection.
func send(b *testing.B, address, request string, n int) {
	var conn net.Conn
	var err error
	for begin := time.Now(); conn == nil; time.Sleep(time.Millisecond) {
		if conn, err = net.Dial("tcp", address); err != nil && time.Since(begin) > patience {
			b.Error(err)
			return
		}
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range n {
		_, _ = io.WriteString(conn, request)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Errorf("response %v, error %v", resp, err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// spent is the time that a process has used so far, in hundredths of a second.
func spent(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0 // not on Linux: then the start counts, too
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var user, system int
	if _, err := fmt.Sscan(strings.Join(strings.Fields(rest)[11:13], " "), &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
