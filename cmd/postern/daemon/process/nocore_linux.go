package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// NoCore keeps the memory of the process, with its passwords and keys, out of core files and out of the reach of other processes of the same
// user. A crash leaves only a stack in the log, and only root can attach a debugger.
func NoCore() error {
	// The kernel ignores RLIMIT_CORE=0 where core_pattern is a pipe (core(5)), so the process is also made non-dumpable.
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CORE, &limit) == nil && limit.Max == 0 {
		return err
	}
	return errors.Join(err, unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}
