// Package interop holds tests of phantom against authorization servers that
// others wrote. It is a module of its own, so that they are nobody's
// dependencies.
package interop
