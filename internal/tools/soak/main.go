// Command soak holds Postern under load for as long as it is told, with everything that may go wrong going wrong: it
// starts the built program in a directory of its own, finds the rate it reaches, and then sends at a share of that rate
// while policies, users and certificates are changed (well and badly), the next hop fails, and bad clients do what they do.
// A ledger has what each message was told, and what arrived; memory, descriptors, goroutines and latency are sampled and
// have to stay flat.
//
// Its messages go to a next hop in this process, so that each can be accounted for.
//
// # Goroutines
//
// Run owns all of them and waits for them: the hop has one a connection, traffic one a message under way, the bad clients
// one each, the sampler, the disturber and the reader of the quarantine one each. They end when the context does.
//
// `make soak` calls it. It exits with 1 where something was lost or grew. With -cpus 1 the program, the next hop and the
// clients share that processor: the top rate, and the share of it that is then sent, are those of the arrangement, so that
// an hour can go by beside other work.
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
	var o Options
	flag.StringVar(&o.Postern, "postern", "bin/postern", "the built program")
	flag.DurationVar(&o.For, "for", 10*time.Minute, "how long the paced part takes")
	flag.DurationVar(&o.Calibrate, "calibrate", 20*time.Second, "how long the top rate is looked for")
	flag.Float64Var(&o.Rate, "top", 0, "the top rate in messages a second, instead of looking for it")
	flag.Float64Var(&o.Share, "share", 0.8, "share of the top rate that is sent")
	flag.DurationVar(&o.Interval, "interval", 5*time.Second, "between samples")
	flag.DurationVar(&o.Pace, "pace", 4*time.Second, "between changes of policy, users and certificates")
	flag.IntVar(&o.Idle, "idle", 1000, "connections that only sit there")
	cpus := flag.String("cpus", "", "processors for the program, the next hop and the clients, such as 0 or 0,1; empty: all")
	jsonFile := flag.String("json", "", "write all figures there, as JSON")
	svgFile := flag.String("svg", "", "draw memory, descriptors and p99 there")
	flag.Parse()
	if err := run(o, *cpus, *jsonFile, *svgFile); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(o Options, cpus, jsonFile, svgFile string) error {
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
		return fmt.Errorf("%w: `make build` makes it", err)
	}
	o.Progress = progress()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := Run(ctx, o)
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
		return fmt.Errorf("something was lost, wrong or grew; see FAIL above")
	}
	return nil
}

func check(o Options, arguments int) error {
	if arguments > 0 || o.For < time.Second || o.Calibrate < time.Second || o.Interval < time.Second || o.Pace < 100*time.Millisecond ||
		o.Share <= 0 || o.Share > 1 || o.Rate < 0 || o.Idle < 0 || o.Idle > 5000 {
		return fmt.Errorf("-for, -calibrate and -interval are at least 1s, -pace 100ms, -share is above 0 and at most 1, -idle at most 5000, and there are no arguments")
	}
	return nil
}

// pinned says in the environment that pin has been here.
const pinned = "SOAK_PINNED"

// pin starts this program anew, on some processors only: what has one thread yet keeps to them with all that it starts.
func pin(cpus string) error {
	if cpus == "" || os.Getenv(pinned) != "" {
		return nil
	}
	var set unix.CPUSet
	for _, f := range strings.Split(cpus, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || n > 1023 {
			return fmt.Errorf("-cpus %s: want numbers of processors with commas between them", cpus)
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

// progress prints every line where somebody looks, and one a minute elsewhere.
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

func drawResult(r *Result, file string) error {
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
