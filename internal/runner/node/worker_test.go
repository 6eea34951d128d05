package node

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/worker"
)

// employ runs a worker with these files on a database of its own until the test ends.
func employ(t *testing.T, files map[string]string, adjust ...func(*Config)) (*offstage.Client, *pgxpool.Pool, *bench) {
	t.Helper()
	db := pgtest.New(t)
	pool := db.Pool(t)
	client, err := offstage.New(pool, offstage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	b := open(t, files, append([]func(*Config){func(c *Config) { c.Pool, c.URL = pool, db.URL }}, adjust...)...)
	w, err := worker.New(pool, worker.Config{Jobs: 4, Runners: []worker.Runner{b}, Log: slog.New(b.log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client, pool, b
}

func TestHelpers(t *testing.T) {
	t.Parallel()
	client, pool, b := employ(t, map[string]string{
		"progress.js": `module.exports = async (payload, { progress, abortSignal }) => {
			for (let i = 0; i <= 40; i++) progress(i, "step " + i);
			await progress(42.5, "the last");
			await new Promise((done) => abortSignal.addEventListener("abort", done)) }`,
		"query.js": `module.exports = async (payload, { query }) => query("select 1")`,
		"add.js": `module.exports = async (payload, { addJob, addJobs, job, getQueueName }) => {
			const one = await addJob("done", { n: 1 }, { options: { keep: "all" }, notifyChannel: "somebody" });
			const [two] = await addJobs([{ identifier: "done", payload: { n: 2 }, queueName: "later", priority: 2 }]);
			const wrong = await addJob("x".repeat(200)).catch((e) => [e.code, e.constraint, e.message.length > 10, e.stack.includes("add.js")]);
			return [one.task_identifier, one.payload, typeof one.id, one.run_at instanceof Date, two.priority, await getQueueName(), await getQueueName(two.job_queue_id),
				job.locked_by.startsWith("worker-"), job.task_id > 0, wrong] }`,
		"done.js": `module.exports = ({ n }) => n`,
		"traced.js": `module.exports = async (payload, { traceparent, addJob, addJobs }) => {
			await addJob("traceless", {}, { options: { keep: "all" } });
			await addJobs([{ identifier: "traceless", payload: {} }]);
			await addJob("traceless", {}, { options: { traceparent: "00-2-2-00" } });
			return traceparent ?? "none" }`,
	})
	// What a task adds is in its trace.
	for parent, want := range map[string]string{"00-1-1-01": "00-1-1-01 00-1-1-01 00-2-2-00", "": "00-2-2-00"} {
		id, err := client.Add(t.Context(), "traced", nil, offstage.Options{Traceparent: parent})
		if err != nil {
			t.Fatal(err)
		}
		b.eventually(func() bool { st, err := client.Status(t.Context(), id); return err == nil && st.Outcome != "" })
		st, err := client.Status(t.Context(), id)
		if told := `"` + cmp.Or(parent, "none") + `"`; err != nil || string(st.Result) != told {
			t.Errorf("%s %v, want %s", st.Result, err, told)
		}
		var added string
		err = pool.QueryRow(t.Context(), `with gone as (select j.id, j.options ->> 'traceparent' as trace from offstage_private.job j join offstage_private.task t on t.id = j.task_id where t.name = 'traceless')
			select string_agg(trace, ' ' order by id) from (select id, trace from gone, lateral offstage.delete_jobs(array[id])) x`).Scan(&added)
		if err != nil || added != want {
			t.Errorf("added in %q, want %q (%v)", added, want, err)
		}
	}

	id, err := client.Add(t.Context(), "progress", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.eventually(func() bool {
		st, err := client.Status(t.Context(), id)
		return err == nil && st.Progress != nil && *st.Progress == 42.5 && st.Message == "the last"
	})
	if _, err := pool.Exec(t.Context(), `select offstage.cancel_jobs(array[$1::bigint], 'enough')`, id); err != nil {
		t.Fatal(err)
	}
	b.eventually(func() bool { st, err := client.Status(t.Context(), id); return err == nil && st.Outcome != "" })

	if id, err = client.Add(t.Context(), "query", nil); err != nil {
		t.Fatal(err)
	}
	b.eventually(func() bool {
		st, err := client.Status(t.Context(), id)
		return err == nil && strings.Contains(st.Error, "type npm install pg in your project")
	})

	if id, err = client.Add(t.Context(), "add", nil, offstage.Options{Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	result, err := offstage.Await[string](t.Context(), client, id)
	if err == nil || result != "" { // it is an array
		t.Errorf("%q %v", result, err)
	}
	st, err := client.Status(t.Context(), id)
	if want := `["done",{"n":1},"string",true,2,"q","later",true,true,["23514","tasks_identifier_check",true,true]]`; err != nil || string(st.Result) != want {
		t.Errorf("%s %s %v", st.Result, st.Error, err)
	}
}

// A job that kills its process is set aside at the third time, and costs the jobs beside it no attempt.
func TestKiller(t *testing.T) {
	t.Parallel()
	client, _, b := employ(t, map[string]string{
		"killer.js": `module.exports = async () => { await new Promise((done) => setTimeout(done, 20)); process.kill(process.pid, "SIGKILL") }`,
		"good.js":   `module.exports = (payload, { job }) => new Promise((done) => setTimeout(done, 200, job.attempts))`,
	})
	var good []int64
	for range 3 {
		id, err := client.Add(t.Context(), "good", nil)
		if err != nil {
			t.Fatal(err)
		}
		good = append(good, id)
	}
	killer, err := client.Add(t.Context(), "killer", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range good {
		if attempt, err := offstage.Await[int](t.Context(), client, id); err != nil || attempt != 1 {
			t.Errorf("attempt %d, %v", attempt, err)
		}
	}
	b.eventually(func() bool {
		st, err := client.Status(t.Context(), killer)
		return err == nil && st.State == offstage.Failed && strings.Contains(st.Error, "the third time in a row: set aside") && strings.Contains(st.Error, "its Node process died (signal: killed)")
	})
}
