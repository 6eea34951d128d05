//go:build !linux

package main

import "syscall"

// endsWithUs has no counterpart here: Ctrl-C in our terminal reaches a process too, and kill -9 of us does not.
func endsWithUs() *syscall.SysProcAttr { return nil }
