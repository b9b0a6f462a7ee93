package audio

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// seconds says how many seconds of sound a second of work is enough for.
func seconds(b *testing.B, each float64) {
	b.ReportMetric(each*float64(b.N)/b.Elapsed().Seconds(), "x")
}

func BenchmarkResample(b *testing.B) {
	block := make([]float32, 4096)
	for b.Loop() {
		src, err := Resample(&sine{rate: 44100, frequency: 440, total: 441000}, 16000)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = src.Read(block)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
	}
	seconds(b, 10)
}

func BenchmarkWhisperFeatures(b *testing.B) {
	x := make([]float32, 480000)
	if _, err := (&sine{rate: 16000, frequency: 440, total: len(x)}).Read(x); err != nil {
		b.Fatal(err)
	}
	w := NewWhisper(80)
	for b.Loop() {
		if _, err := w.Extract([][]float32{x}); err != nil {
			b.Fatal(err)
		}
	}
	seconds(b, 30)
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{"stereo16.flac", "stereo.mp3", "mono22050.mp3", "stereo.ogg", "celt.opus", "silk.opus"} {
		b.Run(name, func(b *testing.B) {
			data, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				b.Fatal(err)
			}
			block := make([]float32, 4096)
			for b.Loop() {
				s, err := Open(bytes.NewReader(data))
				for err == nil {
					_, err = s.Read(block)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			seconds(b, 0.3)
		})
	}
}
