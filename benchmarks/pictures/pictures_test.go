package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The pictures in the repository are those of the figures beside them.
func TestPicturesAreOfTheFigures(t *testing.T) {
	const folder = "../../docs/cost"
	charts, err := read(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range charts {
		for _, theme := range themes {
			file := filepath.Join(folder, c.Name+"-"+theme.Name+".svg")
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, draw(c, theme)) {
				t.Errorf("%s is not what \"go run ./pictures\" draws (%v)", file, err)
			}
		}
	}
}
