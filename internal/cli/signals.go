package cli

import (
	"os"
	"time"
)

// echo is how soon after the first signal others count as the same: timeout, for one, signals its child and then the
// group that the child is in.
const echo = 200 * time.Millisecond

// Obey calls first at the first signal, and force at the next one that is no echo of it.
func Obey(signals <-chan os.Signal, first, force func()) {
	<-signals
	begin := time.Now()
	first()
	for range signals {
		if time.Since(begin) >= echo {
			force()
			return
		}
	}
}
