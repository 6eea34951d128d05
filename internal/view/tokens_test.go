package view

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/offstage-dev/offstage/internal/pgtest"
)

func TestToken(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	db, err := Open(t.Context(), pool, "offstage")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	secret := pgtest.One[string](t, pool, `select offstage.create_token('ci', 'operator')`)
	hash := sha256.Sum256([]byte(secret))
	want := func(name, role string) {
		t.Helper()
		if n, r, err := db.Token(t.Context(), hash[:]); n != name || r != role || err != nil {
			t.Errorf("%q, %q, %v", n, r, err)
		}
	}
	want("ci", "operator")
	pgtest.Do(t, pool, `select offstage.revoke_token('ci')`)
	want("", "")
	hash[0]++
	want("", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, _, err := db.Token(ctx, hash[:]); n != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", n, err)
	}
}
