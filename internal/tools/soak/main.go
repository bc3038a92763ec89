// Command soak holds Postern under load and faults for a given time, and fails if anything is lost, slows down or grows.
// `make soak` calls it.
//
// It starts the built program in a temporary directory and finds the rate that it reaches. Then it sends at a share of that
// rate, while policies, users and certificates are changed, validly and invalidly, next hops fail, and bad clients
// misbehave. The next hops are part of this process, so that a ledger can account for every message: what its client was
// told, and what arrived. Memory, descriptors, goroutines and latency are sampled and must not grow.
//
// The exit code is 1 if something was lost or grew. With -cpus 1, the program, the next hops and the clients share one
// processor, and the top rate is that of all of them together, so that a long run leaves the other processors free.
//
// # Goroutines
//
// runSoak owns all of them and waits for them. A next hop has one for each connection, traffic one for each message under
// way, and the bad clients one each; sampler, disturber and the reader of the quarantine have one each. They end with the
// context.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/postern-mail/postern/internal/testload"
)

func main() {
	var o options
	flag.StringVar(&o.Postern, "postern", "bin/postern", "the built program")
	flag.DurationVar(&o.For, "for", 10*time.Minute, "duration of the paced part")
	flag.DurationVar(&o.Calibrate, "calibrate", 20*time.Second, "duration of the search for the top rate")
	flag.Float64Var(&o.Rate, "top", 0, "the top rate in messages a second; 0: search for it")
	flag.Float64Var(&o.Share, "share", 0.8, "share of the top rate to send at")
	flag.DurationVar(&o.Interval, "interval", 5*time.Second, "time between samples")
	flag.DurationVar(&o.Pace, "pace", 4*time.Second, "time between changes of policy, users and certificates")
	flag.IntVar(&o.Idle, "idle", 1000, "number of idle connections")
	cpus := flag.String("cpus", "", "processors for the program, the next hops and the clients, such as 0 or 0,1; empty: all")
	jsonFile := flag.String("json", "", "write all figures to this file as JSON")
	svgFile := flag.String("svg", "", "draw memory, descriptors and p99 into this SVG file")
	flag.Parse()
	if err := run(o, *cpus, *jsonFile, *svgFile); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(o options, cpus, jsonFile, svgFile string) error {
	if err := check(o, flag.NArg()); err != nil {
		return err
	}
	if err := pin(cpus); err != nil {
		return err
	}
	var err error
	if o.Postern, err = filepath.Abs(o.Postern); err != nil {
		return err
	}
	if _, err := os.Stat(o.Postern); err != nil {
		return fmt.Errorf("%w: run `make build`", err)
	}
	o.Progress = progress()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := runSoak(ctx, o)
	if err != nil {
		return err
	}
	fmt.Println(testload.Machine())
	r.Report(os.Stdout)
	if jsonFile != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(jsonFile, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if svgFile != "" {
		if err := drawResult(r, svgFile); err != nil {
			return err
		}
	}
	if r.Failed() {
		return fmt.Errorf("something was lost, went wrong or grew; see FAIL above")
	}
	return nil
}

func check(o options, arguments int) error {
	if arguments > 0 || o.For < time.Second || o.Calibrate < time.Second || o.Interval < time.Second || o.Pace < 100*time.Millisecond ||
		o.Share <= 0 || o.Share > 1 || o.Rate < 0 || o.Idle < 0 || o.Idle > 5000 {
		return fmt.Errorf("-for, -calibrate and -interval must be at least 1s, -pace at least 100ms, -share above 0 and at most 1, -top at least 0, -idle from 0 to 5000; arguments are not accepted")
	}
	return nil
}

// pinned is the environment variable that tells the restarted program not to pin itself again.
const pinned = "SOAK_PINNED"

// pin restarts this program on the given processors. Affinity is set on one thread, and a program started from that thread
// inherits it for all of its threads and processes.
func pin(cpus string) error {
	if cpus == "" || os.Getenv(pinned) != "" {
		return nil
	}
	var set unix.CPUSet
	for _, f := range strings.Split(cpus, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || n > 1023 {
			return fmt.Errorf("-cpus %s: write numbers of processors, separated by commas", cpus)
		}
		set.Set(n)
	}
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("-cpus %s: %w", cpus, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, append(os.Environ(), pinned+"=1"))
}

// progress returns a function that prints every line on a terminal, and one line a minute elsewhere.
func progress() func(string) {
	every := time.Minute
	if term.IsTerminal(int(os.Stderr.Fd())) {
		every = 0
	}
	var last time.Time
	return func(line string) {
		if time.Since(last) >= every {
			last = time.Now()
			fmt.Fprintln(os.Stderr, "soak:", line)
		}
	}
}

func drawResult(r *result, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := r.SVG(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
