// Package replay asks a policy again what a decision log says was asked, and tells what it would decide otherwise.
//
// What it does when things fail: a line that cannot be read is counted and named with its file and line; a question that
// cannot be asked again, because the policy reads a fact that the log does not have, is a change of the kind "unknown". It
// is never guessed.
//
// # Goroutines
//
// Run starts one goroutine that reads and one a worker that decides, and collects on its own. All have ended when it
// returns. Batches of lines go through a queue of fixed length and are collected in the order of the log, so that memory
// stays flat and the outcome is the same on any number of cores.
package replay
