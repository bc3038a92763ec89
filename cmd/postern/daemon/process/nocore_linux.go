package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// NoCore keeps what is in our memory, passwords and keys among it, out of core files and out of the reach of other processes of
// the same user: a crash leaves a stack in the log and nothing else, and only root can attach a debugger.
func NoCore() error {
	// A limit of 0 does not hold where the kernel pipes cores to a program (core(5)); not being dumpable does.
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &limit) == nil && limit.Max == 0 {
		return err
	}
	return errors.Join(err, unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}
