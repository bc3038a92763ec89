// Package decisionlog writes one JSON line for every decision of the engine, to a file, to an HTTP service, or to both.
//
// A line is an OPA decision log event (labels, decision_id, timestamp, path, bundles, requested_by, req_id, metrics, input,
// error, result, erased, masked), so that tools for those read it, and beside that has what a postmaster greps for: id, stage,
// door, listener, client, login, from, recipients, revision, latency_us. Passwords never are in it, because they never are in a
// Transaction; bodies never, because every Mask leaves them out.
//
// Failures. When the file cannot be written, Options.Strict decides: strict, Record returns only when the line is in it, and
// its error makes the decision the failure verdict; otherwise decisions go on and lost lines are counted, in
// postern_decision_log_lost_total and in Lost. A write that fails is cut off again, so that no line is there in half. A rotation
// that fails costs nothing but a longer file. A service that does not take its lines never holds a decision up: they wait in a
// bounded buffer, and then the oldest are counted as lost.
//
// # Goroutines
//
// Record, on its caller's goroutine, only queues what is immutable. Open starts, and Close ends in this order:
//
//   - the writer, which owns the file, masks, encodes and writes what is queued; lines that are ready together are written
//     together. It ends when the queue is closed and empty.
//   - with Rotate, the archive, which compresses and removes full files. It ends in the middle of a file if need be; the next
//     start goes on.
//   - with Upload, the uploader, which sends. It ends when all is sent, or after Upload.Drain.
package decisionlog
