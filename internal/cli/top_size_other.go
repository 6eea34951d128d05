//go:build !unix

package cli

import "os"

// Without the signal, the next look finds the new size.
func watchSize(chan os.Signal)   {}
func unwatchSize(chan os.Signal) {}
