package cli

import (
	"crypto/sha256"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

func TestTokens(t *testing.T) {
	s := newStage(t)
	s.want(Done, "tokens").says(t, "no tokens; to make one: offstage tokens add NAME --role viewer")
	r := s.want(Done, "tokens", "add", "grafana", "--role", "viewer").says(t, "token grafana has the role viewer and does not expire; keep its secret")
	if !regexp.MustCompile(`^ost_[0-9a-f]{64}\n$`).MatchString(r.out) || strings.Contains(r.errs, "ost_") {
		t.Errorf("stdout has %q, stderr %q", r.out, r.errs)
	}
	hash := sha256.Sum256([]byte(strings.TrimSpace(r.out)))
	if got := pgtest.One[string](t, s.pool, `select name || ' ' || role from offstage_private.token_role($1)`, hash[:]); got != "grafana viewer" {
		t.Error(got)
	}
	made := decode[map[string]any](t, s.want(Done, "tokens", "add", "deploy", "--role", "operator", "--expires", "90d", "--json"))
	ends, err := time.Parse(time.RFC3339, made["expires_at"].(string))
	if err != nil || time.Until(ends).Round(time.Hour) != 90*24*time.Hour || made["role"] != "operator" || !strings.HasPrefix(made["token"].(string), "ost_") {
		t.Errorf("%v, %v", made, err)
	}
	s.want(Refused, "tokens", "add", "deploy", "--role", "admin").says(t, "there is a token 'deploy'", "offstage tokens revoke deploy")
	s.want(Usage, "tokens", "add", "x").says(t, "--role is needed")
	s.want(Usage, "tokens", "add", "x", "--role", "root").says(t, `the role "root" is not known: use viewer, operator or admin`)
	s.want(Usage, "tokens", "add", "a b", "--role", "admin").says(t, "the name of a token is 'a b'", "letters, digits")
	s.want(Usage, "tokens", "add", "x", "--role", "admin", "--expires", "0s").says(t, "--expires is 0")
	s.want(Usage, "tokens", "add", "x", "--role", "admin", "--expires", "soon").says(t, "no duration")

	list := s.want(Done, "tokens", "list").says(t, "NAME", "EXPIRES")
	if !regexp.MustCompile(`(?s)deploy operator active never in 90 days .*grafana viewer active .* never `).MatchString(squeeze(list.out)) {
		t.Errorf("the list is\n%s", list.out)
	}
	rows := decode[[]tokenRow](t, s.want(Done, "tokens", "--json"))
	if len(rows) != 2 || rows[1].Name != "grafana" || rows[1].LastUsedAt == nil || rows[1].ExpiresAt != nil || rows[0].CreatedBy == "" {
		t.Errorf("%+v", rows)
	}
	if all := list.out + s.want(Done, "tokens", "--json").out; strings.Contains(all, "ost_") || strings.Contains(all, "hash") {
		t.Errorf("a list shows secrets:\n%s", all)
	}
	if out := s.want(Done, "__complete", "tokens", "revoke", "").out; !strings.HasPrefix(out, "deploy\ngrafana\n") {
		t.Errorf("completion: %q", out)
	}

	s.want(Usage, "tokens", "revoke", "deploy").says(t, "revoke token deploy (operator, active, never used)?", "--yes")
	s.want(Done, "tokens", "revoke", "deploy", "--dry-run").says(t, "would revoke token deploy")
	s.want(Done, "tokens", "revoke", "deploy", "--yes").says(t, "token deploy is revoked")
	s.want(Done, "tokens", "revoke", "deploy", "--yes").says(t, "was good no more already")
	s.want(NotFound, "tokens", "revoke", "nobody", "--yes").says(t, `there is no token "nobody"`, "offstage tokens list")
	s.want(Done, "tokens").says(t, "revoked")
	s.want(Done, "tokens", "add", "deploy", "--role", "admin") // the name is free again
}

func TestPassword(t *testing.T) {
	t.Parallel()
	s := onStage(t, "")
	in := ""
	s.edit = func(m *Main) { m.Stdin = strings.NewReader(in) }
	in = "correct horse\nmore"
	r := s.want(Done, "password", "ada", "--role", "admin")
	users, err := guard.ParseUsers(strings.NewReader(r.out))
	if err != nil || len(users) != 1 || users[0].Name != "ada" || users[0].Role != guard.Admin ||
		bcrypt.CompareHashAndPassword([]byte(users[0].PasswordHash), []byte("correct horse")) != nil {
		t.Errorf("%q: %+v, %v", r.out, users, err)
	}
	if strings.Contains(r.out+r.errs, "horse") {
		t.Errorf("the password is shown: %s%s", r.out, r.errs)
	}
	if line := decode[map[string]string](t, s.want(Done, "password", "ada", "--json"))["line"]; !strings.HasPrefix(line, "ada:viewer:$2") {
		t.Error(line)
	}
	s.want(Usage, "password", "a:b").says(t, "has a colon")
	s.want(Usage, "password", "ada", "--role", "root").says(t, "use viewer, operator or admin")
	in = "short"
	s.want(Usage, "password", "ada").says(t, "fewer than 8 characters")
	in = strings.Repeat("x", 73)
	s.want(Usage, "password", "ada").says(t, "73 bytes, at most 72 count")
	in = "\n"
	s.want(Usage, "password", "ada").says(t, "there is no password", "stdin")

	// What says that it is a terminal, and is none.
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s.edit = func(m *Main) { m.Stdin, m.Keys = file, true }
	s.want(Failed, "password", "ada").says(t, "read the password")
}
