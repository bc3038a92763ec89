// Package socket asks the operating system two things about a connection that package net does not offer: whether there is
// something to read (Readable), and that received data be acknowledged at once (QuickAck). It starts no goroutines.
package socket
