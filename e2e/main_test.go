//go:build unix

package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// scratch holds the binary; it goes away with the run.
var scratch string

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		os.Exit(perform(text))
	}
	// These tests wait for processes far more than they compute, so that more of them fit than there are cores. Sixteen at once took no
	// less time on two, and starved each other.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "offstage-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := build(); err != nil { // now, not beside the first tests, which would starve
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	pgtest.Main(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// offstageBinary is the path of the program.
func offstageBinary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "offstage")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/offstage").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the offstage binary: %w\n%s", err, out)
	}
	return path, nil
})
