package verify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/backend"
)

// Subject is what is known of a verified model without its weights.
type Subject struct {
	Class      string   `json:"class"`
	ModelType  string   `json:"model_type"`
	Components []string `json:"components"`
	Tasks      []string `json:"tasks"` // that it serves; none: it is only run
}

func subject(m *models.Model) *Subject {
	s := &Subject{Class: m.Class, ModelType: m.ModelType, Tasks: engine.Tasks(m)}
	for _, c := range m.Components {
		s.Components = append(s.Components, c.Name)
	}
	return s
}

// Record is what was measured of one model on one device, by which program and when.
type Record struct {
	Subject
	Path      string       `json:"path"` // absolute
	Device    string       `json:"device"`
	Kind      backend.Kind `json:"kind"`
	Precision string       `json:"precision"`
	Status    Status       `json:"status"`
	// Worst is the output that comes closest to its tolerance, or is furthest beyond it; nil
	// where no output has a number.
	Worst   *Output   `json:"worst,omitempty"`
	Outputs int       `json:"outputs"`
	Off     int       `json:"off"`   // of Outputs
	Share   float64   `json:"share"` // of the operations, that the device ran
	Error   string    `json:"error,omitempty"`
	Version string    `json:"version"`
	Date    time.Time `json:"date"`
}

// OK reports whether all outputs were as recorded.
func (r *Record) OK() bool { return r.Status == Whole || r.Status == Split }

// Compare orders records by how bad they are: by status, then by error of what is tolerated.
func (r Record) Compare(o Record) int {
	rank := func(r Record) int { return slices.Index(statuses, r.Status) }
	switch {
	case rank(r) != rank(o):
		return rank(r) - rank(o)
	case r.Worst == nil || o.Worst == nil:
		return 0
	}
	return r.Worst.compare(o.Worst)
}

// statuses that a record may have, from good to bad.
var statuses = []Status{Whole, Split, Refused, Wrong, Failed}

// compare orders outputs with numbers by error of what is tolerated. Products, for tolerances
// may be 0.
func (o *Output) compare(p *Output) int {
	return cmp.Compare(*o.MaxRel*p.Tolerance, *p.MaxRel*o.Tolerance)
}

// Record is what is kept of a result that has a Model, on the device that it ran on or was
// refused by.
func (r *Result) Record(device string, kind backend.Kind, version string, now time.Time) (Record, error) {
	path, err := filepath.Abs(r.Path)
	if err != nil {
		return Record{}, fmt.Errorf("the folder of %s: %w", r.Path, err)
	}
	off := 0
	for _, o := range r.Outputs {
		if !o.OK {
			off++
		}
	}
	return Record{Subject: *r.Model, Path: path, Device: device, Kind: kind, Precision: r.Precision, Status: r.Status,
		Worst: r.Worst(), Outputs: len(r.Outputs), Off: off, Share: r.share(device), Error: r.Error, Version: version, Date: now.UTC().Truncate(time.Second)}, nil
}

// Worst is the output that comes closest to its tolerance, or is furthest beyond it; nil where no
// output has a number.
func (r *Result) Worst() *Output {
	var worst *Output
	for i := range r.Outputs {
		o := &r.Outputs[i]
		if o.MaxRel != nil && (worst == nil || o.compare(worst) > 0) {
			worst = o
		}
	}
	return worst
}

// share is the part of the operations that ran on a device's platform.
func (r *Result) share(device string) float64 {
	own, _, _ := strings.Cut(device, ":")
	all := 0.0
	for _, c := range r.Placed {
		all += float64(c.FLOPs)
	}
	if all == 0 {
		return 0
	}
	return float64(r.Placed[own].FLOPs) / all
}

// Records is a folder of records, a file each.
type Records struct{ dir string }

// RecordsIn are the records that a cache folder holds.
func RecordsIn(cache string) Records { return Records{filepath.Join(cache, "verified")} }

// RecordError says that a record can't be kept or read.
type RecordError struct {
	Path   string
	Remedy string
	Err    error
}

func (e *RecordError) Error() string { return fmt.Sprintf("%s: %v (%s)", e.Path, e.Err, e.Remedy) }

func (e *RecordError) Unwrap() error { return e.Err }

// Keep writes a record in the place of the one before of the same model on the same device.
func (s Records) Keep(r Record) error {
	key := sha256.Sum256([]byte(r.ModelType + "\x00" + r.Device + "\x00" + r.Path))
	path := filepath.Join(s.dir, hex.EncodeToString(key[:16])+".json")
	err := os.MkdirAll(s.dir, 0o700)
	if err == nil {
		err = tensorfile.Create(path, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) })
	}
	if err != nil {
		return &RecordError{path, "make the cache folder writable, or say --no-record", err}
	}
	return nil
}

// maxRecord is more than any record takes.
const maxRecord = 1 << 20

// All are the records that there are, by model type, device and path.
func (s Records) All() ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("the folder of records: %w", err)
	}
	var all []Record
	for _, file := range files {
		r, err := readRecord(file)
		if err != nil {
			return nil, &RecordError{file, "remove it, and verify again", err}
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.ModelType, b.ModelType), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Path, b.Path))
	})
	return all, nil
}

func readRecord(file string) (Record, error) {
	var r Record
	f, err := os.Open(file)
	if err != nil {
		return r, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&r); err != nil {
		return r, err
	}
	switch {
	case !slices.Contains(statuses, r.Status):
		return r, fmt.Errorf("it has the status %q, which no result has", r.Status)
	case r.ModelType == "" || r.Device == "" || r.Date.IsZero():
		return r, fmt.Errorf("it names no model_type, device or date")
	case r.Worst != nil && r.Worst.MaxRel == nil:
		return r, fmt.Errorf("its worst output has no error")
	}
	return r, nil
}
