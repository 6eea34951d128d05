package schema_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/offstage-dev/offstage/internal/cron"
	"github.com/offstage-dev/offstage/internal/pgtest"
)

// What SQL takes for a cron expression is what the workers can read, and nothing else.
func TestExpressionsAreThoseOfCron(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	var all []string
	all = append(all, "", " ", "@daily", "@DAILY", "@dailY ", "@reboot", "@", "@daily *", "@daily * * * *", "* * * *", "* * * * *", "* * * * * *", "* * * * * * *",
		"*\t*\n*\u00a0*\u3000*", "5-100/200 * * * *", "5-100/50 * * * *", "0 0 0 * *", "0 0 0-3/2 * *", "* * * * sun-sun", "* * * * mon-sun", "* * * * 0-SUN", "* * * * 00-SUN",
		"* * * * 1-SUN", "* * * * 7-8", "* * * * 7", "* * * * 8", "* * * * 5-7/2", "* * * * 5-7/3", "* * * * 0-8/7", "* * * * 0-8/8", "5/10 * * * *", "*/0 * * * *", "*/00 * * * *",
		"* * * jan-dec/2 *", "* * * JANUARY *", "mon * * * *", "* * * mon *", "* * * * jan", ",* * * * *", "1, * * * *", "-1 * * * *", "1- * * * *", "1-2-3 * * * *", "* * L * *",
		"* 12,* 22 12-18446744073709551616/18446744073709551616 *", "1-"+strings.Repeat("9", 305)+"/1"+strings.Repeat("0", 305)+" * * * *", strings.Repeat("9", 308)+"-"+strings.Repeat("9", 308)+"/"+strings.Repeat("9", 308)+" * * * *",
		"1-"+strings.Repeat("9", 308)+"/"+strings.Repeat("9", 308)+" * * * *",
		"١ * * * *", "1.5 * * * *", strings.Repeat("0", 700)+"5 * * * *", strings.Repeat("9", 700)+" * * * *", "1-"+strings.Repeat("9", 700)+" * * * *",
		"1-"+strings.Repeat("9", 350)+"/"+strings.Repeat("9", 350)+" * * * *", "1-9/"+strings.Repeat("9", 700)+" * * * *", strings.Repeat("1,", 380)+"1 * * * *", strings.Repeat("1,", 400)+"1 * * * *")
	atoms := []string{"*", "0", "1", "5", "7", "12", "23", "24", "31", "32", "59", "60", "61", "99", "007", "jan", "DEC", "Sun", "mon", "SAT", "foo", "", "-", "/", "?", "4294967296", "18446744073709551616"}
	atom := func() string { return atoms[r.IntN(len(atoms))] }
	field := 0
	number := func() string { return fmt.Sprint(r.IntN([]int{60, 24, 32, 13, 9}[field%5])) } // mostly one that the field can hold
	part := func() string {
		switch r.IntN(40) {
		default:
			return "*"
		case 0, 1, 2:
			return "*/" + number()
		case 3, 4, 5, 6, 7, 8, 9:
			return number()
		case 10, 11, 12, 13:
			return number() + "-" + number()
		case 14, 15, 16:
			return number() + "-" + number() + "/" + number()
		case 17:
			return atom()
		case 18:
			return atom() + "-" + atom()
		case 19:
			return atom() + "-" + atom() + "/" + atom()
		}
	}
	for range 8000 {
		fields := make([]string, []int{5, 5, 5, 6, 6, 4, 7}[r.IntN(7)])
		for i := range fields {
			if field = i; len(fields) == 6 {
				field = max(i-1, 0)
			}
			parts := make([]string, 1+r.IntN(4)/2*r.IntN(3))
			for i := range parts {
				parts[i] = part()
			}
			fields[i] = strings.Join(parts, ",")
		}
		all = append(all, strings.Join(fields, []string{" ", " ", " ", "  ", "\t"}[r.IntN(5)]))
	}
	pgtest.Do(t, conn, `create function pg_temp.check(e text) returns text language plpgsql as $$
		begin return offstage_private.check_expression(e); exception when invalid_parameter_value then return null; end $$`)
	got := pgtest.List[*string](t, conn, `select pg_temp.check(e) from unnest($1::text[]) with ordinality x (e, n) order by n`, all)
	good := 0
	for i, text := range all {
		e, err := cron.Parse(text, nil)
		switch {
		case (err == nil) != (got[i] != nil):
			t.Errorf("%q: cron says %v; SQL gives %v (seed %d)", text, err, got[i] != nil, seed)
		case err == nil && *got[i] != e.String():
			t.Errorf("%q: cron makes it %q, SQL %q", text, e, *got[i])
		}
		if err == nil {
			good++
		}
	}
	if good < 500 || good > len(all)-500 {
		t.Errorf("%d of %d expressions were good: too one-sided", good, len(all))
	}
}
