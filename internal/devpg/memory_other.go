//go:build !linux

package devpg

// memoryRoot is a directory in memory: these systems have none that is always there.
func memoryRoot() string { return "" }
