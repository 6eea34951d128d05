// Package compat holds no code. Its tests run the same statements against Graphile Worker, as npm publishes it, and
// against our functions, each in a database of its own under the schema name graphile_worker, and compare all that a
// caller can see: columns and their types, values, SQLSTATEs and constraint names, the jobs view after every step,
// signatures. What differs on purpose is one table, in differences_test.go, each entry with its reason and with a
// test that it still differs.
//
// The oracle is installed by ./dev test (npm ci in this directory).
package compat
