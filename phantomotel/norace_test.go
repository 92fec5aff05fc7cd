//go:build !race

package phantomotel_test

const raceDetector = false
