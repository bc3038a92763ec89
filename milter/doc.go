// Package milter is the front end that stands beside Postfix or Sendmail: it turns what the MTA tells over the milter
// protocol (versions 2 to 6) into an engine.Transaction and carries the engine's decision out with milter operations.
//
// # How it is built
//
// The unmodified library github.com/emersion/go-milter dispatches: it reads a packet, calls one method of a backend and
// writes the answer. It speaks version 2 only, loses parameters, macros and state, and has no time-outs, so it never
// sees the socket. Under it lies conn, a net.Conn that knows frames:
//
//	socket -> source (deadlines, TCP_QUICKACK) -> conn (strict frames, negotiation, macros, header, body) -> library -> session
//
// conn hands up only the commands that can have an answer of ours (CONNECT, HELO, MAIL, RCPT, end of header, end of
// message, ABORT, QUIT) and does the rest itself. The library's callback arguments are lossy; session reads the decoded
// command from conn instead, and answers through it. The library calls Accept and then NewMilter on one goroutine, which is how a conn and its
// session find each other.
//
// # Terms
//
// What is negotiated is what the MTA offers and the snapshot active at that moment needs: no body unless policy reads
// it or the size, no answers where policy has nothing to say, only the actions its edits take. Terms hold for the
// connection. Each transaction pins the newest snapshot all the same; where that one needs a fact or an action that was
// not negotiated, the decision is the failure verdict, and a deferral is said as 421, so that the client comes back over
// a connection with new terms. A refusal at a stage whose answers were negotiated away is said at the next stage that
// has one; end of message always has.
//
// # Failing
//
// A message that meets one of Limits is refused, or deferred where there is no room for it, and that is counted and logged by the
// limit's name (conn.met). A malformed frame, a command out of order, a frame that does not end in time: the connection is closed, nothing was
// accepted, and the MTA's own default action holds. All operations of a message and its final answer are made and
// checked first and then written at once, so that nothing can fail between the first edit and the verdict.
//
// # Goroutines
//
// Serve runs the accept loop on its caller's goroutine. The library starts one goroutine a connection; everything of a
// connection happens on it, and it ends when the MTA quits, breaks a rule or is silent for longer than Limits.Idle, or
// at Shutdown. Shutdown and a cancelled Serve wait for all of them.
package milter
