// Package e2e holds no code. Its tests do to real processes what happens to them in production: workers are killed,
// stopped and asked to leave, PostgreSQL crashes, sessions are terminated, the network loses messages or freezes. Then a
// ledger is drawn up, from what handlers wrote down for themselves and from history, and it must be exact.
//
// Workers are of two kinds: the offstage binary with shell scripts as tasks, built once per run, and the test binary,
// which starts itself again as a worker with handlers in Go.
package e2e
