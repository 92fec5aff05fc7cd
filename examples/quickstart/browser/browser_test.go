// Package browser tries the page of the quickstart in a real browser.
package browser

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// A window shows the page of a quickstart of its own.
type window struct {
	*testing.T

	ctx  context.Context
	url  string // of the page
	stop func() // ends the quickstart

	mu     sync.Mutex
	faults []string // what must not happen in a browser
}

// chromium returns the program. It is there wherever CI is set.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no chromium, chromium-browser or google-chrome in PATH"
	if os.Getenv("CI") != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// quickstart is the program, built once.
var quickstart = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "quickstart")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = ".." // another module
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := quickstart(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// serve starts the quickstart and returns the URL of its page.
func serve(t *testing.T) (page string, stop func()) {
	t.Helper()
	path, err := quickstart()
	if err != nil {
		t.Fatal(err)
	}
	program := exec.Command(path, "-serve")
	program.Stderr = os.Stderr
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = program.Process.Signal(os.Interrupt)
		if err := program.Wait(); err != nil {
			t.Error("the quickstart:", err)
		}
	})
	t.Cleanup(stop)
	lines := bufio.NewScanner(out)
	for said := ""; lines.Scan(); {
		said += lines.Text() + "\n"
		if found := regexp.MustCompile(`Open the page:\n\n  (\S+)\n`).FindStringSubmatch(said); found != nil {
			go func() {
				for lines.Scan() { // it blocks on a full pipe
				}
			}()
			return found[1], stop
		}
	}
	t.Fatal("the quickstart prints no page")
	return "", nil
}

// open opens the page in a browser of its own, which reaches this machine alone.
func open(t *testing.T) *window {
	t.Helper()
	w := &window{T: t}
	program := chromium(t)
	w.url, w.stop = serve(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it does not work for root
	}
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.do() // starts the browser, which lives as long as the context
	w.ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)

	if err := chromedp.Listen(w.ctx, w.watch); err != nil {
		t.Fatal(err)
	}
	call(w, runtime.Enable, cdp.Empty{})
	call(w, log.Enable, cdp.Empty{})
	call(w, network.Enable, network.EnableParams{})
	w.emulate("prefers-reduced-motion", "reduce") // so that what is clicked stands still
	w.do(chromedp.Navigate(w.url))
	w.await(`document.querySelector("#counters").children.length > 0`)
	return w
}

// watch notes what the page logs, and what it wants from elsewhere.
func (w *window) watch(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		w.faults = append(w.faults, "exception: "+e.ExceptionDetails.Text)
	case *runtime.EventConsoleAPICalled:
		w.faults = append(w.faults, fmt.Sprintf("console: %s", e.Type))
	case *log.EventEntryAdded:
		w.faults = append(w.faults, "log: "+e.Entry.Text+" "+e.Entry.URL)
	case *network.EventWebSocketCreated:
		w.faults = append(w.faults, "WebSocket: "+e.URL)
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(e.Request.URL); err != nil || u.Hostname() != "127.0.0.1" || u.Scheme != "http" {
			w.faults = append(w.faults, "request to "+e.Request.URL)
		}
	}
}

// blameless fails the test if the page logged anything or left the machine.
func (w *window) blameless() {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, fault := range w.faults {
		w.Error(fault)
	}
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.Helper()
	if err := chromedp.Do(w.ctx, steps...); err != nil {
		w.Fatal(err)
	}
}

func call[P, R any](w *window, command cdp.Command[P, R], params P) R {
	w.Helper()
	result, err := chromedp.Call(w.ctx, command, params)
	if err != nil {
		w.Fatal(command.Method, err)
	}
	return result
}

// eval returns the value of an expression in the page.
func eval[T any](w *window, expression string) T {
	w.Helper()
	value, err := chromedp.Run(w.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		w.Fatal(expression, err)
	}
	return value
}

// await waits until an expression is true. It asks from outside, as the page's
// policy forbids what the page itself would have to evaluate.
func (w *window) await(condition string) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !eval[bool](w, condition); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("not so: %s\n%s", condition, eval[string](w, `document.body.innerText`))
		}
	}
}

// text returns what an element shows, on one line.
func (w *window) text(id string) string {
	w.Helper()
	text := eval[string](w, fmt.Sprintf(`document.getElementById(%q).innerText`, id))
	return strings.Join(strings.Fields(text), " ")
}

// outcome waits for an act to be over.
func (w *window) outcome(title, outcome string) {
	w.Helper()
	w.await(fmt.Sprintf(`document.getElementById("act").innerText === %q &&
		document.getElementById("outcome").innerText === %q`, title, outcome))
}
