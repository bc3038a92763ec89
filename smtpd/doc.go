// Package smtpd is the submission front end (RFC 6409): it takes mail from authenticated clients over SMTP, turns each
// transaction into facts, asks engine, and carries out the decision.
//
// It stands on go-smtp, which accepts connections and calls a method a command. Around it stands guard, a net.Conn of ours
// above TLS and below the library, which reads the protocol strictly: lines, commands, parameters, STARTTLS, message data
// by DATA and by BDAT, order of commands, bounds. See there how the two keep in step. The RFCs: 5321 (SMTP), 6409 (submission),
// 8314 (implicit TLS), 3207 (STARTTLS), 4954 (AUTH), 4616 (PLAIN), 5802 and 7677 (SCRAM), 5929 and 9266 (channel bindings),
// 7628 (OAUTHBEARER), 4422 (EXTERNAL), 1870 (SIZE), 2920 (PIPELINING), 6152 (8BITMIME),
// 2034 and 3463 (enhanced codes), 3030 (CHUNKING), 3461 (DSN), 6531 (SMTPUTF8), 3848 (Received).
//
// # A message
//
// MAIL pins the policy. Each RCPT is asked of policy and then of the next hop, whose refusal the client hears as it was said;
// addresses that lack a domain wait for the message. The message is spooled whole: in memory, beyond a bound in a file
// without a name. Then policy decides about it, its edits are applied, and the next hop gets envelope and message. The client
// is told 250 only after the next hop's 250.
//
// # Failing
//
// Policy that fails gives the listener's failure verdict, 451 4.3.0 if nothing else is configured. A next hop that is down: 451
// 4.4.1 at RCPT. A full disk: 452 4.3.1 after the data. A panic: 421, and the other connections go on. A client that stalls,
// or sends a bare CR, bare LF or NUL, loses its connection, and nothing it sent is read as commands. Whoever meets one of Limits
// is told so, and it is counted and logged by its name (session.met); what a message has taken is free again however it ends.
//
// # Goroutines
//
// Each connection has one goroutine, which the library starts and which owns guard, session and transaction; other goroutines
// may only call wire.interrupt, cancel its context and close its socket. It ends with the connection. Shutdown waits for
// all of them. Each Serve uses its caller's.
package smtpd
