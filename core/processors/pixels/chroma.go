package pixels

import (
	"image"
	"image/color"
)

// upsampled are rows of a colour channel at full width and height, made as the "fancy"
// upsampling of libjpeg (jdsample.c) or libwebp (src/dsp/upsampling.c) makes them: a
// pixel is three parts of the nearest sample and one of the next, in either direction.
type upsampled struct {
	samples       []byte
	stride        int
	width, height int // of the samples
	halfX, halfY  bool
	near          []int32 // sums of a row's samples and the nearest other row's
	webp          bool    // libwebp's way to round, for channels that are halved both ways
}

// row writes a row of the channel.
func (u *upsampled) row(y int, out []byte) {
	at := func(y int) []byte {
		y = min(max(y, 0), u.height-1)
		return u.samples[y*u.stride : y*u.stride+u.width]
	}
	if !u.halfX && !u.halfY {
		copy(out, at(y))
		return
	}
	if !u.halfY {
		s := at(y)
		for x := range out {
			i, next := x/2, x/2-1+2*(x%2)
			next = min(max(next, 0), u.width-1)
			out[x] = byte((3*int32(s[i]) + int32(s[next]) + 1 + int32(x%2)) >> 2)
		}
		return
	}
	nearest, other := at(y/2), at(y/2-1+2*(y%2))
	if !u.halfX {
		for x := range out {
			out[x] = byte((3*int32(nearest[x]) + int32(other[x]) + 1 + int32(y%2)) >> 2)
		}
		return
	}
	if u.webp {
		for x := range out {
			i, next := x/2, x/2-1+2*(x%2)
			m, v := int32(nearest[i]), int32(other[i])
			if next < 0 || next >= u.width {
				out[x] = byte((3*m + v + 2) >> 2)
				continue
			}
			h, d := int32(nearest[next]), int32(other[next])
			out[x] = byte(((m+h+v+d+8+2*(h+v))>>3 + m) >> 1)
		}
		return
	}
	if u.near == nil {
		u.near = make([]int32, u.width)
	}
	for i := range u.near {
		u.near[i] = 3*int32(nearest[i]) + int32(other[i])
	}
	for x := range out {
		i, next := x/2, x/2-1+2*(x%2)
		next = min(max(next, 0), u.width-1)
		out[x] = byte((3*u.near[i] + u.near[next] + 8 - int32(x%2)) >> 4)
	}
}

// channel is the colour channel of a decoder's planes.
func channel(m *image.YCbCr, samples []byte) *upsampled {
	b := m.Bounds()
	u := &upsampled{samples: samples, stride: m.CStride, width: b.Dx(), height: b.Dy()}
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422:
		u.halfX = true
	case image.YCbCrSubsampleRatio420:
		u.halfX, u.halfY = true, true
	case image.YCbCrSubsampleRatio440:
		u.halfY = true
	}
	if u.halfX {
		u.width = (u.width + 1) / 2
	}
	if u.halfY {
		u.height = (u.height + 1) / 2
	}
	return u
}

// jpegRGB converts as libjpeg does (jdcolor.c, with numbers of 16 bits after the point).
func jpegRGB(out Picture, m *image.YCbCr) Picture {
	// 1.402, 1.772, 0.71414 and 0.34414 times 65536.
	const crR, cbB, crG, cbG, half = 91881, 116130, 46802, 22554, 1 << 15
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410:
		return plainRGB(out, m)
	}
	return eachYCC(out, m, false, func(y, cb, cr int32) (r, g, b int32) {
		cb, cr = cb-128, cr-128
		return y + (crR*cr+half)>>16, y + (half-crG*cr-cbG*cb)>>16, y + (cbB*cb+half)>>16
	})
}

// webpRGB converts as libwebp does (src/dsp/yuv.h: BT.601 of limited range, with 14 bits
// after the point).
func webpRGB(out Picture, m *image.YCbCr) Picture {
	return eachYCC(out, m, true, func(y, u, v int32) (r, g, b int32) {
		y = y * 19077 >> 8
		return (y + v*26149>>8 - 14234) >> 6, (y - u*6419>>8 - v*13320>>8 + 8708) >> 6, (y + u*33050>>8 - 17685) >> 6
	})
}

// plainRGB takes the nearest sample, for the rare ways of subsampling that libjpeg
// doesn't smooth either.
func plainRGB(out Picture, m *image.YCbCr) Picture {
	b := m.Bounds()
	for y := range out.Height {
		to := out.row(y)
		for x := range out.Width {
			c := m.YCbCrAt(b.Min.X+x, b.Min.Y+y)
			to[3*x], to[3*x+1], to[3*x+2] = color.YCbCrToRGB(c.Y, c.Cb, c.Cr)
		}
	}
	return out
}

func eachYCC(out Picture, m *image.YCbCr, webp bool, convert func(y, cb, cr int32) (r, g, b int32)) Picture {
	cb, cr := channel(m, m.Cb), channel(m, m.Cr)
	cb.webp, cr.webp = webp, webp
	blue, red := make([]byte, out.Width), make([]byte, out.Width)
	for y := range out.Height {
		cb.row(y, blue)
		cr.row(y, red)
		to := out.row(y)
		for x, light := range m.Y[y*m.YStride : y*m.YStride+out.Width] {
			r, g, b := convert(int32(light), int32(blue[x]), int32(red[x]))
			to[3*x], to[3*x+1], to[3*x+2] = clip(r), clip(g), clip(b)
		}
	}
	return out
}
