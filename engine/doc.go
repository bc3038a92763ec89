// Package engine turns facts about a mail transaction into a decision by evaluating compiled Rego policies.
//
// A Transaction holds what a front end knows at a stage; Compile makes a Policy of a bundle; Engine.Decide asks the
// active Policy and answers with a Decision. Decide returns no error: a time-out, a conflict, a failing builtin, an
// answer of the wrong shape all are the failure verdict of the transaction with Decision.Err set, and the zero Decision
// defers, so that no front end can forget a failure path.
//
// What a bundle may say and what it may read is in the contract (see InputSchema and setNames); Compile and Check hold a
// bundle against it and say file, line and column of everything that is wrong. A Policy is immutable: Engine.Swap
// replaces it whole, and one transaction pins one Policy from MAIL to its end (Transaction.Policy).
//
// The input is built directly as OPA values and only the parts that the policy can reach are built. One query a stage
// evaluates exactly the sets that the stage defines.
//
// # Goroutines
//
// Decide evaluates on a worker goroutine, so that it can give up an evaluation that does not end. Workers belong to the
// Policy and are kept for the next decision, because a fresh goroutine would grow its stack every time; those that have
// been idle for two garbage collections end, and so do all of them some time after their Policy is out of use. A worker
// whose evaluation does not heed its deadline is abandoned: Decide returns the failure verdict, and the worker ends with
// its evaluation. At most maxAbandoned of them can exist for one Policy and those made of it by WithData; beyond, it
// answers with the failure verdict until one has ended.
package engine
