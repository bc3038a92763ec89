// Package exitcode holds the exit codes of the program, and the errors that carry one from where they arise to main.
package exitcode

// The exit codes, for scripts and CI.
const (
	OK     = 0
	Failed = 1 // the command did its work and the answer is no, or it could not finish
	Usage  = 2 // the command line, the configuration or a file that it names is wrong; nothing was done
)

// Error ends the program with Code. With a nil Cause the reason has been printed already.
type Error struct {
	Code  int
	Cause error
}

func (e *Error) Error() string {
	if e.Cause == nil {
		return "refused"
	}
	return e.Cause.Error()
}

func (e *Error) Unwrap() error { return e.Cause }

// UsageError returns an error for a mistake on the command line or in the configuration. A nil cause means that it was printed.
func UsageError(cause error) error { return &Error{Usage, cause} }

// Refused returns the error of a command whose answer is no, and which has printed that.
func Refused() error { return &Error{Code: Failed} }
