package node

import (
	"slices"
	"testing"
)

// The example of PostGraphile's documentation, as it stands.
func TestHello(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"hello.js": `module.exports = async (payload, helpers) => {
  const { name } = payload;
  helpers.logger.info(` + "`Hello, ${name}`" + `);
};
`})
	result, log, err := b.run("hello", `{"name": "Bobby Tables"}`)
	if err != nil || result != "" || !slices.Equal(log, []string{"INFO Hello, Bobby Tables"}) || len(b.log.all()) > 0 {
		t.Errorf("%q %q %v %q", result, log, err, b.log.all())
	}
}
