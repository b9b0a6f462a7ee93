package bench

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/sdk/tensor"
)

// prompts are texts of about 64 tokens, to be gone on with.
var prompts = []string{
	"The lighthouse keeper had not spoken to anyone for eleven days when the small boat came round the point. It carried no light and no sail, and the figure at the oars rowed as if the sea owed him something. She put down her lamp, took the old brass telescope from its hook by the door, and",
	"To make a simple vegetable soup for four people, wash and chop two carrots, one onion, two sticks of celery and three potatoes. Melt a spoonful of butter in a large pot and cook the onion until it is soft. Then add the other vegetables, a litre of water and",
	"def merge(left, right):\n    \"\"\"Merge two sorted lists into one sorted list.\"\"\"\n    result = []\n    i = j = 0\n    while i < len(left) and j < len(right):\n        if left[i] <= right[j]:\n            result.append(left[i])\n",
	"Photosynthesis is the process by which green plants, algae and some bacteria turn the energy of light into chemical energy. In the leaves, chlorophyll absorbs mostly red and blue light, and the energy is used to split water molecules. The oxygen that is left over leaves the plant, while the hydrogen",
	"Dear Mrs. Alvarez,\n\nThank you for your letter of the third of May about the delay of your order. I am sorry that the two chairs did not arrive on the day we had promised. Our warehouse moved to a new building in April, and some deliveries",
	"Question: A train leaves the station at 9:15 in the morning and travels at 80 kilometres per hour. A second train leaves the same station at 10:00 and travels in the same direction at 110 kilometres per hour. When does the second train catch up with the first?\n\nAnswer: The first train",
	"\"You can't be serious,\" said Tom, looking at the heap of suitcases in the hall. \"We are going away for three days, not for three years.\"\n\n\"One of them is only shoes,\" answered Mara, \"and the blue one is for the things we might buy. You always say that I",
	"The Roman roads were built to move armies, but they soon carried trade, letters and ideas as well. Surveyors laid them out in straight lines wherever the land allowed, and workers dug down to firm ground before they filled the trench with layers of stone, gravel and sand. Along the way,",
	"Ten tips for better sleep:\n\n1. Go to bed at the same time every evening, also at weekends.\n2. Keep your bedroom cool, dark and quiet.\n3. Do not drink coffee after lunch.\n4. Put your phone away an hour before you go to bed.\n5.",
	"City council votes on new bicycle lanes\n\nAfter a debate that lasted until late on Tuesday evening, the city council decided by a narrow majority to build twelve kilometres of protected bicycle lanes along the river. Shop owners in the old town had warned that they would lose parking spaces, while",
}

const (
	textTokens = 64
	// nearTie is the largest gap of two tokens' logits at which they count as tied:
	// so many times what the gap of the two likeliest tokens differs by between the
	// engines where these agree, root mean square.
	nearTie = 3
)

// BenchmarkLlamaCppTexts generates greedily beside llama.cpp, which multiplies with
// activations of 8 bits. Where a text leaves the other's, the two tokens must be as
// good as equally likely, for both engines.
func BenchmarkLlamaCppTexts(b *testing.B) {
	gguf := smolLM2(b)
	l := startLlamaCpp(b, gguf, runtime.NumCPU(), 2*textTokens+64, 1)
	e := newEngine(b, b.TempDir())
	for _, activations := range []string{"f32", "int8"} {
		b.Run(activations, func(b *testing.B) {
			o := models.Options{Activations: activations, KV: models.KVTypes{Key: tensor.Float16, Value: tensor.Float16}} // as llama.cpp's
			d := openDecoder(b, e, gguf, o, 2*textTokens+64)
			tok, err := processors.OpenTokenizer(d.session.Dir)
			if err != nil {
				b.Fatal(err)
			}
			type difference struct {
				prompt, tokens, at int
				mine, other        string
				ours, theirs       float64 // gaps
			}
			var differences []difference
			var squares float64
			same, agreed := 0, 0
			for n, prompt := range prompts {
				enc, err := tok.Encode(prompt, processors.EncodeOptions{})
				if err != nil {
					b.Fatal(err)
				}
				d.clear()
				l.clear(b)
				ids := enc.IDs
				at := 0
				for ; at < textTokens; at++ {
					logits := d.add(b, ids, false)
					theirs, _ := l.prefill(b, 0, ids)
					mine, second := likeliest(logits)
					if mine != theirs {
						g := l.logits(b, 0, theirs, mine)
						differences = append(differences, difference{n, len(enc.IDs), at, string(tok.TokenBytes(mine)), string(tok.TokenBytes(theirs)),
							float64(logits[mine] - logits[theirs]), g[0] - g[1]})
						break
					}
					g := l.logits(b, 0, mine, second)
					squares += math.Pow(float64(logits[mine]-logits[second])-(g[0]-g[1]), 2)
					agreed++
					ids = []int64{mine}
				}
				if at == textTokens {
					same++
				}
			}
			noise := math.Sqrt(squares / float64(agreed))
			var table strings.Builder
			fmt.Fprintf(&table, "\nSmolLM2-135M Q4_1, activations of %s, beside %s: %d of %d texts of %d tokens are the same\n", activations, l.name, same, len(prompts), textTokens)
			fmt.Fprintf(&table, "where they agree, the gap of the likeliest two tokens' logits differs by %.3f (root mean square of %d)\n", noise, agreed)
			fmt.Fprintf(&table, "%-6s %6s %5s  %-14s %-14s %9s %9s\n", "prompt", "tokens", "at", "ours", "theirs", "our gap", "their gap")
			worst := 0.0
			for _, x := range differences {
				fmt.Fprintf(&table, "%6d %6d %5d  %-14q %-14q %9.3f %9.3f\n", x.prompt+1, x.tokens, x.at+1, x.mine, x.other, x.ours, x.theirs)
				worst = max(worst, x.ours, x.theirs)
			}
			fmt.Println(table.String())
			if worst > nearTie*noise {
				b.Errorf("a text differs where a gap is %.3f, which is no tie: %d times %.3f is allowed", worst, nearTie, noise)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(same), "same-texts")
			b.ReportMetric(worst, "worst-gap")
			b.ReportMetric(noise, "gap-noise")
		})
	}
}
