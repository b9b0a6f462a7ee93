package engine

import (
	"time"

	"github.com/accelhq/accel/core/route"
)

// ModelState is how far a model is.
type ModelState string

// States of a model.
const (
	ModelLoading ModelState = "loading"
	ModelReady   ModelState = "ready"
	ModelFailed  ModelState = "failed" // Reason and Remedy say more
)

// ModelInfo describes a model that the engine serves.
type ModelInfo struct {
	Name       string       `json:"name"`
	Path       string       `json:"path"`
	Class      string       `json:"class,omitempty"` // model_type; empty until it is known
	Task       string       `json:"task,omitempty"`  // the first of Tasks
	Tasks      []string     `json:"tasks,omitempty"` // all that it serves
	Precision  string       `json:"precision,omitempty"`
	State      ModelState   `json:"state"`
	Reason     string       `json:"reason,omitempty"`
	Remedy     string       `json:"remedy,omitempty"`
	Ready      time.Time    `json:"ready,omitzero"`       // since when it answers
	MaxTokens  int          `json:"max_tokens,omitempty"` // of one input
	Dimensions int          `json:"dimensions,omitempty"` // of an embedding
	Chosen     route.Choice `json:"chosen,omitzero"`      // where the next request would run
}

// Condition is one thing that readiness hangs on.
type Condition struct {
	Name   string `json:"name"` // "model minilm", "devices"
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// BackendStatus is what is known of one backend process.
type BackendStatus struct {
	Name     string `json:"name"`
	Healthy  bool   `json:"healthy"`
	Reason   string `json:"reason,omitempty"`
	Restarts int    `json:"restarts"` // since the engine began
}
