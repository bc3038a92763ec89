// Package smtpd is the submission front end (RFC 6409). It takes mail from authenticated clients over SMTP, turns each
// transaction into facts, asks engine, and carries out the decision.
//
// Package wire below it reads and writes the octets, by way of go-smtp. Here a session is a conversation: each SMTP command is a
// method of session with the name of the command, and conversation.go chooses it. The RFCs: 5321 (SMTP), 6409 (submission),
// 8314 (implicit TLS), 3207 (STARTTLS), 4954 (AUTH), 4616 (PLAIN), 5802 and 7677 (SCRAM), 5929 and 9266 (channel bindings),
// 7628 (OAUTHBEARER), 4422 (EXTERNAL), 1870 (SIZE), 2920 (PIPELINING), 6152 (8BITMIME), 2034 and 3463 (enhanced codes),
// 3030 (CHUNKING), 3461 (DSN), 6531 (SMTPUTF8), 3848 (Received).
//
// # A message
//
// MAIL pins the policy. At each RCPT, policy is asked first and then the next hop. The client gets the next hop's refusal
// unchanged. Addresses without a domain are offered to the next hop after the message, because policy may complete them. The whole
// message is spooled: in memory, and beyond a bound in a file without a name. Then policy decides about it, its edits are applied,
// and the next hop gets envelope and message. The client gets 250 only after the next hop's 250.
//
// # Failing
//
// If policy fails, the listener's failure verdict holds; without one it is 451 4.3.0. A next hop that is down: 451 4.4.1 at RCPT. A
// full disk: 452 4.3.1 after the data. A panic: 421, and the other connections go on. A client that stalls, or sends a bare CR,
// a bare LF or a NUL, loses its connection, and nothing that it sent is read as commands. A client that hits one of Limits gets
// a reply that says so, and the hit is counted and logged by the name of the limit (session.hit). What a message has taken is
// free again, no matter how it ends.
//
// # Goroutines
//
// Each connection has one goroutine, which go-smtp starts. It owns wire.Conn, session and transaction, and ends with the
// connection. Other goroutines may only call Conn.Interrupt and Conn.CloseSocket, and cancel the session's context. Shutdown waits
// for all connections. Each Serve runs on its caller's goroutine.
package smtpd
