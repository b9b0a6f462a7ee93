// Package hub brings models from the Hugging Face hub, or a mirror of it, into the
// cache that Python's huggingface_hub shares (https://huggingface.co/docs/huggingface_hub/guides/manage-cache),
// and finds them there. Nothing is taken on trust: names, sizes and hashes are checked before
// a file gets its place.
package hub

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Scheme begins the path of a model that lies in the hub's cache.
const Scheme = "hub:"

// DefaultRevision is the branch that a Ref without a revision means.
const DefaultRevision = "main"

// Ref names a model: ORG/NAME[@REVISION][:VARIANT].
type Ref struct {
	Repo     string // ORG/NAME, or NAME alone for the oldest ones
	Revision string // branch, tag or commit; never empty
	Variant  string // which of several GGUF or ONNX files, such as Q4_K_M; may be empty
}

// String returns what ParseRef reads, without the scheme.
func (r Ref) String() string {
	s := r.Repo
	if r.Revision != DefaultRevision {
		s += "@" + r.Revision
	}
	if r.Variant != "" {
		s += ":" + r.Variant
	}
	return s
}

// RefError says that a text names no model.
type RefError struct{ Text, Problem string }

func (e *RefError) Error() string {
	return fmt.Sprintf("%q names no model of the hub: %s; want ORG/NAME, ORG/NAME@REVISION or ORG/NAME:VARIANT, such as HuggingFaceTB/SmolLM2-135M-Instruct", shorten(e.Text), e.Problem)
}

var (
	repoPart     = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)
	revisionPart = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+=-]*$`)
	variantForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`)
	hexSHA1      = regexp.MustCompile(`^[0-9a-f]{40}$`)
	hexSHA256    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// ParseRef reads a name, with or without the scheme. Its error is a *RefError.
func ParseRef(text string) (Ref, error) {
	fail := func(problem string) (Ref, error) { return Ref{}, &RefError{text, problem} }
	rest := strings.TrimPrefix(text, Scheme)
	rest, variant, hasVariant := strings.Cut(rest, ":")
	repo, revision, hasRevision := strings.Cut(rest, "@")
	r := Ref{Repo: repo, Revision: DefaultRevision, Variant: variant}
	if problem := repoProblem(repo); problem != "" {
		return fail(problem)
	}
	if hasRevision {
		if !validRevision(revision) {
			return fail("a revision is a branch, a tag or a commit")
		}
		r.Revision = revision
	}
	if hasVariant && (!variantForm.MatchString(variant) || len(variant) > 200) {
		return fail("a variant is a part of a file's name, such as Q4_K_M")
	}
	return r, nil
}

// repoProblem says what is wrong with a repository's name: the hub's own rules, which also
// keep it safe as a folder's name.
func repoProblem(repo string) string {
	parts := strings.Split(repo, "/")
	if len(parts) > 2 {
		return "it has more than two parts"
	}
	for _, p := range parts {
		switch {
		case p == "":
			return "a part of it is empty"
		case len(p) > 96:
			return "a part of it is longer than 96 characters"
		case !repoPart.MatchString(p), strings.Contains(p, "--"), strings.Contains(p, ".."):
			return "its parts hold letters, digits, single dots and dashes between them, and _"
		}
	}
	return ""
}

func validRevision(revision string) bool {
	if len(revision) > 200 || strings.Contains(revision, "..") {
		return false
	}
	for p := range strings.SplitSeq(revision, "/") {
		if !revisionPart.MatchString(p) || strings.HasSuffix(p, ".") {
			return false
		}
	}
	return true
}

// nameProblem says why a file's name, as an API gave it, may not become a path.
func nameProblem(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > 1000:
		return "it is longer than 1000 bytes"
	case !utf8.ValidString(name):
		return "it is not valid UTF-8"
	case strings.Contains(name, `\`):
		return `it holds a \`
	case strings.ContainsFunc(name, unicode.IsControl):
		return "it holds a control character"
	}
	for p := range strings.SplitSeq(name, "/") {
		if p == "" || p == "." || p == ".." || len(p) > 250 {
			return "it does not lead to a file inside the model's folder"
		}
	}
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return "it does not lead to a file inside the model's folder"
	}
	return ""
}

// shorten keeps what came from elsewhere from filling the screen, or steering it.
func shorten(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
