package quantize

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/sdk/tensor"
)

// Endings of files that a folder's sample is made of.
var (
	pictureEndings = []string{".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
	soundEndings   = []string{".wav", ".flac", ".mp3", ".ogg", ".opus"}
)

// Bounds of a sample of media.
const (
	maxMedia     = 32
	soundSeconds = 30
)

// sense is a component that sees or hears, and which of its outputs is compared.
type sense struct {
	component, output string
	hears             bool
}

var senses = []sense{
	{models.See, "image_rows", false},
	{models.Classify, models.Logits, false},
	{models.Detect, models.Logits, false},
	{models.Image, models.ImageEmbeds, false},
	{models.CTCLogits, models.Logits, true},
	{models.Audio, "audio_embeds", true},
	{models.Encoder, "encoder_last_hidden_state", true},
}

// newMediaSample makes a sample of the pictures or sounds in a folder, whichever the model
// takes.
func newMediaSample(ck *checkpoint.Checkpoint, m *models.Model, dir string) (*sample, error) {
	at := slices.IndexFunc(senses, func(s sense) bool {
		return m.Has(s.component) && (s.component != models.Encoder || m.Hears())
	})
	if at < 0 {
		return nil, &SampleError{File: dir, Found: "models of class " + m.Class + " neither see pictures nor hear sounds", Wanted: "a file of texts"}
	}
	takes := senses[at]
	endings, what := pictureEndings, "pictures"
	if takes.hears {
		endings, what = soundEndings, "sounds"
	}
	prepare, err := preparation(ck, m, takes.hears)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, &SampleError{File: dir, Found: err.Error()}
	}
	s := &sample{component: takes.component, output: takes.output}
	for _, e := range entries {
		if len(s.fit) == maxMedia || !slices.Contains(endings, strings.ToLower(filepath.Ext(e.Name()))) {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, &SampleError{File: file, Found: err.Error()}
		}
		in, err := prepare(data)
		if err == nil {
			in, err = s.taken(m, in)
		}
		if err != nil {
			return nil, &SampleError{File: file, Found: err.Error()}
		}
		s.fit = append(s.fit, feed{inputs: in})
	}
	if len(s.fit) == 0 {
		return nil, &SampleError{File: dir, Found: "it has no " + what, Wanted: "files that end with " + strings.Join(endings, ", ")}
	}
	return s, nil
}

// taken are the inputs that the component has, completed.
func (s *sample) taken(m *models.Model, in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	g, err := m.Component(s.component)
	if err != nil {
		return nil, err
	}
	own := map[string]tensor.Tensor{}
	for _, v := range g.Graph.Inputs {
		if x, ok := in[v.Name]; ok {
			own[v.Name] = x
		}
	}
	return m.Feeds(s.component, own)
}

// preparation makes inputs of a file.
func preparation(ck *checkpoint.Checkpoint, m *models.Model, hears bool) (func(data []byte) (map[string]tensor.Tensor, error), error) {
	if !hears {
		p, err := pixels.Open(ck.Dir, m.ModelType)
		if err != nil {
			return nil, err
		}
		return func(data []byte) (map[string]tensor.Tensor, error) {
			picture, err := pixels.Decode(data, pixels.Limits{})
			if err != nil {
				return nil, err
			}
			in, err := p.Process([]pixels.Picture{picture})
			if v := in[pixels.PixelValues]; len(v.Shape) == 5 { // tiles of the one picture
				v.Shape = v.Shape[1:]
				in[pixels.PixelValues] = v
			}
			return in, err
		}, nil
	}
	x, err := audio.OpenExtractor(ck.Dir)
	if errors.Is(err, fs.ErrNotExist) && m.Hears() { // as folders of CTranslate2 have none
		g, missing := m.Component(models.Encoder)
		if missing != nil {
			return nil, missing
		}
		x, err = audio.NewWhisper(int(g.Graph.Inputs[0].Type.Dims[1].Size)), nil
	}
	if err != nil {
		return nil, err
	}
	return func(data []byte) (map[string]tensor.Tensor, error) {
		sound, err := audio.Open(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		source, err := audio.Resample(sound, x.Rate())
		if err != nil {
			return nil, err
		}
		most := soundSeconds * x.Rate()
		if n := x.MostSamples(); n > 0 {
			most = min(most, n)
		}
		samples := make([]float32, 0, most)
		for len(samples) < most {
			n, err := source.Read(samples[len(samples):most])
			samples = samples[:len(samples)+n]
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
		}
		return x.Extract([][]float32{samples})
	}, nil
}
