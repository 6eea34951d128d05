package view_test

import (
	"slices"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
	"github.com/offstage-dev/offstage/internal/view"
)

func TestRemedyParts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]view.Words{
		"":                              nil,
		"look at its log":               {{"look at its log", false}},
		"start one: `offstage worker`":  {{"start one: ", false}, {"offstage worker", true}},
		"`a` or: `b`, soon":             {{"a", true}, {" or: ", false}, {"b", true}, {", soon", false}},
		"``pause 'a`b'`` now":           {{"pause 'a`b'", true}, {" now", false}},
		"```x``y`z```":                  {{"x``y`z", true}},
		"on host a`b, and ``not closed": {{"on host a`b, and ``not closed", false}},
		"`":                             {{"`", false}},
		"``":                            {{"``", false}},
		"a ``` b `c`":                   {{"a ``` b ", false}, {"c", true}},
	} {
		if got := view.RemedyParts(text); !slices.Equal(got, want) {
			t.Errorf("%q: %+v instead of %+v", text, got, want)
		}
	}
	if got := view.PlainRemedy("run ``x '`'`` or: `y`"); got != "run x '`' or: y" {
		t.Errorf("plain: %q", got)
	}
}

// What SQL makes of a command is read as that command, whatever its names are.
func TestRemedyOfSQL(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	for _, name := range []string{"a", "a b", "`", "``", "a`; offstage jobs delete --all `", "'`'", "```x`", "\n`\n", `\`, "$(x)`y`"} {
		var text, sql, cli string
		err := pool.QueryRow(t.Context(), `
			select 'let it go on: ' || offstage_private.either(format('offstage.resume_queue(%L)', $1::text), 'queues resume ' || offstage_private.shell($1)),
			  format('select offstage.resume_queue(%L);', $1::text), 'offstage queues resume ' || offstage_private.shell($1)`, name).Scan(&text, &sql, &cli)
		if err != nil {
			t.Fatal(err)
		}
		want := []view.Words{{"let it go on: ", false}, {sql, true}, {" or: ", false}, {cli, true}}
		if got := view.RemedyParts(text); !slices.Equal(got, want) {
			t.Errorf("%q: %+v instead of %+v", name, got, want)
		}
	}
}
