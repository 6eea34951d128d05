package pgtest

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/offstage-dev/offstage/schema"
)

// schemaHash tells templates apart on a server that several checkouts share: by all that Migrate would
// run.
func schemaHash() (string, error) {
	script, err := schema.Dump("", 0)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(script))
	return hex.EncodeToString(sum[:6]), nil
}
