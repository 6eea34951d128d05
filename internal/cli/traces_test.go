package cli

import (
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracing "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/offstage-dev/offstage"
)

// sink takes what is exported by OTLP over HTTP.
type sink struct {
	mu      sync.Mutex // guards what is below
	spans   map[string]*tracing.Span
	service string
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var request collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, from := range request.ResourceSpans {
		for _, a := range from.Resource.Attributes {
			if a.Key == "service.name" {
				s.service = a.Value.GetStringValue()
			}
		}
		for _, scope := range from.ScopeSpans {
			for _, x := range scope.Spans {
				s.spans[x.Name] = x
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func attributesOf(x *tracing.Span) map[string]string {
	all := map[string]string{}
	for _, a := range x.Attributes {
		all[a.Key] = strings.Trim(strings.SplitN(a.Value.String(), ":", 2)[1], `"`)
	}
	return all
}

// A trace that was given in SQL goes through a script, which adds another job with offstage add, and through JavaScript.
func TestWorkerTraces(t *testing.T) {
	s := newStage(t)
	s.script("first.sh", "#!/bin/sh\necho \"\\\"$TRACEPARENT\\\"\" > \"$OFFSTAGE_RESULT\"\n")
	s.script("bad.sh", "#!/bin/sh\necho no such file >&2\nexit 3\n")
	s.script("second.js", "module.exports = async (payload, { traceparent, addJob }) => { await addJob('third', {}); return traceparent }\n")
	s.script("third.js", "module.exports = async (payload, { traceparent }) => traceparent\n")
	spans := &sink{spans: map[string]*tracing.Span{}}
	server := httptest.NewServer(spans)
	defer server.Close()
	s.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.URL
	s.env["OTEL_SERVICE_NAME"] = "shop"
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	given := "00-" + trace + "-" + parent + "-01"
	s.exec(`select offstage.add_job('first', options := json_build_object('traceparent', $1::text)), offstage.add_job('bad', max_attempts := 1, options := json_build_object('traceparent', $1::text))`, given)
	s.env["TRACEPARENT"] = given
	s.want(Done, "add", "second", "{}")
	s.env["TRACEPARENT"] = "not one"
	s.want(Done, "add", "untraced", "{}")
	s.want(Done, "worker", "--once", "--node-processes", "1").says(t, "traces are exported")

	spans.mu.Lock()
	defer spans.mu.Unlock()
	if spans.service != "shop" || len(spans.spans) != 4 {
		t.Fatalf("%s %v", spans.service, spans.spans)
	}
	parents := map[string]string{}
	for name, x := range spans.spans {
		if hex.EncodeToString(x.TraceId) != trace || x.Kind != tracing.Span_SPAN_KIND_CONSUMER {
			t.Errorf("%s is in trace %x, kind %v", name, x.TraceId, x.Kind)
		}
		parents[name] = hex.EncodeToString(x.ParentSpanId)
	}
	third := hex.EncodeToString(spans.spans["process second"].SpanId)
	for name, want := range map[string]string{"process first": parent, "process bad": parent, "process second": parent, "process third": third} {
		if parents[name] != want {
			t.Errorf("the parent of %q is %s, want %s", name, parents[name], want)
		}
	}
	bad := spans.spans["process bad"]
	if bad.Status.GetCode() != tracing.Status_STATUS_CODE_ERROR || !strings.Contains(bad.Status.Message, "no such file") || len(bad.Events) != 1 {
		t.Errorf("%v", bad)
	}
	if got := attributesOf(bad); got["messaging.system"] != "offstage" || got["messaging.destination.name"] != "bad" || got["messaging.message.id"] != "2" || got["offstage.job.attempt"] != "1" {
		t.Errorf("%v", got)
	}
	for id, name := range map[int64]string{1: "process first", 3: "process second", 5: "process third"} {
		st, err := s.client.Status(t.Context(), id)
		want := `"00-` + trace + "-" + hex.EncodeToString(spans.spans[name].SpanId) + `-01"`
		if err != nil || st.Outcome != offstage.OutcomeSucceeded || string(st.Result) != want {
			t.Errorf("%s was told %s (%v), want %s", name, st.Result, err, want)
		}
	}
}

func TestTracesEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  map[string]string
		on   bool
		fail string
	}{
		{nil, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, true, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, true, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false, `is "grpc", and traces go by HTTP only`},
	} {
		s := onStage(t, "")
		s.env = c.env
		m, _, _ := s.call()
		middleware, flush, err := (&app{Main: m}).traces(quietLog)
		if (middleware != nil) != c.on || (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%v: %v %v", c.env, middleware != nil, err)
		}
		if err == nil {
			flush()
		}
	}
}

var quietLog = slog.New(slog.DiscardHandler)
