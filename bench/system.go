package main

import (
	"context"
	"os/exec"
)

// system is one of the two job systems. Both offer the SQL functions add_job and add_jobs with the same signature
// in their schema, so that a scenario may use those for either.
type system interface {
	title() string
	schema() string // of the SQL functions
	jobs() string   // the table that holds a job until its end is on disk

	// install sets the system up in the empty database at url.
	install(ctx context.Context, url string) error

	// command is a process that speaks the protocol; what config lacks to run it is filled in.
	command(config *agentConfig) *exec.Cmd
}
