package compat_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seed      = flag.Uint64("seed", 0, "of TestRandom's first sequence; 0: by the clock")
	sequences = flag.Int("sequences", 60, "how many sequences TestRandom plays")
)

// TestRandom plays random sequences of calls. A difference is reported as the shortest sequence found that still has
// one, with the seed that leads to it.
func TestRandom(t *testing.T) {
	t.Parallel()
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	const lanes = 2
	for lane := range lanes {
		t.Run(strconv.Itoa(lane), func(t *testing.T) {
			t.Parallel()
			p := pair{graphileSide(t, versions[0]), ours(t)}
			for i := lane; i < *sequences; i += lanes {
				from := first + uint64(i)
				steps := sequence(from, 30)
				diff, err := p.one(t.Context(), script{steps: steps})
				if err != nil {
					t.Fatalf("again with -seed %d -sequences 1: %v", from, err)
				}
				if diff == "" {
					continue
				}
				p.recover(t)
				t.Fatalf("again with -seed %d -sequences 1:\n%s", from, p.shrink(t, steps, diff))
			}
		})
	}
}

// shrink leaves steps out as long as a difference remains.
func (p pair) shrink(t *testing.T, steps []step, diff string) string {
	t.Helper()
	for size := len(steps) / 2; size > 0; size /= 2 {
		for from := 0; from < len(steps); {
			shorter := append(append([]step{}, steps[:from]...), steps[min(from+size, len(steps)):]...)
			d, err := p.one(t.Context(), script{steps: shorter})
			if d != "" || err != nil {
				p.recover(t)
			}
			if d == "" {
				from += size
			} else {
				steps, diff = shorter, d
			}
		}
	}
	return diff
}

// sequence makes the n steps that belong to a seed.
func sequence(seed uint64, n int) []step {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	steps := make([]step, 0, n+8)
	for len(steps) < n {
		switch g.IntN(40) {
		case 0: // several calls in one transaction
			level := g.pick("read committed", "repeatable read", "serializable")
			steps = append(steps, statement("begin isolation level %s", level))
			for range 2 + g.IntN(4) {
				steps = append(steps, g.call())
			}
			steps = append(steps, statement("%s", g.pick("commit", "commit", "rollback")))
		case 1, 2, 3, 4, 5, 6, 7:
			steps = append(steps, directive("claim", g.pick("a", "b"), g.pick("w1", "w2", "w3")))
		case 8, 9, 10, 11, 12:
			steps = append(steps, directive("fail", g.claimed(), g.pick("no", "boom", "what a pity")))
		case 13:
			steps = append(steps, directive("succeed", g.claimed()))
		default:
			steps = append(steps, g.call())
		}
	}
	return steps
}

type generator struct {
	*rand.Rand
	usual bool // the call has its rare value
}

func (g *generator) pick(of ...string) string { return of[g.IntN(len(of))] }

// often is a usual value, or now and then a rare one, at most once a call: of several mistakes in one call, Graphile
// Worker reports one that depends on the mode and on the plan of a join.
func (g *generator) often(usual []string, rare ...string) string {
	if g.usual || g.IntN(15) > 0 {
		return g.pick(usual...)
	}
	g.usual = true
	return g.pick(rare...)
}

// job is a number that the sequence may have given to a job by now, or may not.
func (g *generator) job() string { return strconv.Itoa(1 + g.IntN(12)) }

func (g *generator) jobs() string {
	if g.IntN(20) == 0 {
		return g.pick("null", "'{}'", "array[null]::bigint[]")
	}
	var ids []string
	for range 1 + g.IntN(4) {
		ids = append(ids, "{"+g.job()+"}")
	}
	return "array[" + strings.Join(ids, ", ") + "]"
}

// claimed is mostly the job that was claimed last.
func (g *generator) claimed() string { return g.pick("0", "0", g.job()) }

func (g *generator) taskText() string {
	return g.often([]string{"'a'", "'b'"}, "null", "''", "repeat('t', 128)", "repeat('t', 129)", `'ü "''\ {}'`)
}

func (g *generator) key() string {
	return g.often([]string{"'k1'", "'k2'", "'k3'"}, "null", "''", "' '", "repeat('k', 512)", "repeat('k', 513)", `'ü "''\ ,()'`)
}

func (g *generator) queue() string {
	return g.often([]string{"'q1'", "'q2'", "null"}, "''", "repeat('q', 128)", "repeat('q', 129)", `'ü "''\ '`)
}

