// Package decisionlog writes one JSON line for every decision of the engine, to a file, to an HTTP service, or to both.
//
// A line is an OPA decision log event (labels, decision_id, timestamp, path, bundles, requested_by, req_id, metrics, input,
// error, result, erased, masked), so that tools for those events read it. Beside them it has the fields that a postmaster searches
// for: id, stage, door, listener, client, login, from, recipients, revision, latency_us. It never has passwords, because a
// Transaction has none, and never bodies, because every Mask leaves them out.
//
// Failures. Options.Strict says what happens when the file cannot be written. With Strict, Record returns after its line was
// written, and its error makes the decision the failure verdict. Without, decisions go on, and lost lines are counted in
// postern_decision_log_lost_total and in Lost. After a failed write the file is truncated to where it was, so that it has no half
// lines. After a failed rotation the file grows on. A service that does not accept lines never delays a decision: the lines wait
// in a bounded buffer, and when that is full, the oldest are dropped and counted as lost.
//
// # Goroutines
//
// Record runs on its caller's goroutine and only queues an immutable entry. Open starts these goroutines, and Close ends them in
// this order:
//
//   - the writer owns the file. It masks, encodes and writes the queued entries; lines that are ready at the same time go into
//     one write. It ends when the queue is closed and empty.
//   - with Rotate, the archive compresses full files and removes the oldest. It may end in the middle of a file; the next start
//     continues there.
//   - with Upload, the uploader sends lines to the service. It ends when all are sent, or after Upload.Drain.
package decisionlog
