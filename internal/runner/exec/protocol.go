package exec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/offstage-dev/offstage"
)

// What a task is told, and how. The variables and stdin are those of Graphile Worker's executables; the last three are ours.
const (
	variablePrefix   = "GRAPHILE_WORKER_"
	keyVariable      = variablePrefix + "JOB_KEY"
	resultVariable   = "OFFSTAGE_RESULT"
	progressVariable = "OFFSTAGE_PROGRESS"
	traceVariable    = "TRACEPARENT" // as OpenTelemetry has it for environments
)

// environment is inherited with the job's variables; result and progress are the paths for those, "" if none can be taken.
func environment(inherited []string, job *offstage.Job, result, progress string) []string {
	// These may be absent, so a value of the worker's own must not show through.
	env := slices.DeleteFunc(slices.Clone(inherited), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == keyVariable || name == resultVariable || name == progressVariable || name == traceVariable
	})
	set := func(name, value string) { env = append(env, name+"="+value) }
	set(variablePrefix+"PAYLOAD_FORMAT", "json")
	set(variablePrefix+"TASK_IDENTIFIER", job.Task)
	set(variablePrefix+"JOB_ID", strconv.FormatInt(job.ID, 10))
	if job.Key != "" {
		set(keyVariable, job.Key)
	}
	set(variablePrefix+"JOB_ATTEMPTS", strconv.Itoa(job.Attempt))
	set(variablePrefix+"JOB_MAX_ATTEMPTS", strconv.Itoa(job.MaxAttempts))
	set(variablePrefix+"JOB_PRIORITY", strconv.Itoa(job.Priority))
	set(variablePrefix+"JOB_RUN_AT", job.RunAt.UTC().Format("2006-01-02T15:04:05.000Z"))
	if job.Traceparent != "" {
		set(traceVariable, job.Traceparent)
	}
	if result != "" {
		set(resultVariable, result)
	}
	if progress != "" {
		set(progressVariable, progress)
	}
	return env
}

// input is what the task finds on stdin: one line, because scripts read lines, whatever white space the payload came
// with, and without a line end, as in Graphile Worker.
func input(job *offstage.Job) ([]byte, error) {
	payload := job.Payload
	if len(payload) == 0 {
		payload = json.RawMessage("null")
	}
	var b bytes.Buffer
	b.Grow(len(payload) + len(`{"payload":}`))
	b.WriteString(`{"payload":`)
	if err := json.Compact(&b, payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
