package conformance_test

import (
	"fmt"
	"log"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestMain takes what goes to the standard logger, net/http's complaints for
// the most part, and looks for secrets in it.
func TestMain(m *testing.M) {
	var said standardLog
	log.SetFlags(0)
	log.SetOutput(&said)
	code := m.Run()
	if len(said.leaks) > 0 {
		fmt.Fprintf(os.Stderr, "secrets in the standard log, in these lines among others: %q\n", said.leaks)
		code = 1
	}
	os.Exit(code)
}

// usedSecrets are all that tests called secret.
var usedSecrets sync.Map

var anyJWT = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}`)

// A standardLog keeps the lines with secrets, without these.
type standardLog struct {
	mu    sync.Mutex
	known map[string]bool // thousands of lines are the same
	leaks []string
}

func (l *standardLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := string(p)
	if l.known[line] {
		return len(p), nil
	}
	if l.known == nil || len(l.known) > 1000 {
		l.known = map[string]bool{}
	}
	l.known[line] = true
	shown := strings.ReplaceAll(anyJWT.ReplaceAllString(line, "<JWT>"), clientSecret, "<secret>")
	usedSecrets.Range(func(secret, _ any) bool {
		shown = strings.ReplaceAll(shown, secret.(string), "<secret>")
		return true
	})
	if shown != line {
		l.leaks = append(l.leaks[:min(len(l.leaks), 9)], shown)
	}
	return len(p), nil
}