func (g *generator) payload() string {
	return g.often([]string{`'[1]'`, `'[2, {"b":1,  "a":1.10}]'`, `'{"x": 1}'`, `'[]'`, `null`, `'"text"'`},
		`'null'`, `'7'`, `'{'`, `' [ ] '`, `''`, `'{"a":1,"a":[]}'`, `json_build_array(now() is null, 'x')`)
}

func (g *generator) runAt() string {
	return g.often([]string{"null", "'2001-01-01'", "now() - interval '1 hour'", "'2030-01-01'", "now()"}, "'infinity'", "'-infinity'",
		"now() + interval '1 hour'", "now() - interval '5 hours'", "'2030-01-01'::date")
}

func (g *generator) attempts() string {
	return g.often([]string{"null", "1", "2", "3"}, "0", "-1", "32767", "32768", "25")
}

func (g *generator) priority() string {
	return g.often([]string{"null", "0", "5", "-5"}, "32767", "-32768", "40000", "1::smallint")
}

func (g *generator) flags() string {
	return g.often([]string{"null", "array['f']", "array['g', 'f']"}, "'{}'", "array['f', null]", "array['']", "array['f', 'f']")
}

func (g *generator) mode() string {
	return g.often([]string{"'replace'", "'preserve_run_at'", "'unsafe_dedupe'"}, "null", "''", "'REPLACE'")
}

func (g *generator) call() step {
	g.usual = false
	switch g.IntN(20) {
	case 0, 1:
		return statement("select * from gw.remove_job(%s)", g.key())
	case 2:
		return statement("select gw.remove_job(%s)", g.key())
	case 3:
		return statement("select * from gw.complete_jobs(%s)", g.jobs())
	case 4, 5:
		return statement("select * from gw.permanently_fail_jobs(%s%s)", g.jobs(), g.pick("", ", null", ", ''", ", 'stop'"))
	case 6, 7, 8:
		return statement("select * from gw.reschedule_jobs(%s%s)", g.jobs(), g.some(map[string]func() string{
			// No numbers beyond smallint here: whether theirs are an error where no job is changed depends on when
			// PostgreSQL evaluates the argument, which version 18 has changed. The scripts have them where one is, and
			// negative attempts, whose delays are shorter than what two clocks agree on.
			"run_at":       g.runAt,
			"priority":     func() string { return g.often([]string{"null", "0", "5", "-5"}, "32767", "-32768", "1::smallint") },
			"max_attempts": func() string { return g.often([]string{"null", "1", "2", "3"}, "0", "-1", "32767", "25") },
			"attempts":     func() string { return g.often([]string{"null", "0", "1", "2"}, "99") },
		}))
	case 9:
		return statement("select from gw.force_unlock_workers(array[%s])", g.pick("'{w1}'", "'{w2}'", "'{w1}', '{w3}'", "'nobody'", "null"))
	case 10, 11, 12:
		return statement("select * from gw.add_jobs(%s%s)", g.specs(), g.pick("", ", false", ", true", ", null"))
	case 13:
		return statement("select gw.add_job(%s, %s, job_key := %s, job_key_mode := %s)", g.taskText(), g.payload(), g.key(), g.mode())
	default:
		return statement("select * from gw.add_job(%s%s)", g.taskText(), g.some(map[string]func() string{
			"payload": g.payload, "queue_name": g.queue, "run_at": g.runAt, "max_attempts": g.attempts,
			"job_key": g.key, "priority": g.priority, "flags": g.flags, "job_key_mode": g.mode,
		}))
	}
}

// some gives about half of the arguments, by name.
func (g *generator) some(args map[string]func() string) string {
	var b strings.Builder
	for _, name := range []string{"payload", "queue_name", "run_at", "max_attempts", "attempts", "job_key", "priority", "flags", "job_key_mode"} {
		if value := args[name]; value != nil && g.IntN(2) == 0 {
			fmt.Fprintf(&b, ", %s := %s", name, value())
		}
	}
	return b.String()
}

func (g *generator) specs() string {
	if g.IntN(20) == 0 {
		return g.pick("null", "'{}'", "array[null]::gw.job_spec[]")
	}
	keys := []string{"null", "null", "'k1'", "'k2'", "'k3'"}
	g.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var specs []string
	for i := range 1 + g.IntN(4) {
		key := g.often(keys[i:i+1], "''", "' '", "repeat('k', 512)", "repeat('k', 513)", "'k1'", "'k2'")
		specs = append(specs, fmt.Sprintf("(%s, %s, %s, %s, %s, %s, %s, %s)::gw.job_spec", g.taskText(), g.payload(),
			g.queue(), g.runAt(), g.attempts(), key, g.priority(), g.flags()))
	}
	return "array[" + strings.Join(specs, ", ") + "]"
}
