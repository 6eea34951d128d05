package node

import "testing"

func TestHello(t *testing.T) {
	t.Parallel()
	b := open(t, map[string]string{"hello.js": `module.exports = async (payload, helpers) => { const { name } = payload; helpers.logger.info(` + "`Hello, ${name}`" + `); };`})
	result, err, log := b.run("hello", `{"name": "Bobby Tables"}`)
	t.Logf("%q %v %q %q", result, err, log, b.log.all())
}
