// Package engine turns facts about a mail transaction into a decision by evaluating compiled Rego policies.
//
// The steps of a decision, in the order of the files:
//
//   - transaction.go: a front end fills a Transaction with the facts that it knows at a stage. Their types are generated
//     (facts_gen.go) from the declaration in package contract.
//   - engine.go: Engine.Decide takes the policy to which the transaction is pinned, or else the active one.
//   - admission.go: as many decisions are made at once as there are processors. Another one waits for its turn, which goes round by
//     login or client network.
//   - input.go: the facts become the input document, directly as OPA values. Only the parts that rules read are built (reads.go).
//   - evaluate.go: one query for each stage evaluates the decision sets that the stage defines, on a worker (workers.go) with the
//     worker's caches (caches.go).
//   - decode.go: the sets become a Decision (decision.go), checked in full.
//   - record.go: the decision and its input go to the Recorder before the reply goes to the client.
//
// Decide returns no error. A time-out, a conflict, a failing builtin or an answer of the wrong shape is the failure verdict of the
// transaction with Decision.Err set, and the zero Decision defers, so that no front end can forget a failure path.
//
// Compile (compile.go) makes a Policy (policy.go) of a bundle that package lint has checked. A Policy does not change; Engine.Swap
// replaces it as a whole. shadow.go and canary.go let a candidate decide in addition to the active policy, explain.go says why a decision
// was made, and logged.go decides again on the input in a decision log.
//
// # Goroutines
//
// An evaluation runs on a worker goroutine, so that Decide can give up one that does not end. Workers belong to the Policy and are
// kept for the next decision. A worker that has been idle for two garbage collections ends, and so do all of them after their Policy
// is no longer used. If an evaluation ignores its deadline, Decide abandons the worker and returns the failure verdict, and the
// worker ends with its evaluation. Until then it counts for its client, which has a bounded share of an Engine; beyond maxAbandoned such
// workers, each also keeps its slot. Outside an Engine, DecideLogged fails while there are maxAbandoned of them. A decision that waits
// for its turn does so on the goroutine of its caller. Shadow.Run uses the goroutine of its caller.
package engine
