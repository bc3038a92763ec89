// Package socket reads and writes the sockets of mail without telling Go's scheduler.
//
// A system call of Go's own library is announced: the scheduler may have to find another thread for the goroutines that a
// call which waits would hold up, and where the whole process had been asleep it wakes its monitor, which then looks every
// twenty microseconds. A call on a socket that does not block never waits, so that all of this is for nothing; where one
// connection is used alone it was a seventh of the processor time of a message (docs/explanation/performance.md). What has to
// wait does so in Go's own poller, with its deadlines.
//
// It starts no goroutines. Direct calls are made on Linux, but for 386 and s390x, which lack two of them; elsewhere everything is
// as package net does it.
package socket
