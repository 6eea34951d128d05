// Package web is the web UI and the HTTP API.
//
// # How a page is made
//
// A page registers its routes, and its topic: what it reads, which is shared by all who look at it (see live).
//
//	func (s *Server) queuesRoutes(mux *http.ServeMux) {
//		s.live.register("queues", func(ctx context.Context, args url.Values) (any, error) { return s.db.Queues(ctx) })
//		mux.HandleFunc("GET /queues", func(w http.ResponseWriter, r *http.Request) {
//			queues, err := read[[]view.Queue](r.Context(), s, "queues", nil)
//			if err != nil {
//				s.fail(w, r, err)
//				return
//			}
//			s.render(w, r, "queues", page{Title: "Queues", Nav: "queues", Live: "queues", Data: queues})
//		})
//		mux.HandleFunc("POST /queues/{name}/pause", func(w http.ResponseWriter, r *http.Request) {
//			name := named(r, "name")
//			s.act(w, r, guard.Operator, func(by view.Actor) (string, error) { return "…", s.db.PauseQueue(r.Context(), by, name) }, pathTo("queues", name))
//		})
//	}
//
// Its template, templates/queues.html, defines "main" and sees a scene. The parts in _parts.html (head, copy, empty, stat, do)
// and the functions in funcs.go are for all.
//
// # What the module in app.js expects
//
// It replaces <main> by a newer one in place. Elements that are the same thing have the same data-key: every row of a table
// has one. A list whose rows must not move while boxes in it are checked is a <tbody data-rows="name">. What only works with the module
// has data-js. Forms that post are sent by it, unless they have data-native; data-confirm on a form or its button is a
// question first. data-copy on a button is what it copies. data-keep on an element: leave it alone. After an update it sends the event
// offstage:update to the document.
//
// Tables with class "cards" become cards on narrow screens: each td then has a data-label, the name of its column.
package web
