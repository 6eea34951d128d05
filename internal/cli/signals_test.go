package cli

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A signal that comes twice at once is one; a later one forces.
func TestObey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		var said []string
		go Obey(signals, func() { said = append(said, "stop") }, func() { said = append(said, "force") })
		for _, c := range []struct {
			after time.Duration
			want  string
		}{{0, "stop"}, {0, "stop"}, {echo - time.Millisecond, "stop"}, {time.Millisecond, "stop force"}} {
			time.Sleep(c.after)
			signals <- syscall.SIGTERM
			synctest.Wait()
			if got := strings.Join(said, " "); got != c.want {
				t.Errorf("after %v: %s instead of %s", c.after, got, c.want)
			}
		}
	})
}
