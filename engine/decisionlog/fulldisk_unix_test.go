//go:build unix

package decisionlog

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestDiskFills writes to a file that may not grow beyond a limit of the process, so that writes end half-way, as they do on a
// disk that fills. Then there is room again.
//
// It runs in a process of its own, because the limit applies to every write of the process.
func TestDiskFills(t *testing.T) {
	const inside = "POSTERN_TEST_DISK_FILLS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFills$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskFills") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for _, o := range []Options{{Strict: true}, {Strict: true, Sync: SyncEach, Rotate: Rotate{Size: 100_000}}, {}} {
		reg := prometheus.NewRegistry()
		o.Metrics = reg
		l := open(t, o)
		var written []string
		put := func(id string) error {
			err := l.Record(context.Background(), record(id))
			if err == nil {
				written = append(written, id)
			}
			return err
		}
		if err := put("first"); err != nil {
			t.Fatal(err)
		}
		failed := 0
		within(t, 5_000, func() {
			for i := range 50 {
				if put(fmt.Sprint(i)) != nil {
					failed++
				}
			}
			if !o.Strict { // what waits is written within the limit
				until(t, "lines are lost", func() bool { return l.Lost() > 0 && l.queued.Load() == 0 })
			}
		})
		if err := put("last"); err != nil {
			t.Errorf("there is room again: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		ids, lost := logged(t, l.o.File), int(counted(t, reg)["write"])
		switch {
		case !slices.Contains(ids, "last"):
			t.Errorf("after the disk was full nothing is written: %v", ids)
		case o.Strict && (failed == 0 || failed == 50 || failed != lost || !slices.Equal(ids, written)):
			t.Errorf("strict: %d failed, %d counted, written %v, told so of %v", failed, lost, ids, written)
		case !o.Strict && (failed != 0 || lost == 0 || len(ids)+lost != 52):
			t.Errorf("%d failed, %d counted as lost, %d written", failed, lost, len(ids))
		}
	}
}

// within runs f while no file may grow beyond limit.
func within(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	now := before
	now.Cur = limit
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &now); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
