package web

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var updateOpenAPI = flag.Bool("update-openapi", false, "write docs/openapi.json anew")

const openAPIFile = "../../docs/openapi.json"

// apiDocument is openapi.json, for tests, which look into it with a validator of their own.
type apiDocument struct {
	text       []byte
	operations []apiOperation

	mu       sync.Mutex // guards what is below
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

type apiOperation struct {
	id, method, path, role string
	pattern                *regexp.Regexp
	body                   bool
	responses              map[string]map[string]bool // status → media types
}

var readDocument = sync.OnceValue(func() *apiDocument {
	s := &Server{live: newLive(time.Second)}
	d := &apiDocument{text: newAPI(s).document(), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(d.text))
	if err != nil {
		panic(err)
	}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", whole); err != nil {
		panic(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Role        string `json:"x-role"`
			RequestBody any    `json:"requestBody"`
			Responses   map[string]struct {
				Content map[string]any `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(d.text, &doc); err != nil {
		panic(err)
	}
	hole := regexp.MustCompile(`\\\{[a-z]+\\\}`)
	for path, methods := range doc.Paths {
		for method, o := range methods {
			op := apiOperation{id: o.OperationID, method: strings.ToUpper(method), path: path, role: o.Role, body: o.RequestBody != nil, responses: map[string]map[string]bool{}}
			op.pattern = regexp.MustCompile("^" + hole.ReplaceAllString(regexp.QuoteMeta(path), `[^/]+`) + "$")
			for status, r := range o.Responses {
				op.responses[status] = map[string]bool{}
				for kind := range r.Content {
					op.responses[status][kind] = true
				}
			}
			d.operations = append(d.operations, op)
		}
	}
	slices.SortFunc(d.operations, func(a, b apiOperation) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	return d
})

// find is the operation of a request: a literal path before one with a name in it.
func (d *apiDocument) find(method, path string) *apiOperation {
	var best *apiOperation
	for i, o := range d.operations {
		if o.method == method && o.pattern.MatchString(path) && (best == nil || strings.Count(o.path, "{") < strings.Count(best.path, "{")) {
			best = &d.operations[i]
		}
	}
	return best
}

// conforms says what is wrong with an answer, by the document.
func (d *apiDocument) conforms(o *apiOperation, status int, kind string, body []byte) error {
	key := strconv.Itoa(status)
	if o.responses[key] == nil {
		key = "default"
	}
	if len(body) == 0 && o.responses[key] != nil && len(o.responses[key]) == 0 {
		return nil // 204
	}
	if !o.responses[key][kind] {
		return fmt.Errorf("%s answers %d with %q, which the document does not have: %s", o.id, status, kind, body)
	}
	if kind == "text/event-stream" {
		return nil
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace
	ref := fmt.Sprintf("openapi.json#/paths/%s/%s/responses/%s/content/%s/schema", escape(o.path), strings.ToLower(o.method), key, escape(kind))
	d.mu.Lock()
	schema := d.schemas[ref]
	var err error
	if schema == nil {
		if schema, err = d.compiler.Compile(ref); err == nil {
			d.schemas[ref] = schema
		}
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", o.id, err)
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%s: %w: %s", o.id, err, body)
	}
	return nil
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	d := readDocument()
	if *updateOpenAPI {
		if err := os.WriteFile(openAPIFile, d.text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(openAPIFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, d.text) {
		t.Error("docs/openapi.json is not what the code says: go test ./internal/web -run TestOpenAPI -update-openapi")
	}
	if len(d.operations) == 0 {
		t.Fatal("there are no operations")
	}
	for _, o := range d.operations {
		if o.id == "" || !strings.HasPrefix(o.path, "/api/v1/") || !slices.Contains([]string{"viewer", "operator", "admin"}, o.role) {
			t.Errorf("%s %s is not described: %+v", o.method, o.path, o)
		}
		if (o.method == http.MethodGet) != (o.role == "viewer") {
			t.Errorf("%s %s is for the role %s", o.method, o.path, o.role)
		}
	}
	for _, link := range regexp.MustCompile(`https?://[^"\s]+`).FindAllString(string(d.text), -1) {
		t.Errorf("the document leads elsewhere: %s", link)
	}
}

// What docs/api.md calls is in the document.
func TestAPIDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	calls := regexp.MustCompile(`curl ([^;\n]*?)"?\$A(/[^\s";?#]*)`).FindAllStringSubmatch(string(text), -1)
	if len(calls) < 30 {
		t.Errorf("only %d calls were found", len(calls))
	}
	named := regexp.MustCompile(`-X (\w+)`)
	for _, c := range calls {
		method := http.MethodGet
		if m := named.FindStringSubmatch(c[1]); m != nil {
			method = m[1]
		} else if strings.Contains(c[1], "--json") {
			method = http.MethodPost
		}
		o := readDocument().find(method, "/api/v1"+c[2])
		if o == nil {
			t.Errorf("there is no %s %s: %s", method, c[2], c[0])
		} else if strings.Contains(c[1], "--json") && !o.body {
			t.Errorf("%s takes no body: %s", o.id, c[0])
		}
	}
	for _, o := range readDocument().operations {
		for status := range o.responses {
			if status >= "400" && status <= "599" && !strings.Contains(string(text), "| "+status+" |") {
				t.Errorf("docs/api.md does not say what %s means", status)
			}
		}
	}
}
