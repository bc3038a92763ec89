// Package decisionlog writes one JSON line for every decision of the engine, and reads such lines back (Reader, Parser).
//
// A line has the fields of an OPA decision log event where there is one for what it says (decision_id, timestamp, path,
// bundles, input, result), so that tools for those read it, and beside them what a postmaster greps for: id, stage, door,
// client, login, from, revision, latency_us, error; and what asking again needs: parts,
// smtputf8, on_error. Passwords never are in it, because they never are in a Transaction.
//
// Record on the live path only queues what is immutable; encoding and writing happen on one goroutine, which Open starts
// and Close ends after it has written everything queued. Lines that are ready together are written together.
//
// When lines cannot be written, Options.Strict decides: strict, Record returns only when the line is written, and its error
// makes the decision the failure verdict; otherwise decisions go on and lost lines are counted, in
// postern_decision_log_lost_total and in Lost.
package decisionlog
