package exec

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		told   []string
		warned string
	}{
		"none":             {"exit 0", nil, ""},
		"line by line":     {`echo 10 >"$OFFSTAGE_PROGRESS"; echo "50% half  of it " >>"$OFFSTAGE_PROGRESS"; printf '99.5 nearly' >"$OFFSTAGE_PROGRESS"`, []string{"10 ", "50 half  of it", "99.5 nearly"}, ""},
		"kept open":        {`exec 3>"$OFFSTAGE_PROGRESS"; echo 1 >&3; echo >&3; echo 2 >&3`, []string{"1 ", "2 "}, ""},
		"from a child":     {`sh -c 'echo 7 child >"$OFFSTAGE_PROGRESS"'`, []string{"7 child"}, ""},
		"not a number":     {`echo half >"$OFFSTAGE_PROGRESS"; echo what >"$OFFSTAGE_PROGRESS"; echo 60 >"$OFFSTAGE_PROGRESS"`, []string{"60 "}, `"half" does not begin with a number; write for instance`},
		"too much":         {`echo 120 >"$OFFSTAGE_PROGRESS"; echo nan >"$OFFSTAGE_PROGRESS"`, nil, "120 percent; use 0 to 100"},
		"not text":         {`printf '5 a\0\377b\n' >"$OFFSTAGE_PROGRESS"`, []string{"5 a\uFFFDb"}, ""},
		"removed":          {`rm "$OFFSTAGE_PROGRESS"; echo 5 >"$OFFSTAGE_PROGRESS"`, nil, ""},
		"of a failed one":  {`echo 5 >"$OFFSTAGE_PROGRESS"; exit 1`, []string{"5 "}, ""},
		"a line too long":  {`{ printf '5 '; head -c 100000 /dev/zero | tr '\0' x; echo; } >"$OFFSTAGE_PROGRESS"`, []string{"5 " + strings.Repeat("x", longestProgress-2) + " … [cut: 100002 bytes in all]"}, ""},
		"without newlines": {`head -c 3000000 /dev/zero | tr '\0' 7 >"$OFFSTAGE_PROGRESS"`, nil, "does not begin with a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var told []string
			ctx := worker.WithProgress(t.Context(), func(percent float32, message string) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint(percent, " ", message))
			})
			b := with(t, c.script)
			_, err := b.run(ctx, job(`{}`))
			if (err != nil) != (name == "of a failed one") {
				t.Error(err)
			}
			if !slices.Equal(told, c.told) {
				t.Errorf("told %q, expected %q", told, c.told)
			}
			warned := b.log.text("WARN")
			if !strings.Contains(warned, c.warned) || (warned == "") != (c.warned == "") || strings.Count(warned, "is not understood") > 1 {
				t.Errorf("warned %q", warned)
			}
		})
	}
}

// A process that has escaped from the attempt's group and goes on writing holds nothing up.
func TestProgressOfOneWhoEscapes(t *testing.T) {
	t.Parallel()
	b := with(t, fmt.Sprintf(`
%s sh -c 'echo $$ > "%s"; while echo 1; do :; done > "$OFFSTAGE_PROGRESS"' >/dev/null 2>&1 </dev/null &
while ! [ -s "%[2]s" ]; do sleep 0.01; done
`, setsid(t), filepath.Join(t.TempDir(), "pid")))
	if _, err := b.run(worker.WithProgress(t.Context(), func(float32, string) {}), job(`{}`)); err != nil {
		t.Error(err)
	}
}

func TestProgressWithoutATemporaryDirectory(t *testing.T) {
	t.Parallel()
	b := with(t, `echo "${OFFSTAGE_PROGRESS-none}"`, func(c *Config) {
		c.TempDir = filepath.Join(c.TempDir, "missing")
		c.Env = []string{"OFFSTAGE_PROGRESS=stale", "PATH=/bin:/usr/bin"}
	})
	b.succeed(t.Context(), job(`{}`))
	if got := b.log.text("INFO"); got != "none" {
		t.Errorf("OFFSTAGE_PROGRESS is %q", got)
	}
}

// What a task has written is read to its end, whatever bytes are in it, also when the task is over by then.
func TestProgressReadLate(t *testing.T) {
	t.Parallel()
	var told []string
	reading, goOn := make(chan bool), make(chan bool)
	ctx := worker.WithProgress(t.Context(), func(percent float32, message string) {
		told = append(told, fmt.Sprint(percent, " ", message))
		if percent == 1 {
			reading <- true
			<-goOn
		}
	})
	p, err := followProgress(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(p.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1\n")
	<-reading
	write("5 a\x00\xffb\n" + strings.Repeat("6\n", 3000)) // more than one read
	ended := make(chan bool)
	go func() { p.end(); close(ended) }()
	pgtest.Eventually(t, 10*time.Second, p.ended.Load)
	close(goOn)
	<-ended
	if len(told) != 3002 || told[1] != "5 a\uFFFDb" {
		t.Errorf("told %d, of them first %q", len(told), told[:min(3, len(told))])
	}
}
