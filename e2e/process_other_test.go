//go:build unix && !linux

package e2e_test

import (
	"syscall"
	"testing"
)

func dieWithTest() *syscall.SysProcAttr { return nil }

func childrenOf(*testing.T, int) []int { return nil }
