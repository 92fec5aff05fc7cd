package main

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"text/template"
)

// A chart is a picture of bars.
type chart struct {
	Name, Title, Note string
	Unit              string // behind each value
	Decades           bool   // the scale is logarithmic
	Bars              []bar
}

// A bar is a figure.
type bar struct {
	Label string
	Value float64
	Ours  bool // what the page is about
}

// A theme has the colours of a page.
type theme struct{ Name, Text, Faint, Ours, Other string }

var themes = []theme{
	{"light", "#1f2328", "#59636e", "#0969da", "#afb8c1"},
	{"dark", "#f0f6fc", "#9198a1", "#4493f8", "#515c67"},
}

// Sizes in the picture, in pixels.
const (
	width     = 760
	barsLeft  = 190 // labels end before it
	barsRight = 640 // the longest bar; values stand behind it
	firstBar  = 52
	barStep   = 34
	barHeight = 20
	barMiddle = barHeight/2 + 5 // the baseline of a text beside a bar
)

var picture = template.Must(template.New("").Parse(
	`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" width="{{.Width}}" height="{{.Height}}" role="img" aria-labelledby="title note" font-family="system-ui, -apple-system, 'Segoe UI', sans-serif">
<title id="title">{{html .Title}}</title>
<text x="0" y="24" font-size="16" font-weight="600" fill="{{.Text}}">{{html .Title}}</text>
{{- range .Bars}}
<text x="{{.LabelX}}" y="{{.TextY}}" font-size="14" text-anchor="end" fill="{{$.Text}}">{{html .Label}}</text>
<rect x="{{.X}}" y="{{.Y}}" width="{{.Length}}" height="{{$.BarHeight}}" rx="3" fill="{{.Fill}}"/>
<text x="{{.ValueX}}" y="{{.TextY}}" font-size="14" fill="{{$.Text}}">{{.Value}}</text>
{{- end}}
<text id="note" x="0" y="{{.NoteY}}" font-size="12" fill="{{.Faint}}">{{range $i, $line := .Lines}}<tspan x="0" dy="{{if $i}}16{{else}}0{{end}}">{{html $line}}</tspan>{{end}}</text>
</svg>
`))

// draw returns the chart as an SVG.
func draw(c chart, t theme) []byte {
	type placed struct {
		Label, Value, Fill                  string
		LabelX, X, Y, Length, ValueX, TextY int
	}
	longest := 0.0
	for _, b := range c.Bars {
		longest = max(longest, c.length(b.Value))
	}
	var bars []placed
	for i, b := range c.Bars {
		y := firstBar + i*barStep
		length := int(math.Round(c.length(b.Value) / longest * (barsRight - barsLeft)))
		p := placed{b.Label, format(b.Value) + c.Unit, t.Other, barsLeft - 12, barsLeft, y, length, barsLeft + length + 8, y + barMiddle}
		if b.Ours {
			p.Fill = t.Ours
		}
		bars = append(bars, p)
	}
	lines := wrapped(c.Note)
	noteY := firstBar + len(bars)*barStep + 18
	var out bytes.Buffer
	err := picture.Execute(&out, struct {
		theme
		Title, BarHeight     any
		Width, Height, NoteY int
		Lines                []string
		Bars                 []placed
	}{t, c.Title, barHeight, width, noteY + 16*len(lines), noteY, lines, bars})
	if err != nil {
		panic(err) // the template is ours
	}
	return out.Bytes()
}

// length returns how long a bar is, in a unit of the chart's own.
func (c chart) length(value float64) float64 {
	if c.Decades {
		return math.Log10(value) + 0.3 // so that 1 is a bar too
	}
	return value
}

// format returns two digits of small values and no fraction of large ones.
func format(value float64) string {
	if value >= 10 || value == math.Trunc(value) {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'f', 2, 64)
}

// wrapped breaks a note into lines that fit.
func wrapped(note string) (lines []string) {
	const columns = 118
	line := ""
	for word := range strings.FieldsSeq(note) {
		if line != "" && len(line)+1+len(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
