// Package soak holds no code. Its one test, behind the build tag soak and started by "./dev soak", lets everything happen
// at once for as long as one likes: jobs of every kind are added in transactions of every kind, meddled with and worked on
// by processes that are killed, stopped and restarted at random. In the end a ledger is drawn up: what callers have
// committed and what handlers wrote down for themselves, against history and against what is left in the tables.
//
// Its arguments: -for how long, -seed of all that is random, -workers how many processes, -rate of jobs added in a
// second (0: half of what the machine can do, which is measured first).
package soak
