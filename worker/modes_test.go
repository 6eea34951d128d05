package worker_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

// Poolers forbid some protocols, and a worker runs with all that pgx has: claims, all ways to settle, progress, marks.
func TestQueryModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			s := newStage(t)
			pool := s.db.Pool(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
			w, err := worker.New(pool, worker.Config{Log: quiet(), PollInterval: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			started := make(chan none)
			worker.Handle(w, "plain", func(ctx context.Context, job *worker.Job[map[string]string]) (map[string]string, error) {
				return job.Payload, worker.Progress(ctx, 33.3, `half's "\`)
			}, worker.MaxAttempts(7), worker.Timeout(time.Minute))
			worker.Handle(w, "complete", func(ctx context.Context, job *worker.Job[none]) (none, error) {
				return none{}, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return worker.Complete(ctx, tx, []int{1}) })
			})
			worker.Handle(w, "fail", func(ctx context.Context, job *worker.Job[none]) (none, error) {
				worker.Log(ctx).Error(`it's "broken" \`, "a", `'\`)
				return none{}, offstage.Fail(errors.New(`it's "broken" \`))
			})
			worker.Handle(w, "again", func(ctx context.Context, job *worker.Job[none]) (none, error) {
				if job.Attempt == 1 {
					return none{}, offstage.RetryIn(time.Millisecond, errors.New("not yet"))
				}
				return none{}, nil
			})
			worker.Handle(w, "cancelled", func(ctx context.Context, job *worker.Job[none]) (none, error) {
				worker.Log(ctx).Info(`it's "waiting" \`, "a", `'\`)
				close(started)
				<-ctx.Done()
				return none{}, ctx.Err()
			})
			want := map[int64]string{
				s.add("plain", map[string]string{"it's": `"\`}, offstage.Options{Flags: []string{"a"}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}): "succeeded",
				s.add("plain", nil, offstage.Options{Queue: "q", Key: "k", Priority: -1}):                                                                                       "succeeded",
				s.add("plain", nil, offstage.Options{Queue: "q", Timeout: time.Hour, MaxAttempts: 3}):                                                                           "succeeded",
				s.add("complete", nil, offstage.Options{Queue: "q"}):                                                                                                            "succeeded",
				s.add("fail", nil):  "failed",
				s.add("again", nil): "succeeded",
				s.add("plain", nil, offstage.Options{RunAt: time.Now().Add(time.Second)}): "succeeded",
			}
			cancelled := s.add("cancelled", nil)
			want[cancelled] = "cancelled"
			stop := s.run(w)
			<-started
			s.eventually(func() bool { return slices.Equal(s.log(cancelled), []string{`1 info it's "waiting" \ {"a":"'\\"}`}) }, "the log of a running job is not there")
			if _, _, err := s.client.Cancel(s.ctx(), "by hand", cancelled); err != nil {
				t.Fatal(err)
			}
			for id, outcome := range want {
				if st := s.outcome(id); string(st.Outcome) != outcome {
					t.Errorf("job %d ended as %+v, expected %s", id, st, outcome)
				} else if got := s.log(id); outcome == "failed" && !slices.Equal(got, []string{`1 error it's "broken" \ {"a":"'\\"}`}) {
					t.Errorf("the log of job %d is %q", id, got)
				}
			}
			if err := stop(); err != nil {
				t.Errorf("run: %v", err)
			}
			if n := one[int](s, "select count(*) from offstage_private.worker"); n != 0 {
				t.Errorf("%d workers are left", n)
			}
		})
	}
}
