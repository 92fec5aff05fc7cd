package failure

import (
	"runtime"
	"runtime/debug"
)

// A Panic is the cause of an [Internal] failure.
type Panic struct {
	Text  string // the panic's value if the runtime made it; any other could contain anything
	Stack []byte
}

// Error describes the panic.
func (p *Panic) Error() string { return p.Text }

// FromPanic makes a failure from a recovered panic. Call it in the deferred
// function that recovered, so that the stack is the right one.
func FromPanic(recovered any) *Error {
	text := "panic in a hook"
	if made, ok := recovered.(runtime.Error); ok {
		text = made.Error()
	}
	return Because(Internal, "panic", &Panic{text, debug.Stack()})
}

// Recover protects a function that decides something and defers it. If the
// function panics before *decided is true, Recover sets *err to an [Internal]
// failure, so that a panic never admits a request. It also sees panic(nil) and
// runtime.Goexit, for which recover returns nil.
func Recover(decided *bool, err *error) {
	if p := recover(); !*decided {
		*err = FromPanic(p)
	}
}
