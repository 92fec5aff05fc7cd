// Command pictures draws the figures of the benchmarks for the README, each for
// a light and a dark page.
//
//	go run ./pictures             draws what was measured last
//	go run ./pictures -measure    measures anew, about 15 minutes, and draws
//
// It is run in the folder benchmarks. The figures are beside the pictures, in
// docs/cost: requests.txt is the output of "go test -bench", fleet.json that of
// the command fleet. Measure on a machine that does nothing else.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

func main() {
	log.SetFlags(0)
	measure := flag.Bool("measure", false, "measure first")
	folder := flag.String("folder", "../docs/cost", "where figures and pictures are")
	flag.Parse()
	if err := run(*folder, *measure); err != nil {
		log.Fatal(err)
	}
}

func run(folder string, measured bool) error {
	if measured {
		if err := measure(folder); err != nil {
			return err
		}
	}
	charts, err := read(folder)
	if err != nil {
		return err
	}
	for _, c := range charts {
		for _, t := range themes {
			file := filepath.Join(folder, c.Name+"-"+t.Name+".svg")
			if err := os.WriteFile(file, draw(c, t), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure writes the figures.
func measure(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	var requests bytes.Buffer
	fmt.Fprintf(&requests, "date: %s\ngo: %s\nprocessors: %d\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), runtime.NumCPU())
	benchmark := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-count", "3", "-timeout", "1h", ".", "-largest", "1000000")
	benchmark.Stdout, benchmark.Stderr = &requests, os.Stderr
	if err := benchmark.Run(); err != nil {
		return fmt.Errorf("%s: %w", benchmark, err)
	}
	if err := os.WriteFile(filepath.Join(folder, requestsFile), requests.Bytes(), 0o644); err != nil {
		return err
	}
	fleet := exec.Command("go", "run", ".", "-json", filepath.Join(folder, fleetFile))
	fleet.Dir = "fleet"
	fleet.Stdout, fleet.Stderr = os.Stdout, os.Stderr
	if err := fleet.Run(); err != nil {
		return fmt.Errorf("%s: %w", fleet, err)
	}
	return nil
}
