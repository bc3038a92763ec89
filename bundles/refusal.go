package bundles

import "errors"

// Stage is where a candidate was refused.
type Stage string

// The stages, in their order. The gate answers for those from compile on.
const (
	StageRead      Stage = "read"      // the source cannot be reached, or is not whole
	StageSignature Stage = "signature" // nobody we trust signed what is there
	StageLoad      Stage = "load"      // a file in it cannot be parsed
	StageCompile   Stage = "compile"   // the compiler refuses it
	StageLint      Stage = "lint"      // it breaks the contract, or would fail open
	StageTest      Stage = "test"      // a test of its own fails
	StageSmoke     Stage = "smoke"     // it does not decide a plain transaction in time
)

func stages() []Stage {
	return []Stage{StageRead, StageSignature, StageLoad, StageCompile, StageLint, StageTest, StageSmoke}
}

// Refusal says at which stage a candidate was refused, and why.
type Refusal struct {
	Stage Stage
	Err   error
}

// Error is the reason's.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.Err }

// refusal of any error; stage where the error does not say.
func refusal(err error, stage Stage) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{stage, err}
}
