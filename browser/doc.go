// Package browser holds no code. Its tests look at every page, and act on them, in a real Chromium, while a worker runs.
package browser
