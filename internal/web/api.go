package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/offstage-dev/offstage"
	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

// api is the HTTP API: the same contract as the pages', for programs. This file is all that knows how huma works; the operations
// are in the files api_*.go.
type api struct {
	*Server
	huma   huma.API
	mux    *http.ServeMux
	follow *followers

	waiting   chan struct{} // as many as may wait for jobs
	keepAlive time.Duration // how often a stream says that it lives, and looks whether who follows it still may
}

// Limits of the API.
const (
	defaultMaxBody = 1 << 20
	patience       = 10 * time.Second // for one operation, besides those that wait for a job
	maxJSONDepth   = 10_000           // of JSON; encoding/json's own
)

// apiRoutes are /api/… and /openapi.json.
func (s *Server) apiRoutes(mux *http.ServeMux) {
	a := newAPI(s)
	spec := a.document()
	mux.Handle("/api/", a)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(spec)
	})
}

func newAPI(s *Server) *api {
	a := &api{Server: s, mux: http.NewServeMux(), follow: newFollowers(s.db), waiting: make(chan struct{}, maxWaiting), keepAlive: keepAlive}
	format := huma.Format{Marshal: encode, Unmarshal: decode}
	a.huma = humago.New(a.mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "Offstage",
				Version:     offstage.Version,
				Description: "Jobs, and everything the web pages of Offstage show and do. Ids are strings, cursors are opaque, errors are problem details (RFC 9457).",
			},
			Servers: []*huma.Server{{URL: or(s.base, "/")}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token": {Type: "http", Scheme: "bearer", Description: "Made by offstage tokens add."},
					"basic": {Type: "http", Scheme: "basic"},
				},
			},
			Security: []map[string][]string{{"token": {}}, {"basic": {}}, {}},
			Tags: []*huma.Tag{
				{Name: "jobs"}, {Name: "bulk"}, {Name: "wait"}, {Name: "overview"}, {Name: "errors"}, {Name: "tasks"}, {Name: "queues"},
				{Name: "schedules"}, {Name: "workers"}, {Name: "audit"},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{explainInvalid},
	})
	a.huma.UseMiddleware(a.admit)
	a.jobOperations()
	a.bulkOperations()
	a.waitOperations()
	a.overviewOperations()
	a.errorOperations()
	a.taskOperations()
	a.queueOperations()
	a.scheduleOperations()
	a.workerOperations()
	a.auditOperations()
	a.describeErrors()
	return a
}

// schemaName keeps an error of the API apart from what an operator should look at, and types of the API from those of the pages.
func schemaName(t reflect.Type, hint string) string {
	if t == typeOf[problem]() {
		return "ProblemDetails"
	}
	return strings.TrimPrefix(huma.DefaultSchemaNamer(t, hint), "Api")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// ServeHTTP answers in problem details where the mux would do so in plain text: an unknown path, another method.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	h, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	answer := &verdict{header: http.Header{}}
	h.ServeHTTP(answer, r)
	p := &problem{Type: isNotFound, Status: http.StatusNotFound, Detail: "There is nothing at " + r.URL.Path + ". The operations are listed in /openapi.json."}
	if answer.status == http.StatusMethodNotAllowed {
		allow := answer.header.Get("Allow")
		w.Header().Set("Allow", allow)
		p = &problem{Type: isMethodNotAllowed, Status: answer.status, Detail: r.Method + " is not possible here. Possible: " + allow + "."}
	}
	writeProblem(w, p)
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// decode is json.Unmarshal, but strict about UTF-8 and, for validation, tolerant of numbers that float64 cannot hold: a payload
// may have them.
func decode(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("the body is not valid UTF-8")
	}
	to, ok := v.(*any)
	if !ok {
		return json.Unmarshal(data, v)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more than one JSON value in the body")
	}
	*to = numbers(*to)
	return nil
}

// numbers makes float64s of all numbers, the nearest where they are out of range.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	}
	return v
}

// op is an operation.
type op struct {
	id      string // of OpenAPI
	tag     string
	method  string
	path    string // below /api/v1
	role    guard.Role
	summary string
	about   string // more, if there is more to say
	status  int    // 200
	waits   bool   // longer than patience
	body    int64  // how large it may be; 64 kB

	also      int                       // another status, with the same body
	responses map[string]*huma.Response // where they do not follow from what is answered
}

const roleKey = "role"

// register adds an operation to the API. What do answers as an error becomes a problem.
func register[I, O any](a *api, o op, do func(context.Context, *I) (*O, error)) {
	if o.body == 0 {
		o.body = 64 << 10
	}
	operation := huma.Operation{
		OperationID: o.id, Method: o.method, Path: "/api/v1" + o.path, Summary: o.summary, Description: strings.TrimSpace(o.about + " Role: " + o.role.String() + "."),
		Tags: []string{o.tag}, DefaultStatus: o.status, MaxBodyBytes: o.body + 1, BodyReadTimeout: 30 * time.Second, Metadata: map[string]any{roleKey: o.role},
		Extensions: map[string]any{"x-role": o.role.String()}, Responses: o.responses,
	}
	huma.Register(a.huma, operation, func(ctx context.Context, in *I) (*O, error) {
		if !o.waits {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, patience)
			defer cancel()
		}
		out, err := do(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, o.id, err)
		}
		return out, nil
	})
	if o.also != 0 {
		described := a.described(o)
		first := o.status
		if first == 0 {
			first = http.StatusOK
		}
		described.Responses[strconv.Itoa(o.also)] = &huma.Response{
			Description: http.StatusText(o.also), Content: described.Responses[strconv.Itoa(first)].Content,
		}
	}
}

