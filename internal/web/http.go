package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/offstage-dev/offstage/internal/view"
	"github.com/offstage-dev/offstage/internal/web/guard"
)

//go:embed assets/*
var assetFiles embed.FS

// assets are the files that pages need besides themselves. Their paths hold a hash of what is in them, so that browsers keep
// them for ever.
type assets struct {
	paths map[string]string // style.css → /assets/style.1a2b3c4d5e6f.css
	files map[string]*asset // by the last part of the path
}

type asset struct {
	kind       string
	etag       string
	plain, zip []byte
}

func readAssets() (*assets, error) {
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		return nil, err
	}
	a := &assets{map[string]string{}, map[string]*asset{}}
	// A module names those it imports, so it comes after them.
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(rank(a.Name()), rank(b.Name())) })
	for _, e := range entries {
		body, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			return nil, err
		}
		for name, hashed := range a.paths {
			body = bytes.ReplaceAll(body, []byte("'./"+name+"'"), []byte("'./"+path.Base(hashed)+"'"))
		}
		sum := sha256.Sum256(body)
		hash := hex.EncodeToString(sum[:6])
		ext := path.Ext(e.Name())
		name := strings.TrimSuffix(e.Name(), ext) + "." + hash + ext
		var zip bytes.Buffer
		z := gzip.NewWriter(&zip)
		if _, err := z.Write(body); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		kind := mime.TypeByExtension(ext)
		switch ext { // whatever this machine's tables say
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".css":
			kind = "text/css; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		}
		a.paths[e.Name()] = "/assets/" + name
		a.files[name] = &asset{kind: kind, etag: `"` + hash + `"`, plain: body, zip: zip.Bytes()}
	}
	return a, nil
}

func rank(name string) string {
	if name == "app.js" {
		return "1"
	}
	return "0"
}

func (a *assets) path(name string) string {
	p, ok := a.paths[name]
	if !ok {
		panic("web: no asset " + name)
	}
	return p
}

func (a *assets) serve(w http.ResponseWriter, r *http.Request) {
	f := a.files[r.PathValue("name")]
	if f == nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("ETag", f.etag)
	h.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == f.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.plain
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = f.zip
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// headers keep other sites, and scripts that got into a page, from doing harm.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// forClient says whose reads are whose: those of a user or token, wherever they come from, or of an address (a /64 network of IPv6) without
// authentication.
func forClient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := guard.FromContext(r.Context())
		client := "user " + id.Name
		if id.Via == guard.ViaNothing {
			client = "address " + id.From
			if a, err := netip.ParseAddr(id.From); err == nil && a.Is6() && !a.Is4In6() {
				if network, err := a.WithZone("").Prefix(64); err == nil {
					client = "network " + network.String()
				}
			}
		}
		next.ServeHTTP(w, r.WithContext(view.ForClient(r.Context(), client)))
	})
}

// recovered answers 500 where a handler panics, and says so in our log.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("web: panic", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				http.Error(w, "Something went wrong; the log of the server says what.", http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(name) == "gzip" {
			return strings.ReplaceAll(q, " ", "") != "q=0"
		}
	}
	return false
}

var zippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is known to be valid
	return z
}}

// compress sends HTML and JSON gzipped to those who take it. Streams pass as they are.
func compress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !acceptsGzip(r) || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		c := &compressed{ResponseWriter: w}
		defer c.close()
		next.ServeHTTP(c, r)
	})
}

type compressed struct {
	http.ResponseWriter
	zip     *gzip.Writer // nil: as it is
	decided bool
}

// Unwrap lets http.ResponseController find what is below.
func (c *compressed) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *compressed) WriteHeader(status int) {
	if !c.decided && status >= 200 {
		c.decided = true
		h := c.Header()
		kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
		fits := kind == "text/html" || kind == "application/json" || kind == "application/problem+json" || strings.HasPrefix(kind, "application/openapi")
		if fits {
			h.Add("Vary", "Accept-Encoding")
		}
		if fits && h.Get("Content-Encoding") == "" && status != http.StatusNoContent && status != http.StatusNotModified {
			h.Set("Content-Encoding", "gzip")
			h.Del("Content-Length")
			c.zip = zippers.Get().(*gzip.Writer)
			c.zip.Reset(c.ResponseWriter)
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *compressed) Write(b []byte) (int, error) {
	if !c.decided {
		if c.Header().Get("Content-Type") == "" {
			c.Header().Set("Content-Type", http.DetectContentType(b))
		}
		c.WriteHeader(http.StatusOK)
	}
	if c.zip == nil {
		return c.ResponseWriter.Write(b)
	}
	return c.zip.Write(b)
}

// FlushError sends what has been written so far.
func (c *compressed) FlushError() error {
	if c.zip != nil {
		if err := c.zip.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

func (c *compressed) close() {
	if c.zip != nil {
		_ = c.zip.Close() // whoever has gone needs no answer
		c.zip.Reset(nil)
		zippers.Put(c.zip)
	}
}
