package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The replicas of a test are processes of its own program.
func TestMain(m *testing.M) {
	if !isReplica() {
		os.Exit(m.Run())
	}
}

// engineOf returns an engine of the test's own. Without one to be had the test
// is skipped, unless PHANTOM_NEEDS_ENGINE says that it must run.
func engineOf(t *testing.T) *engine {
	t.Helper()
	if _, err := findEngine(); err != nil && os.Getenv("PHANTOM_NEEDS_ENGINE") == "" {
		t.Skip(err)
	}
	e, err := startEngine()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

// What does not depend on the machine's speed is as it should be in every run.
func TestCounts(t *testing.T) {
	r, err := measure(engineOf(t), "acdefg", shortSizes(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	r.print(&table)
	t.Log(table.String())

	wrong, violations := 0, 0
	for _, f := range r.Figures {
		switch {
		case strings.HasPrefix(f.Name, "wrong answers"):
			wrong++
		case strings.HasPrefix(f.Name, "violations"):
			violations++
		default:
			continue
		}
		if f.Value != 0 {
			t.Errorf("%s, store %t: %v %s", f.Case, f.Store, f.Value, f.Name)
		}
	}
	if wrong != 6 || violations != 4 {
		t.Errorf("wrong answers were counted %d times, violations %d", wrong, violations)
	}
	for _, tc := range []struct{ letter, name string }{
		{"d", "lookups after it"},
		{"d", "refused"},
		{"e", "not told within a second"},
	} {
		if v, ok := r.find(tc.letter, true, tc.name); !ok || v != 0 {
			t.Errorf("%s: %s: %v", tc.letter, tc.name, v)
		}
	}
}

// A rolling update costs no lookup of a token that one replica has asked about.
// A machine that stalls for 20 ms is a Store that is too slow, and costs some:
// one run of five must be without.
func TestRollingUpdateAsksOncePerToken(t *testing.T) {
	e := engineOf(t)
	const name = "lookups per token"
	var got float64
	for range 5 {
		r, err := measure(e, "b", shortSizes(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ = r.find("b", true, name); got == 0 || got >= 1.05 {
			continue
		}
		if without, _ := r.find("b", false, name); without < 1.25 {
			t.Errorf("%.2f without the store: it is not measured what is to be measured", without)
		}
		return
	}
	t.Errorf("%.2f lookups per token, want 1.0", got)
}

// The file has what the table has.
func TestReportIsWritten(t *testing.T) {
	r := &report{Date: "now", Cases: map[string]string{}}
	r.begin("a", "title", true)
	r.add("lookups per token", 1.25, "")
	file := filepath.Join(t.TempDir(), "figures.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := figure{"a", true, "lookups per token", 1.25, ""}
	if len(got.Figures) != 1 || got.Figures[0] != want || got.Cases["a"] != "title" || got.Date != "now" {
		t.Errorf("%s", text)
	}
	var table strings.Builder
	if r.print(&table); !strings.Contains(table.String(), "| lookups per token | – | 1.25 |") {
		t.Errorf("%s", table.String())
	}
}
