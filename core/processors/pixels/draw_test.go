package pixels

import (
	"bytes"
	"math"
	"testing"
)

func TestMarked(t *testing.T) {
	p := Black(100, 80)
	nan := float32(math.NaN())
	out := p.Marked([]Mark{{[4]float32{10, 30, 60, 70}, "cat 0.93", 1}, {[4]float32{-50, nan, 1e9, 20}, "over the edge", -3}})
	if !bytes.Equal(p.Pix, Black(100, 80).Pix) || out.Check() != nil {
		t.Fatal("the picture was changed, or the copy is broken")
	}
	at := func(x, y int) [3]byte { return [3]byte(out.row(y)[3*x : 3*x+3]) }
	for _, c := range []struct {
		x, y int
		want [3]byte
	}{
		{10, 50, colors[1]}, {60, 50, colors[1]}, {30, 70, colors[1]}, {30, 50, [3]byte{}}, {5, 50, [3]byte{}},
		{11, 16, colors[1]}, // the text's ground, above the box
		{99, 10, colors[4]}, {50, 20, colors[4]},
	} {
		if got := at(c.x, c.y); got != c.want {
			t.Errorf("%d, %d: found %v, wanted %v", c.x, c.y, got, c.want)
		}
	}
	letters := 0
	for y := 15; y < 30; y++ {
		for x := 10; x < 60; x++ {
			if at(x, y) == [3]byte{} {
				letters++
			}
		}
	}
	if letters < 40 {
		t.Errorf("the text has %d pixels", letters)
	}
}

func TestCaptioned(t *testing.T) {
	p := Black(900, 900)
	out := p.Captioned([]string{"tabby 0.71", ""})
	if got := [3]byte(out.row(1)[:3]); got != colors[0] {
		t.Errorf("found %v at the corner", got)
	}
	if got := [3]byte(out.row(labelHeight*2 + 1)[:3]); got != [3]byte{} {
		t.Errorf("found %v below", got)
	}
	data, err := out.PNG()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data, Limits{})
	if err != nil || !bytes.Equal(again.Pix, out.Pix) {
		t.Errorf("the file holds another picture: %v", err)
	}
}
