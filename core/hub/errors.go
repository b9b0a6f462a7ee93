package hub

import (
	"fmt"
	"strings"
	"time"
)

const tokenRemedy = "give a token that may read it by $HF_TOKEN or hub.token"

// RepoNotFoundError says that there is no such model, or none that the token may see: the
// hub does not tell one from the other.
type RepoNotFoundError struct {
	Repo, Endpoint string
	Token          bool // one was shown
}

func (e *RepoNotFoundError) Error() string {
	s := fmt.Sprintf("%s has no model %s, or it is private: check the name, or ", e.Endpoint, e.Repo)
	if e.Token {
		return s + "give another token by $HF_TOKEN or hub.token: the one that was shown may not read it"
	}
	return s + tokenRemedy
}

// GatedError says that a model's authors want its terms to be accepted first.
type GatedError struct {
	Repo, Endpoint string
	Token          bool   // one was shown
	Message        string // the hub's own; may be empty
}

func (e *GatedError) Error() string {
	s := fmt.Sprintf("%s is gated: accept its terms at %s/%s", e.Repo, e.Endpoint, e.Repo)
	if e.Token {
		s += " with the account that the token is of"
	} else {
		s += ", then give a token of that account by $HF_TOKEN or hub.token"
	}
	if e.Message != "" {
		s += " (it said: " + e.Message + ")"
	}
	return s
}

// RevisionNotFoundError says that a model has no such branch, tag or commit.
type RevisionNotFoundError struct{ Repo, Revision, Endpoint string }

func (e *RevisionNotFoundError) Error() string {
	return fmt.Sprintf("%s has no revision %s: %s/%s/tree/main lists its branches and tags", e.Repo, e.Revision, e.Endpoint, e.Repo)
}

// FileNotFoundError says that a file is not where its model's list says.
type FileNotFoundError struct{ Repo, Revision, File, Endpoint string }

func (e *FileNotFoundError) Error() string {
	return fmt.Sprintf("%s lists %s in %s at %s and does not have it: try another mirror (hub.endpoints)", e.Endpoint, e.File, e.Repo, e.Revision)
}

// AccessError says that a token was refused.
type AccessError struct {
	Repo, Endpoint string
	Status         int
	Token          bool
	Message        string
}

func (e *AccessError) Error() string {
	s := fmt.Sprintf("%s refuses access to %s (%d", e.Endpoint, e.Repo, e.Status)
	if e.Message != "" {
		s += ": " + e.Message
	}
	s += "): "
	if e.Token {
		return s + "check the token ($HF_TOKEN or hub.token): it may have expired, or lack the right to read this model"
	}
	return s + tokenRemedy
}

// RateLimitError says that a hub wants fewer requests.
type RateLimitError struct {
	Endpoint string
	Wait     time.Duration // as it said; 0: it did not
}

func (e *RateLimitError) Error() string {
	s := fmt.Sprintf("%s has had too many requests", e.Endpoint)
	if e.Wait > 0 {
		s += fmt.Sprintf("; it says to wait %v", e.Wait)
	}
	return s + ": pull again later, which goes on where it was, or give a token by $HF_TOKEN or hub.token"
}

// Failure is how asking one endpoint ended.
type Failure struct {
	Endpoint string
	Err      error
}

// UnreachableError says that no endpoint could be asked.
type UnreachableError struct {
	What     string // was asked for
	Failures []Failure
}

func (e *UnreachableError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s could not be fetched", e.What)
	for _, f := range e.Failures {
		fmt.Fprintf(&b, "; %s: %v", f.Endpoint, f.Err)
	}
	b.WriteString(" (check the network and hub.endpoints; pulling again goes on where it was)")
	return b.String()
}

func (e *UnreachableError) Unwrap() []error {
	var out []error
	for _, f := range e.Failures {
		out = append(out, f.Err)
	}
	return out
}

// AnswerError says that an endpoint answered what no hub should. Nothing of it was kept.
type AnswerError struct{ Endpoint, What, Problem string }

func (e *AnswerError) Error() string {
	return fmt.Sprintf("%s: %s: %s; if this is no mistake of a proxy in between, don't trust this endpoint", e.Endpoint, e.What, e.Problem)
}

