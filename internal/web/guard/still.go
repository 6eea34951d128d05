package guard

import (
	"context"
	"net/http"
)

type stillKey struct{}

// Still says whether who asks may go on looking, for what lasts longer than a moment: a logout, a password that was changed and
// a token that was revoked end it. What they have shown is looked at anew. A database that cannot be asked ends nothing.
func Still(ctx context.Context) bool {
	again, ok := ctx.Value(stillKey{}).(func() bool)
	return !ok || again()
}

// withStill is for Middleware.
func (g *Guard) withStill(r *http.Request, was Identity) context.Context {
	return context.WithValue(With(r.Context(), was), stillKey{}, func() bool {
		w := &unheard{header: http.Header{}}
		is, ok := g.identify(w, r)
		if !ok {
			return w.status == http.StatusServiceUnavailable
		}
		return is.Name == was.Name
	})
}

// unheard is an answer that nobody gets.
type unheard struct {
	header http.Header
	status int
}

func (w *unheard) Header() http.Header         { return w.header }
func (w *unheard) Write(b []byte) (int, error) { return len(b), nil }
func (w *unheard) WriteHeader(status int)      { w.status = status }
