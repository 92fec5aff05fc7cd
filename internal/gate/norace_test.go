//go:build !race

package gate_test

const scale = 1
