//go:build !race

package flight_test

const scale = 1
