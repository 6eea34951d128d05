package offstageotel_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/offstageotel"
	"github.com/offstage-dev/offstage/worker"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type payload struct {
	Do string `json:"do"`
}

// stage is a database, a client that traces, and where spans go.
type stage struct {
	t      *testing.T
	db     *pgtest.DB
	client *offstage.Client
	spans  *tracetest.InMemoryExporter
	tracer trace.Tracer
	with   offstageotel.Option
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	s := &stage{t: t, db: pgtest.New(t), spans: tracetest.NewInMemoryExporter()}
	provider := sdk.NewTracerProvider(sdk.WithSyncer(s.spans))
	s.tracer, s.with = provider.Tracer("test"), offstageotel.WithProvider(provider)
	var err error
	if s.client, err = offstage.New(s.db.Pool(t), offstage.Config{Traceparent: offstageotel.Traceparent}); err != nil {
		t.Fatal(err)
	}
	return s
}

// work runs what there is, and answers the spans by the job's id; 0 is the adder's.
func (s *stage) work(options ...offstageotel.Option) map[int64]tracetest.SpanStub {
	s.t.Helper()
	w, err := worker.New(s.db.Pool(s.t), worker.Config{
		Log: slog.New(slog.DiscardHandler), Middleware: []func(worker.Handler) worker.Handler{offstageotel.Middleware(append(options, s.with)...)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	worker.Handle(w, "mail", func(ctx context.Context, job *worker.Job[payload]) (string, error) {
		switch job.Payload.Do {
		case "fail":
			return "", fmt.Errorf("send: %w", errors.New("mailbox full"))
		case "give up":
			return "", offstage.Fail(errors.New("no such address"))
		case "snooze":
			return "", offstage.Snooze(time.Hour)
		case "panic":
			panic("out of paper")
		case "exit":
			runtime.Goexit()
		case "add":
			_, err := s.client.Add(ctx, "mail", payload{})
			return offstageotel.Traceparent(ctx), err
		}
		if job.Traceparent != offstageotel.Traceparent(ctx) {
			return "", offstage.Fail(errors.New("the job has another trace than the context: " + job.Traceparent))
		}
		return offstageotel.Traceparent(ctx), nil
	})
	if err := w.RunOnce(pgtest.Context(s.t)); err != nil {
		s.t.Fatal(err)
	}
	all := map[int64]tracetest.SpanStub{}
	for _, x := range s.spans.GetSpans() {
		var id int64
		for _, a := range x.Attributes {
			if a.Key == "messaging.message.id" {
				if _, err := fmt.Sscan(a.Value.AsString(), &id); err != nil {
					s.t.Fatal(err)
				}
			}
		}
		if _, twice := all[id]; !twice {
			all[id] = x
		}
	}
	return all
}

func value(x tracetest.SpanStub, key string) attribute.Value {
	for _, a := range x.Attributes {
		if string(a.Key) == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

// However a job is added, its attempt is in the adder's trace.
func TestOneTrace(t *testing.T) {
	s := newStage(t)
	ctx, span := s.tracer.Start(pgtest.Context(t), "checkout")
	pool := s.db.Pool(t)
	var ids []int64
	note := func(id int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	note(s.client.Add(ctx, "mail", nil))
	note(s.client.Add(ctx, "mail", nil, offstage.Options{Queue: "q", MaxAttempts: 3, Priority: 2}))
	alike := []offstage.Spec{{Task: "mail"}, {Task: "mail"}}
	mixed := []offstage.Spec{{Task: "mail"}, {Task: "mail", Options: offstage.Options{Priority: 1}}}
	for _, specs := range [][]offstage.Spec{alike, mixed} {
		list, err := s.client.AddMany(ctx, specs)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, list...)
		if specs[0].Traceparent != "" {
			t.Error("the caller's specs were changed")
		}
	}
	if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		note(s.client.With(tx).Add(ctx, "mail", nil))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	note(pgtest.One[int64](t, pool, `select id from offstage.add_job('mail', options := json_build_object('traceparent', $1::text))`, offstageotel.Traceparent(ctx)), nil)
	note(s.client.Add(ctx, "mail", payload{"add"}))
	span.End()
	ids = append(ids, ids[len(ids)-1]+1) // what that one adds

	const elsewhere = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	named, err := s.client.Add(ctx, "mail", nil, offstage.Options{Traceparent: elsewhere, RunAt: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	alone, err := s.client.Add(pgtest.Context(t), "mail", nil)
	if err != nil {
		t.Fatal(err)
	}
	strange := pgtest.One[int64](t, pool, `select id from offstage.add_job('mail', options := '{"traceparent": "what is this"}')`)
	ids[len(ids)-1] = strange + 1

	got := s.work()
	parent := span.SpanContext()
	if len(got) != len(ids)+4 || parent.TraceID() != got[0].SpanContext.TraceID() {
		t.Fatalf("%d spans of %d jobs", len(got), len(ids)+3)
	}
	for i, id := range ids {
		x := got[id]
		from := parent.SpanID()
		if i == len(ids)-1 {
			from = got[ids[i-1]].SpanContext.SpanID()
		}
		if x.Name != "process mail" || x.SpanKind != trace.SpanKindConsumer || x.SpanContext.TraceID() != parent.TraceID() || x.Parent.SpanID() != from || x.Status.Code != codes.Unset {
			t.Errorf("job %d: %s in trace %s, parent %s: %v", id, x.Name, x.SpanContext.TraceID(), x.Parent.SpanID(), x.Status)
		}
		st, err := s.client.Status(pgtest.Context(t), id)
		if err != nil || !strings.Contains(string(st.Result), x.SpanContext.SpanID().String()) {
			t.Errorf("job %d: the handler was in %s (%v)", id, st.Result, err)
		}
	}
	if x := got[named]; x.SpanContext.TraceID().String() != elsewhere[3:35] || x.Parent.SpanID().String() != elsewhere[36:52] {
		t.Errorf("the one that was named: %v", x)
	}
	for _, id := range []int64{alone, strange} {
		if x := got[id]; x.Parent.IsValid() || x.SpanContext.TraceID() == parent.TraceID() {
			t.Errorf("the one without a trace: %v", x)
		}
	}
	x := got[ids[1]]
	for key, want := range map[string]string{
		"messaging.system": "offstage", "messaging.operation.type": "process", "messaging.destination.name": "mail", "messaging.message.id": fmt.Sprint(ids[1]),
		"offstage.job.queue": "q", "offstage.job.attempt": "1", "offstage.job.max_attempts": "3", "offstage.job.priority": "2", "messaging.client.id": "worker-1",
	} {
		if v := value(x, key); v.String() != want {
			t.Errorf("%s is %q, want %q", key, v.String(), want)
		}
	}
}

// Links make traces of their own.
func TestLinks(t *testing.T) {
	s := newStage(t)
	ctx, span := s.tracer.Start(pgtest.Context(t), "import")
	id, err := s.client.Add(ctx, "mail", nil)
	if err != nil {
		t.Fatal(err)
	}
	span.End()
	x := s.work(offstageotel.WithLinks())[id]
	if x.Parent.IsValid() || x.SpanContext.TraceID() == span.SpanContext().TraceID() || len(x.Links) != 1 || x.Links[0].SpanContext.SpanID() != span.SpanContext().SpanID() {
		t.Errorf("%+v", x)
	}
}

// What went wrong is in the span; what is no error is not.
func TestEndings(t *testing.T) {
	s := newStage(t)
	ids := map[string]int64{}
	for _, do := range []string{"fail", "give up", "snooze", "panic", "exit"} {
		id, err := s.client.Add(pgtest.Context(t), "mail", payload{do})
		if err != nil {
			t.Fatal(err)
		}
		ids[do] = id
	}
	got := s.work()
	for do, want := range map[string]string{"fail": "send: mailbox full", "give up": "no such address", "panic": "panic: out of paper", "exit": "the handler ended its goroutine (runtime.Goexit)"} {
		x := got[ids[do]]
		if x.Status.Code != codes.Error || x.Status.Description != want || len(x.Events) != 1 || x.Events[0].Name != "exception" || value(x, "error.type").AsString() == "" {
			t.Errorf("%s: %v %v", do, x.Status, x.Events)
		}
	}
	if x := got[ids["snooze"]]; x.Status.Code == codes.Error || len(x.Events) != 0 || value(x, "offstage.attempt.ending").AsString() != "snooze" {
		t.Errorf("snooze: %v %v", x.Status, x.Attributes)
	}
	// The panic's stack is the job's error, as without traces.
	text := pgtest.One[string](t, s.db.Pool(t), `select last_error from offstage.jobs where id = $1`, ids["panic"])
	if !strings.Contains(text, "panic: out of paper") || !strings.Contains(text, "otel_test.go") {
		t.Errorf("%s", text)
	}
}

// Without a trace there is none.
func TestNoTrace(t *testing.T) {
	t.Parallel()
	if got := offstageotel.Traceparent(context.Background()); got != "" {
		t.Error(got)
	}
}
