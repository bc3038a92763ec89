// Package milter is the front end for Postfix and Sendmail: it turns what a mail server says over the milter protocol into
// an engine.Transaction, and carries the engine's decision out with milter operations.
//
// Package milter/wire speaks the protocol. A session here answers its commands, with a method for each verb:
//
//	session.mail, rcpt, endOfMessage ...  ->  connection.setFacts  ->  Engine.Decide  ->  wire.Answer
//
// The last one also has operations, which are found by comparing the message before and after the edits.
//
// # Negotiation
//
// A session accepts only the part of the mail server's offer that the active policy needs: the body only if policy reads it or
// the size, answers only at stages that policy has, and only the operations that its edits take. The result stays the same for
// the whole connection, although each transaction pins the newest policy. If that policy needs a fact or an operation
// that was not negotiated, the decision is the failure verdict, and a deferral is 421 instead of 451, so that the client
// comes back over a new connection. A refusal at a stage whose answers were not negotiated is given at the next stage
// that has an answer; end of message always has one.
//
// # Failing
//
// A message that exceeds a limit is refused, or deferred if there is no room for it; this is counted and logged by the
// limit's name. All operations of a message are made and checked before the first is written, and they are written
// together with the final answer. If one cannot be sent, the decision is the failure verdict and the message is not changed.
//
// # Goroutines
//
// Serve runs the accept loop on its caller's goroutine. Each connection has one goroutine, which package wire describes; it
// ends when the mail server quits, breaks the protocol or is silent for longer than Limits.Idle, and at Shutdown. Shutdown
// and a cancelled Serve wait for all of them.
package milter
