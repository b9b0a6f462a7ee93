package server

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
)

// modelObject is OpenAI's description of a model, with more of Accel's own.
type modelObject struct {
	ID         string            `json:"id"`
	Object     string            `json:"object"`
	Created    int64             `json:"created"` // when it became ready, in Unix seconds; 0: not yet
	OwnedBy    string            `json:"owned_by"`
	Task       string            `json:"task,omitempty"`
	Class      string            `json:"class,omitempty"`
	Precision  string            `json:"precision,omitempty"`
	State      engine.ModelState `json:"state"`
	Reason     string            `json:"reason,omitempty"`
	MaxTokens  int               `json:"max_tokens,omitempty"`
	Dimensions int               `json:"dimensions,omitempty"`
	Platform   string            `json:"platform,omitempty"`
	Kind       string            `json:"kind,omitempty"`
}

func describe(m engine.ModelInfo) modelObject {
	o := modelObject{ID: m.Name, Object: "model", OwnedBy: "accel", Task: m.Task, Class: m.Class, Precision: m.Precision,
		State: m.State, Reason: m.Reason, MaxTokens: m.MaxTokens, Dimensions: m.Dimensions,
		Platform: m.Chosen.Platform, Kind: string(m.Chosen.Kind)}
	if !m.Ready.IsZero() {
		o.Created = m.Ready.Unix()
	}
	return o
}

func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	list := struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{"list", []modelObject{}}
	for _, m := range s.engine.Models() {
		list.Data = append(list.Data, describe(m))
	}
	writeJSON(w, http.StatusOK, list)
}

func (s *Server) model(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "*") // names may hold slashes
	var known []string
	for _, m := range s.engine.Models() {
		if m.Name == name {
			writeJSON(w, http.StatusOK, describe(m))
			return
		}
		known = append(known, m.Name)
	}
	s.fail(w, r, &engine.ModelNotFoundError{Model: name, Known: known, Nearest: config.Nearest(name, known)})
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says why the server is not ready; to clients without a key only that.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ready, conditions := s.engine.Ready()
	if s.draining.Load() {
		ready = false
		conditions = append(conditions, engine.Condition{Name: "server", Reason: errDraining.Error()})
	}
	if !s.allowed(r) {
		conditions = nil
	}
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, struct {
		Ready      bool               `json:"ready"`
		Conditions []engine.Condition `json:"conditions,omitempty"`
	}{ready, conditions})
}
