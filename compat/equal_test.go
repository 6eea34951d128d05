package compat_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestScripts plays the scripts of testdata, and every combination of what a keyed job is when its key comes again,
// of job_key_mode, and of what is given.
func TestScripts(t *testing.T) {
	t.Parallel()
	// A few pairs for all: to make one takes longer than to play a file.
	const lanes = 3
	free := make(chan pair, lanes)
	for range lanes {
		free <- pair{graphileSide(t, versions[0]), ours(t)}
	}
	play := func(name string, scripts []script) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := <-free
			defer func() { free <- p }()
			p = playAll(t, p, scripts, ours)
		})
	}
	for _, file := range files(t) {
		play(strings.TrimSuffix(filepath.Base(file), ".txt"), read(t, file))
	}
	modes := jobKeyModes()
	for len(modes) > 0 {
		state, _, _ := strings.Cut(modes[0].name, ",")
		n := slices.IndexFunc(modes, func(s script) bool { return !strings.HasPrefix(s.name, state+",") })
		if n < 0 {
			n = len(modes)
		}
		play("job_key_mode/"+state, modes[:n])
		modes = modes[n:]
	}
}

func files(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	return files
}

func jobKeyModes() []script {
	again := statement("select * from gw.reschedule_jobs(array[{1}], run_at := '2001-01-01')")
	states := []script{
		{"none", nil},
		{"waiting", []step{}},
		{"to be tried again", []step{directive("claim", "a", "w1"), directive("fail", "1", "no")}},
		{"failed for good", []step{statement("select * from gw.permanently_fail_jobs(array[{1}], 'no')")}},
		{"out of attempts", []step{
			directive("claim", "a", "w1"), directive("fail", "1", "no"), again,
			directive("claim", "a", "w1"), directive("fail", "1", "no"), again,
			directive("claim", "a", "w1"), directive("fail", "1", "no"),
		}},
		{"running", []step{directive("claim", "a", "w1")}},
		{"running its last attempt", []step{
			statement("select * from gw.reschedule_jobs(array[{1}], attempts := 2)"), directive("claim", "a", "w1"),
		}},
		{"running again", []step{
			directive("claim", "a", "w1"), directive("fail", "1", "no"), again, directive("claim", "a", "w1"),
		}},
	}
	modes := []string{"", ", job_key_mode := 'replace'", ", job_key_mode := 'preserve_run_at'", ", job_key_mode := 'unsafe_dedupe'", ", job_key_mode := null"}
	first := []string{
		`'a', '[1, {"b":1,  "a":1}]', 'q', '2001-01-01', 3, 'k', 4, '{f}'`,
		`'a', '{"b":1,  "a":1}', max_attempts := 3, job_key := 'k'`,
	}
	second := []string{
		`'a', job_key := 'k'`,
		`'b', '[2]', 'q2', '2040-01-01', 7, 'k', -4, '{g,h}'`,
		`'a', '{"new":true}', run_at := now() - interval '1 hour', job_key := 'k'`,
	}
	var scripts []script
	for _, state := range states {
		for i, f := range first {
			for j, s := range second {
				for _, mode := range modes {
					var steps []step
					if state.steps != nil {
						steps = append(steps, statement("select * from gw.add_job(%s)", f))
					}
					steps = append(steps, state.steps...)
					steps = append(steps, statement("select * from gw.add_job(%s%s)", s, mode),
						statement("select gw.add_job(%s%s)", s, mode), directive("fail", "1", "late"),
						statement("select * from gw.add_job(%s%s)", s, mode))
					scripts = append(scripts, script{fmt.Sprintf("%s, first %d, second %d%s", state.name, i+1, j+1, mode), steps})
				}
			}
		}
	}
	return scripts
}

// playAll plays scripts one after the other in a pair of databases, and returns the pair; or none, when it cannot be
// used any more and had to be replaced.
func playAll(t *testing.T, p pair, scripts []script, got func(*testing.T) *side) pair {
	t.Helper()
	usable := p
	for _, s := range scripts {
		if p.want == nil {
			p = pair{graphileSide(t, versions[0]), got(t)}
		}
		diff, err := p.one(t.Context(), s)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		} else if diff != "" {
			t.Errorf("%s:\n%s", s.name, diff)
		}
		if (err != nil || diff != "") && !p.recover(t) {
			_ = p.want.conn.Close(t.Context())
			_ = p.got.conn.Close(t.Context())
			p, usable = pair{}, pair{}
		}
	}
	return usable
}

// one plays a script in a pair without jobs, and leaves it so.
func (p pair) one(ctx context.Context, s script) (string, error) {
	p.want.forget()
	p.got.forget()
	diff, err := p.play(ctx, s.steps)
	if diff != "" || err != nil {
		return diff, err
	}
	return p.wipe(ctx)
}

// recover ends all jobs after a difference; false: the databases cannot be used any more.
func (p pair) recover(t *testing.T) bool {
	t.Helper()
	for _, s := range []*side{p.want, p.got} {
		for _, sql := range append([]string{"rollback"}, wiping...) {
			_, _ = s.conn.Exec(t.Context(), s.fill(statement("%s", sql).sql)).ReadAll()
		}
	}
	return p.empty(t.Context())
}
