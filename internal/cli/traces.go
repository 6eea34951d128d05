package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/offstageotel"
	"github.com/offstage-dev/offstage/worker"
)

// traces exports a span for each attempt, where OpenTelemetry's own variables say that somebody takes them: nil without an
// OTEL_EXPORTER_OTLP_ENDPOINT. Spans are sent in the background, a few seconds late; flush sends what is left.
func (a *app) traces(log *slog.Logger) (middleware func(worker.Handler) worker.Handler, flush func(), err error) {
	url := a.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if base := a.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"); url == "" && base != "" {
		url = strings.TrimSuffix(base, "/") + "/v1/traces"
	}
	if url == "" || strings.EqualFold(a.Getenv("OTEL_SDK_DISABLED"), "true") || a.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, func() {}, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := a.Getenv(name); protocol == "http/protobuf" {
			break
		} else if protocol != "" {
			return nil, nil, failed(Usage, "set "+name+"=http/protobuf, and the port of that, often 4318", "%s is %q, and traces go by HTTP only", name, protocol)
		}
	}
	// Headers, certificates and timeouts it takes from the environment itself.
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(url))
	if err != nil {
		return nil, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(a.resource()))
	log.Info("traces are exported")
	return offstageotel.Middleware(offstageotel.WithProvider(provider)), func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Warn("some traces could not be exported", "error", err)
		}
	}, nil
}

// resource says whose spans these are. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go first.
func (a *app) resource() *resource.Resource {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	ours := resource.NewSchemaless(
		attribute.String("service.name", "offstage-worker"), attribute.String("service.version", offstage.Version),
		attribute.String("service.instance.id", fmt.Sprintf("%s-%d", host, os.Getpid())), attribute.String("host.name", host), attribute.Int("process.pid", os.Getpid()))
	theirs := resource.Environment()
	if name := a.Getenv("OTEL_SERVICE_NAME"); name != "" {
		theirs = merged(theirs, resource.NewSchemaless(attribute.String("service.name", name)))
	}
	return merged(ours, theirs)
}

// merged is both; where they differ, the second.
func merged(first, second *resource.Resource) *resource.Resource {
	both, err := resource.Merge(first, second)
	if err != nil { // of different versions of the conventions; the names we use are the same in all of them
		return resource.NewSchemaless(append(first.Attributes(), second.Attributes()...)...)
	}
	return both
}

var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// traceparent is the trace that this call belongs to: a task that calls offstage add adds to its own.
func (a *app) traceparent(context.Context) string {
	if parent := a.Getenv("TRACEPARENT"); traceparent.MatchString(parent) {
		return parent
	}
	return ""
}