// ChecksumError says that a file's content is not what its hash promised. It was deleted.
type ChecksumError struct{ Repo, File, Endpoint, Hash, Want, Got string }

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s of %s is wrong: its %s is %s, wanted %s; it came from %s and was deleted: pull again, or try another mirror (hub.endpoints)",
		e.File, e.Repo, e.Hash, e.Got, e.Want, e.Endpoint)
}

// NotCachedError says that a model is not in the cache, and nobody may or should be asked for it.
type NotCachedError struct {
	Ref     Ref
	Cache   string
	Offline bool
	Found   string // what is there of it; may be empty
}

func (e *NotCachedError) Error() string {
	s := fmt.Sprintf("%s is not in the hub's cache (%s)", e.Ref, e.Cache)
	if e.Found != "" {
		s += ": " + e.Found
	}
	if e.Offline {
		return s + "; hub.offline or $HF_HUB_OFFLINE forbids to fetch it: unset them and run `accel pull " + e.Ref.String() + "`"
	}
	return s + "; run `accel pull " + e.Ref.String() + "`"
}

// ChoiceError says that a model has several files of which one is enough, or none that was asked for.
type ChoiceError struct {
	Ref     Ref
	Kind    string // "GGUF" or "ONNX"
	Files   []File // of a split file the first part, with the size of all
	Matched bool   // the variant fits several
}

func (e *ChoiceError) Error() string {
	var b strings.Builder
	ref := Ref{Repo: e.Ref.Repo, Revision: e.Ref.Revision}
	switch {
	case e.Ref.Variant == "":
		fmt.Fprintf(&b, "%s has several %s files; name one, as %s:VARIANT or by --file PATTERN:", ref, e.Kind, ref)
	case e.Matched:
		fmt.Fprintf(&b, "%q fits several %s files of %s; name one by its whole name, as %s:NAME:", e.Ref.Variant, e.Kind, ref, ref)
	default:
		fmt.Fprintf(&b, "no %s file of %s is called %s; there are:", e.Kind, ref, e.Ref.Variant)
	}
	for i, f := range e.Files {
		if i == 50 {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Files)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %10s  %s", size(f.Size), f.Name)
	}
	return b.String()
}

// NoModelError says that nothing of a model's files can be used.
type NoModelError struct {
	Ref     Ref
	Found   []string // weights in other forms
	Pickles bool     // among them
}

func (e *NoModelError) Error() string {
	s := fmt.Sprintf("%s has nothing that Accel reads: no safetensors, GGUF or ONNX", e.Ref)
	if len(e.Found) > 0 {
		s += "; there is " + strings.Join(e.Found[:min(len(e.Found), 5)], ", ")
	}
	if e.Pickles {
		s += "; pickles can run code and are not opened: look for a revision with safetensors, or convert the model"
	}
	return s
}

// PatternError says that a pattern of --file is none, or fits no file.
type PatternError struct {
	Pattern string
	Ref     Ref
	Files   []string // that there are; nil: the pattern is malformed
}

func (e *PatternError) Error() string {
	if e.Files == nil {
		return fmt.Sprintf("%q is no pattern: * and ? stand for characters of a name, [a-z] for one of a range", e.Pattern)
	}
	return fmt.Sprintf("no file of %s fits %q; there are: %s", e.Ref, e.Pattern, strings.Join(e.Files[:min(len(e.Files), 50)], ", "))
}

// BusyError says that a model is being pulled.
type BusyError struct{ Repo string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s is being pulled; wait for that to end, or end it", e.Repo)
}

// CacheError is a failure of the cache's file system.
type CacheError struct {
	Cache string
	Op    string // what was being done
	Err   error
}

func (e *CacheError) Error() string {
	return fmt.Sprintf("hub cache %s: %s: %v (it must be writable and have room; hub.cache or $HF_HUB_CACHE names another folder)", e.Cache, e.Op, e.Err)
}

func (e *CacheError) Unwrap() error { return e.Err }

// size is a number of bytes for people.
func size(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
