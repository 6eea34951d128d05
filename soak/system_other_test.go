//go:build soak && unix && !linux

package soak_test

import "syscall"

func dieWithTest() *syscall.SysProcAttr { return nil }
