//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

func watchSize(c chan os.Signal)   { signal.Notify(c, syscall.SIGWINCH) }
func unwatchSize(c chan os.Signal) { signal.Stop(c) }
