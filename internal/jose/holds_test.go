package jose_test

import (
	"runtime"
	"strings"
	"testing"
)

// Holds finds strings and names at any depth, unescaped, and nothing else.
func TestHoldsFindsStringsAndNames(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  bool
	}{
		{`"x"`, true},
		{`"\u0078"`, true},
		{`["a",[1,{"b":[null,"x"]}]]`, true},
		{`{"a":{"\u0078":true}}`, true},
		{`{"a":"\"","b":["\\","x"]}`, true},
		{`"xx"`, false},
		{`["\"x\"","\\x","x\""]`, false},
		{`{"x ":[1.5e3,false,null,{}]}`, false},
		{`""`, false},
		{`1`, false},
		{`[]`, false},
	} {
		if got := member(t, tc.value).Holds(func(text string) bool { return text == "x" }); got != tc.want {
			t.Errorf("%s: %v", tc.value, got)
		}
	}
}

// What is nested is not parsed anew at each level: a client may choose members
// of the answer about its own token (RFC 9396).
func TestHoldsCostsTheSameAtAnyDepth(t *testing.T) {
	inner := `[{"a":"b"}` + strings.Repeat(`,{"a":"b"}`, 3000) + `]`
	cost := func(depth int) uint64 {
		v := member(t, strings.Repeat(`{"a":`, depth)+inner+strings.Repeat(`}`, depth))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if v.Holds(func(text string) bool { return text == "x" }) {
			t.Error("found what is not there")
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if flat, deep := cost(1), cost(60); deep > 2*flat+1<<16 {
		t.Errorf("%d bytes at depth 60, %d at depth 1", deep, flat)
	}
}
