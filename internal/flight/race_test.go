//go:build race

package flight_test

// The race detector makes everything several times slower, so long histories
// make do with a tenth.
const scale = 10