// described is the operation in the document.
func (a *api) described(o op) *huma.Operation {
	item := a.huma.OpenAPI().Paths["/api/v1"+o.path]
	if o.method == http.MethodPost {
		return item.Post
	}
	return item.Get
}

// admit lets those in who may do what the operation does, with a query that can be read in one way only.
func (a *api) admit(ctx huma.Context, next func(huma.Context)) {
	_, w := humago.Unwrap(ctx)
	needs := ctx.Operation().Metadata[roleKey].(guard.Role)
	if is := guard.FromContext(ctx.Context()); is.Role < needs {
		writeProblem(w, &problem{Type: isForbidden, Status: http.StatusForbidden,
			Detail: "This needs the role " + needs.String() + "; " + is.Name + " is " + is.Role.String() + ". Use a token or an account with that role."})
		return
	}
	u := ctx.URL()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		writeProblem(w, &problem{Type: isMalformed, Status: http.StatusBadRequest, Detail: "The query cannot be read: " + err.Error() + ". Percent-encode the values."})
		return
	}
	var faults []fault
	for name, values := range query {
		switch {
		case len(values) > 1:
			faults = append(faults, fault{"query." + name, "is given more than once"})
		case strings.ContainsRune(values[0], 0) || !utf8.ValidString(values[0]):
			faults = append(faults, fault{"query." + name, "holds a NUL character, or is not UTF-8: PostgreSQL knows no such text"})
		}
	}
	if r, _ := humago.Unwrap(ctx); strings.ContainsRune(r.URL.Path, 0) || !utf8.ValidString(r.URL.Path) {
		faults = append(faults, fault{"path", "holds a NUL character, or is not UTF-8: PostgreSQL knows no such text"})
	}
	if faults != nil {
		writeProblem(w, unacceptable(faults))
		return
	}
	next(ctx)
}

// by is who does this, for the audit.
func by(ctx context.Context) view.Actor {
	is := guard.FromContext(ctx)
	return view.Actor{Name: is.Name, Source: "api", From: is.From}
}

// describeErrors puts our errors in the place of huma's, and says that lists are never null.
func (a *api) describeErrors() {
	oapi := a.huma.OpenAPI()
	registry := oapi.Components.Schemas
	schema := registry.Schema(typeOf[problem](), true, "Problem")
	delete(registry.Map(), "ErrorModel")
	delete(registry.Map(), "ErrorDetail")
	for _, s := range registry.Map() {
		neverNull(s)
	}
	for _, item := range oapi.Paths {
		for _, o := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch} {
			if o == nil {
				continue
			}
			for status, r := range o.Responses {
				if status == "default" || status[0] >= '4' {
					delete(o.Responses, status)
				}
				for _, m := range r.Content {
					neverNull(m.Schema)
				}
			}
			for _, status := range a.errorsOf(o) {
				o.Responses[status] = &huma.Response{
					Description: errorDescriptions[status],
					Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
				}
			}
		}
	}
}

var errorDescriptions = map[string]string{
	"400":     "What was sent cannot be read.",
	"401":     "Nobody is authenticated.",
	"403":     "The role does not suffice.",
	"404":     "There is none of that name or id.",
	"409":     "It is not in a state for this, or has changed.",
	"413":     "The body is too large.",
	"422":     "What was sent is not acceptable; errors says which values.",
	"429":     "Too many at a time; Retry-After says when to come back.",
	"503":     "The database cannot be reached or is busy; Retry-After says when to come back.",
	"default": "Any other error.",
}

func (a *api) errorsOf(o *huma.Operation) []string {
	list := []string{"400", "401", "403", "422", "429", "503", "default"}
	if strings.Contains(o.Path, "{") {
		list = append(list, "404")
	}
	if o.Method != http.MethodGet {
		list = append(list, "409")
	}
	if o.RequestBody != nil {
		list = append(list, "413")
	}
	return list
}

func neverNull(s *huma.Schema) {
	if s == nil {
		return
	}
	if s.Type == huma.TypeArray {
		s.Nullable = false
	}
	neverNull(s.Items)
	if of, ok := s.AdditionalProperties.(*huma.Schema); ok {
		neverNull(of)
	}
	for _, p := range s.Properties {
		neverNull(p)
	}
}

// document is openapi.json.
func (a *api) document() []byte {
	b, err := a.huma.OpenAPI().MarshalJSON()
	if err != nil {
		panic(err) // what we have written ourselves
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		panic(err)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// body is what most operations answer.
type body[T any] struct{ Body T }

func answerOf[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{v}, nil
}

// filled is list, and never null in JSON.
func filled[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// redacted is JSON without what the rules hide.
func (a *api) redacted(raw json.RawMessage) json.RawMessage { return a.encodable(a.guard.Redact(raw)) }

// encodable is JSON that encoding/json does not refuse to encode: what is nested too deeply for it becomes a string.
func (a *api) encodable(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	depth, inside := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '\\' && inside:
			i++
		case c == '"':
			inside = !inside
		case inside:
		case c == '[' || c == '{':
			if depth++; depth > maxJSONDepth-100 {
				b, _ := json.Marshal(string(raw)) // of a string it never fails
				return b
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return raw
}

func sorted(list []fault) []fault {
	slices.SortFunc(list, func(a, b fault) int { return strings.Compare(a.Where+a.Message, b.Where+b.Message) })
	return list
}
