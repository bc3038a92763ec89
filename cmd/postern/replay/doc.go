// Package replay lets a policy decide again on the inputs in a decision log, and reports which decisions would change.
//
// A line that cannot be read is counted and reported with its file and line. If the log lacks a fact that the policy reads, the decision
// counts as a change of the kind "unknown".
//
// # Goroutines
//
// Run starts one goroutine that reads, and one for each worker that decides. It collects the results itself. All goroutines have ended when
// it returns. Batches of lines wait in a queue of fixed length and are collected in the order of the log, so memory stays flat and the result is
// the same on any number of cores.
package replay
