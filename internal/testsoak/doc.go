// Package testsoak holds Postern under load for as long as it is told, with everything that may go wrong going wrong: it
// starts the built program in a directory of its own, finds the rate it reaches, and then sends at a share of that rate
// while policies, users and certificates are changed (well and badly), the next hop fails, and bad clients do what they do.
// A ledger has what each message was told, and what arrived; memory, descriptors, goroutines and latency are sampled and
// have to stay flat.
//
// testdata/soak is the command; its messages go to a next hop in this process, so that each can be accounted for.
//
// # Goroutines
//
// Run owns all of them and waits for them: the hop has one a connection, traffic one a message under way, the bad clients
// one each, the sampler, the disturber and the reader of the quarantine one each. They end when the context does.
package testsoak
