package pgtest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

// TestElsewhere runs this test binary twice at once against one server that neither of them started.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, nil)
	type result struct {
		out []byte
		err error
	}
	const n = 2
	results := make(chan result, n)
	for range n {
		go func() {
			cmd := exec.Command(os.Args[0], "-test.run=^(TestPool|TestSuperURL|TestBareIsEmpty|TestTemplate)$")
			cmd.Env = append(os.Environ(), "OFFSTAGE_TEST_DATABASE_URL="+server.URL("postgres"), "OFFSTAGE_PG_BIN=/nowhere")
			out, err := cmd.CombinedOutput()
			results <- result{out, err}
		}()
	}
	for range n {
		if r := <-results; r.err != nil {
			t.Errorf("%v\n%s", r.err, r.out)
		}
	}
	var templates, left int
	err := pgtest.Bare(t, pgtest.On(server)).SuperPool(t).QueryRow(t.Context(), `select
		count(*) filter (where datname like 'offstage\_template\_%'),
		count(*) filter (where datname like 'offstage\_test\_%')
		from pg_catalog.pg_database`).Scan(&templates, &left)
	if err != nil || templates != 1 || left != 0 {
		t.Errorf("%d templates and %d test databases are on the server (%v), want 1 and 0", templates, left, err)
	}
}
