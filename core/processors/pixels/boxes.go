package pixels

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

// Detection is a thing in a picture.
type Detection struct {
	Label int        // the class's number
	Score float32    // its probability
	Box   [4]float32 // left, top, right, bottom, in pixels
}

// Detections reads what DETR gives for a batch: logits [batch, queries, classes+1], the
// last class being no thing, and boxes [batch, queries, 4] (the middle's x and y, width
// and height, in parts of the picture), both float32. sizes are the height and width of
// each picture as it was before it was made ready. Of each query the most probable class
// counts, where its probability is above the threshold, in the queries' order
// (transformers' post_process_object_detection).
func Detections(logits, boxes tensor.Tensor, sizes [][2]int, threshold float64) ([][]Detection, error) {
	if logits.DType != tensor.Float32 || boxes.DType != tensor.Float32 || len(logits.Shape) != 3 || len(boxes.Shape) != 3 ||
		!logits.Shape[:2].Equal(boxes.Shape[:2]) || logits.Shape[2] < 2 || boxes.Shape[2] != 4 || logits.Shape[0] != int64(len(sizes)) {
		return nil, fmt.Errorf("detections of %d pictures out of logits %s%v and boxes %s%v", len(sizes), logits.DType, logits.Shape, boxes.DType, boxes.Shape)
	}
	if err := logits.Check(); err != nil {
		return nil, err
	}
	if err := boxes.Check(); err != nil {
		return nil, err
	}
	queries, classes := int(logits.Shape[1]), int(logits.Shape[2])
	l, b := tensor.View[float32](logits.Aligned()), tensor.View[float32](boxes.Aligned())
	out := make([][]Detection, len(sizes))
	for i, size := range sizes {
		height, width := float32(size[0]), float32(size[1])
		for range queries {
			row, box := l[:classes], b[:4]
			l, b = l[classes:], b[4:]
			label, score := mostProbable(row)
			if float64(score) <= threshold {
				continue
			}
			x, y, w, h := box[0], box[1], box[2]/2, box[3]/2
			out[i] = append(out[i], Detection{label, score, [4]float32{(x - w) * width, (y - h) * height, (x + w) * width, (y + h) * height}})
		}
	}
	return out, nil
}

// mostProbable is the likeliest class but the last, and its part of the softmax.
func mostProbable(logits []float32) (int, float32) {
	most := slices.Max(logits)
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v - most))
	}
	best := 0
	for i, v := range logits[:len(logits)-1] {
		if v > logits[best] {
			best = i
		}
	}
	return best, float32(math.Exp(float64(logits[best]-most)) / sum)
}

// Best are the n likeliest, the likeliest first; n 0: all.
func Best(list []Detection, n int) []Detection {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Detection) int { return cmp.Compare(b.Score, a.Score) })
	if n > 0 && n < len(list) {
		list = list[:n]
	}
	return list
}
