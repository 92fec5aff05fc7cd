package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A figure is what was measured.
type figure struct {
	Case  string  `json:"case"`
	Store bool    `json:"store"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// A report collects figures.
type report struct {
	Date    string            `json:"date"`
	Go      string            `json:"go"`
	Machine string            `json:"machine"`
	Engine  string            `json:"engine"`
	Cases   map[string]string `json:"cases"` // what each case is
	Figures []figure          `json:"figures"`

	inCase    string // that figures are added to
	withStore bool
}

func newReport(e *engine) *report {
	return &report{
		Date: time.Now().UTC().Format(time.RFC3339), Go: runtime.Version(), Machine: machine(), Engine: e.version(),
		Cases: map[string]string{},
	}
}

// machine returns for example "linux/amd64, 2 processors, AMD EPYC".
func machine() string {
	name := fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return name + ", " + strings.TrimSpace(value)
		}
	}
	return name
}

// begin has the next figures added to a case.
func (r *report) begin(letter, title string, withStore bool) {
	r.inCase, r.withStore = letter, withStore
	r.Cases[letter] = title
}

func (r *report) add(name string, value float64, unit string) {
	r.Figures = append(r.Figures, figure{r.inCase, r.withStore, name, value, unit})
}

// find returns the value of a figure.
func (r *report) find(letter string, withStore bool, name string) (float64, bool) {
	for _, f := range r.Figures {
		if f.Case == letter && f.Store == withStore && f.Name == name {
			return f.Value, true
		}
	}
	return 0, false
}

// write writes the report as JSON.
func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// print prints the figures as a table.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %s, %s, %s\n\n", r.Date, r.Go, r.Engine, r.Machine)
	fmt.Fprintf(w, "| four replicas | without | with the store |\n| --- | --- | --- |\n")
	var seen []string
	for _, f := range r.Figures {
		if slices.Contains(seen, f.Case+f.Name) {
			continue
		}
		if !slices.ContainsFunc(seen, func(row string) bool { return strings.HasPrefix(row, f.Case) }) {
			fmt.Fprintf(w, "| **(%s) %s** | | |\n", f.Case, r.Cases[f.Case])
		}
		seen = append(seen, f.Case+f.Name)
		fmt.Fprintf(w, "| %s | %s | %s |\n", f.Name, r.cell(f, false), r.cell(f, true))
	}
}

func (r *report) cell(f figure, withStore bool) string {
	v, ok := r.find(f.Case, withStore, f.Name)
	if !ok {
		return "–"
	}
	decimals := 2
	if v == float64(int64(v)) {
		decimals = 0
	}
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', decimals, 64) + " " + f.Unit)
}
