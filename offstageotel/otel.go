// Package offstageotel carries OpenTelemetry traces from who adds a job to its attempts: the job has the trace context with it,
// as text in the database, so that it may come from Go, from SQL, or from any program.
//
// The adder's side is offstage.Config.Traceparent, the worker's worker.Config.Middleware:
//
//	client, err := offstage.New(pool, offstage.Config{Traceparent: offstageotel.Traceparent})
//	w, err := worker.New(pool, worker.Config{Middleware: []func(worker.Handler) worker.Handler{offstageotel.Middleware()}})
//
// In SQL it is an option: add_job('send_email', …, options => '{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}').
package offstageotel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/worker"
)

var w3c propagation.TraceContext

// Traceparent is the trace context of ctx as W3C writes it; "" outside of a trace. It is what offstage.Config.Traceparent wants.
// The vendor's part of it (tracestate) and baggage do not travel.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// Option of Middleware.
type Option func(*config)

type config struct {
	provider trace.TracerProvider
	links    bool
}

// WithProvider says where spans go. Default: OpenTelemetry's global provider, as it is when an attempt starts.
func WithProvider(p trace.TracerProvider) Option { return func(c *config) { c.provider = p } }

// WithLinks makes each attempt a trace of its own with a link to who added the job, instead of a part of that trace: for jobs
// that run long after, or that belong to what goes on for days.
func WithLinks() Option { return func(c *config) { c.links = true } }

// Middleware starts a span "process <task>" for each attempt, a child of the span in which the job was added. The handler's
// context has it, and so has what it calls and adds; so has the job that the handler gets (Job.Traceparent), with which runners
// pass it on to other programs. An attempt that fails leaves the error in its span; one that is snoozed, cancelled or given back does not.
func Middleware(options ...Option) func(worker.Handler) worker.Handler {
	var c config
	for _, o := range options {
		o(&c)
	}
	return func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, job *offstage.Job) (result json.RawMessage, err error) {
			ctx, span := c.start(ctx, job)
			returned := false
			defer func() {
				p := recover()
				if !returned { // with runtime.Goexit there is nothing to recover
					err = died(p)
				}
				end(ctx, span, err)
				if p != nil {
					panic(p) // the worker's to catch; the stack is still there
				}
			}()
			if parent := Traceparent(ctx); parent != "" {
				traced := *job
				traced.Traceparent = parent
				job = &traced
			}
			result, err = next(ctx, job)
			returned = true
			return result, err
		}
	}
}

// died is the error of a handler that did not return.
func died(panicked any) error {
	if panicked == nil {
		return errors.New("the handler ended its goroutine (runtime.Goexit)")
	}
	return fmt.Errorf("panic: %v", panicked)
}

func (c config) start(ctx context.Context, job *offstage.Job) (context.Context, trace.Span) {
	provider := c.provider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	tracer := provider.Tracer("github.com/offstage-dev/offstage/offstageotel", trace.WithInstrumentationVersion(offstage.Version))
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes(ctx, job)...)}
	from := w3c.Extract(ctx, propagation.MapCarrier{"traceparent": job.Traceparent}) // what cannot be read leaves ctx as it is
	if c.links {
		options = append(options, trace.WithNewRoot())
		if added := trace.SpanContextFromContext(from); added.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: added}))
		}
		from = ctx
	}
	return tracer.Start(from, "process "+job.Task, options...)
}

// attributes are named as OpenTelemetry's conventions for messaging have them, and offstage.* where they have nothing.
func attributes(ctx context.Context, job *offstage.Job) []attribute.KeyValue {
	list := []attribute.KeyValue{
		attribute.String("messaging.system", "offstage"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", job.Task),
		attribute.String("messaging.message.id", strconv.FormatInt(job.ID, 10)),
		attribute.Int("messaging.message.body.size", len(job.Payload)),
		attribute.Int("offstage.job.attempt", job.Attempt),
		attribute.Int("offstage.job.max_attempts", job.MaxAttempts),
		attribute.Int("offstage.job.priority", job.Priority),
	}
	if job.HasQueue {
		list = append(list, attribute.String("offstage.job.queue", job.Queue))
	}
	if claim, ok := worker.ClaimOf(ctx); ok {
		list = append(list, attribute.String("messaging.client.id", "worker-"+strconv.Itoa(int(claim.Worker))))
	}
	return list
}

// end ends the span with what became of the attempt.
func end(ctx context.Context, span trace.Span, err error) {
	defer span.End()
	var control *offstage.Control
	switch cause := context.Cause(ctx); {
	case err == nil:
	case errors.As(err, &control) && control.Verb != "fail" && control.Verb != "retry" && control.Verb != "crash":
		span.SetAttributes(attribute.String("offstage.attempt.ending", control.Verb))
	case control == nil && errors.Is(cause, offstage.ErrCancelled):
		span.SetAttributes(attribute.String("offstage.attempt.ending", "cancel"))
	case control == nil && (errors.Is(cause, offstage.ErrStopping) || errors.Is(cause, offstage.ErrLost)):
		span.SetAttributes(attribute.String("offstage.attempt.ending", "release"))
	default:
		span.RecordError(err)
		span.SetAttributes(attribute.String("error.type", fmt.Sprintf("%T", err)))
		span.SetStatus(codes.Error, err.Error())
	}
}
