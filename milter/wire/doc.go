// Package wire speaks the milter protocol (versions 2 to 6) with mail servers and turns a connection into a conversation with
// a Session, which knows nothing of frames.
//
// The unmodified library github.com/emersion/go-milter dispatches: it reads a packet, calls one method of a backend and
// writes the answer. It speaks version 2 only, loses parameters, macros and state, and has no time-outs, so it never
// sees the socket:
//
//	socket -> timedReader (deadlines) -> Conn (strict frames, negotiation, order, macros) -> library -> Session
//
// Conn deals with all frames that need no answer of the Session. For CONNECT, HELO, MAIL, RCPT, end of header and end of
// message it gives the library a placeholder of the command; the library's callback makes Conn ask the Session with the
// decoded command and write the answer. The library itself writes nothing.
//
// A malformed frame, a command out of order or a frame that is not sent in time closes the connection. Nothing was accepted
// then, and the mail server's own default action holds.
//
// The library starts one goroutine for each connection. Everything of the connection happens on it. It ends when the mail
// server quits, breaks the protocol or is silent for too long, and after Drain or Cut.
package wire
