// Package schema installs Offstage's tables and functions in a database and keeps them up to date. Tables change by
// numbered files, forward only; functions are current source, installed as a whole by the migration that raises the
// version.
package schema

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

//go:embed tables/*.sql functions/*.sql
var files embed.FS

// Default is the name of the schema that holds functions and views, unless another is asked for.
const Default = "offstage"

var (
	validName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,54}$`)
	token     = regexp.MustCompile(`\boffstage(_private)?\b([^:]|$)`)
)

// CheckName refuses names of schemas that cannot be used.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("schema name %q is not allowed: use 1 to 55 of a-z, 0-9 and _, not starting with a digit", name)
	}
	if strings.HasSuffix(name, "_private") {
		return fmt.Errorf("schema name %q is not allowed: with _private behind it, it would be the one for the tables of another installation", name)
	}
	if strings.HasPrefix(name, "pg_") || name == "public" || name == "information_schema" {
		return fmt.Errorf("schema name %q is not allowed: it belongs to PostgreSQL; choose one of Offstage's own", name)
	}
	return nil
}

// rename puts another schema's name for the one token in the source, which is valid SQL as it stands. The names of
// channels ("offstage:wake") stay: their payload carries the schema.
func rename(sql, schema string) string {
	if schema == Default {
		return sql
	}
	return token.ReplaceAllString(sql, schema+"$1$2")
}

// tables is the source of one migration.
type tables struct {
	version  int
	name     string
	breaking bool
	sql      string
}

// migrations are all of them, in order. Breaking ones say so in a line "-- breaking" of their own.
func migrations() []tables {
	names, err := fs.Glob(files, "tables/*.sql")
	if err != nil {
		panic(err)
	}
	var all []tables
	for i, path := range names { // Glob sorts
		src, err := files.ReadFile(path)
		if err != nil {
			panic(err)
		}
		base := strings.TrimSuffix(strings.TrimPrefix(path, "tables/"), ".sql")
		number, name, _ := strings.Cut(base, "_")
		if number != fmt.Sprintf("%04d", i+1) {
			panic("schema: migration " + base + " is out of order")
		}
		all = append(all, tables{i + 1, name, strings.Contains(string(src), "\n-- breaking\n"), string(src)})
	}
	return all
}

// functions is the current source of all functions and views.
func functions() string {
	names, err := fs.Glob(files, "functions/*.sql")
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	for _, path := range names {
		src, err := files.ReadFile(path)
		if err != nil {
			panic(err)
		}
		b.Write(src)
		b.WriteByte('\n')
	}
	return b.String()
}

// Version is the newest version that this program knows.
func Version() int { return len(migrations()) }
