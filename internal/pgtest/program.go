package pgtest

import (
	"os"
	"syscall"
	"testing"
)

// Program writes an executable file. While it is open for writing no process may be forked, which would take the descriptor
// along for an instant, in which the file cannot be executed ("text file busy").
func Program(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}
