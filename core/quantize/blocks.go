// Package quantize makes folders of quantised weights (checkpoint.Quantized). It
// imports GGUF files: their blocks are taken apart and packed anew, never blown up to
// floats.
package quantize

import (
	"encoding/binary"

	"github.com/accelhq/accel/core/checkpoint"
)

// layout is how weights of a GGUF type are kept: as codes of Bits bits, and a scale,
// and perhaps a min, for every Block of them.
type layout struct {
	checkpoint.Quantized // without sizes
	// unpack takes one block of the file apart: into a code each element, and the
	// scales and mins of the blocks that it is kept as.
	unpack func(block []byte, codes []uint8, scales, mins []uint16)
}

// layouts are the GGUF types that are kept as they are: in Q4_0 to Q8_0 bit for bit,
// while in the K types, where a block's scale and min are products of a float16 and
// a small integer, the product is rounded to float16. Formats are as ggml defines
// them (https://github.com/ggml-org/ggml, block_q4_0 and so on).
var layouts = map[string]layout{
	"Q4_0": {nBits(4), unpackQ4_0},
	"Q8_0": {nBits(8), unpackQ8_0},
	"Q4_1": {blocks(4, 32, true), unpackQ4_1},
	"Q5_0": {blocks(5, 32, false), unpackQ5_0},
	"Q5_1": {blocks(5, 32, true), unpackQ5_1},
	"Q4_K": {blocks(4, 32, true), unpackQ4_K},
	"Q5_K": {blocks(5, 32, true), unpackQ5_K},
	"Q6_K": {blocks(6, 16, false), unpackQ6_K},
}

func nBits(bits int64) checkpoint.Quantized {
	return checkpoint.Quantized{Operator: checkpoint.MatMulNBits, Bits: bits, Block: 32}
}

func blocks(bits, block int64, mins bool) checkpoint.Quantized {
	return checkpoint.Quantized{Operator: checkpoint.MatMulBlocks, Bits: bits, Block: block, Mins: mins}
}

func half(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }

// nibbles puts the low halves of bytes before the high ones.
func nibbles(b []byte, codes []uint8) {
	for i, x := range b {
		codes[i], codes[i+len(b)] = x&15, x>>4
	}
}

// fifths adds a fifth bit to 32 codes.
func fifths(b []byte, codes []uint8) {
	high := binary.LittleEndian.Uint32(b)
	for i := range codes {
		codes[i] |= uint8(high>>i&1) << 4
	}
}

// w = d*(q-8)
func unpackQ4_0(b []byte, codes []uint8, scales, _ []uint16) {
	scales[0] = half(b)
	nibbles(b[2:18], codes)
}

// w = d*q, q signed
func unpackQ8_0(b []byte, codes []uint8, scales, _ []uint16) {
	scales[0] = half(b)
	for i, x := range b[2:34] {
		codes[i] = x ^ 0x80
	}
}

// w = d*q + m
func unpackQ4_1(b []byte, codes []uint8, scales, mins []uint16) {
	scales[0], mins[0] = half(b), half(b[2:])
	nibbles(b[4:20], codes)
}

// w = d*(q-16)
func unpackQ5_0(b []byte, codes []uint8, scales, _ []uint16) {
	scales[0] = half(b)
	nibbles(b[6:22], codes)
	fifths(b[2:6], codes)
}

// w = d*q + m
func unpackQ5_1(b []byte, codes []uint8, scales, mins []uint16) {
	scales[0], mins[0] = half(b), half(b[2:])
	nibbles(b[8:24], codes)
	fifths(b[4:8], codes)
}

// unpackK reads the scales and mins of eight blocks, 6 bits each in 12 bytes:
// w = d*s*q - dmin*m.
func unpackK(b []byte, scales, mins []uint16) {
	d, dmin := fromHalf(half(b)), fromHalf(half(b[2:]))
	p := b[4:16]
	for j := range 4 {
		scales[j], mins[j] = toHalf(d*float32(p[j]&63)), toHalf(-dmin*float32(p[j+4]&63))
		s, m := p[j+8]&15|p[j]>>6<<4, p[j+8]>>4|p[j+4]>>6<<4
		scales[j+4], mins[j+4] = toHalf(d*float32(s)), toHalf(-dmin*float32(m))
	}
}

func unpackQ4_K(b []byte, codes []uint8, scales, mins []uint16) {
	unpackK(b, scales, mins)
	for j := range 4 {
		nibbles(b[16+32*j:48+32*j], codes[64*j:64*j+64])
	}
}

func unpackQ5_K(b []byte, codes []uint8, scales, mins []uint16) {
	unpackK(b, scales, mins)
	for j := range 4 {
		c := codes[64*j : 64*j+64]
		nibbles(b[48+32*j:80+32*j], c)
		for i, high := range b[16:48] {
			c[i] |= high >> (2 * j) & 1 << 4
			c[i+32] |= high >> (2*j + 1) & 1 << 4
		}
	}
}

// w = d*s*(q-32), s signed
func unpackQ6_K(b []byte, codes []uint8, scales, _ []uint16) {
	d := fromHalf(half(b[208:]))
	for i := range 16 {
		scales[i] = toHalf(d * float32(int8(b[192+i])))
	}
	for n := range 2 {
		low, high, c := b[64*n:64*n+64], b[128+32*n:160+32*n], codes[128*n:128*n+128]
		nibbles(low, c)
		for i, h := range high {
			for quarter := range 4 {
				c[i+32*quarter] |= h >> (2 * quarter) & 3 << 4
			}
		}
	}
}

// pack writes codes of so many bits one after another, the least significant bit
// first. All of them together must fill whole bytes.
func pack(dst []byte, codes []uint8, bits int64) {
	switch bits {
	case 8:
		copy(dst, codes)
		return
	case 4:
		for i := range dst[:len(codes)/2] {
			dst[i] = codes[2*i] | codes[2*i+1]<<4
		}
		return
	}
	for i, at := 0, 0; i < len(codes); i += 8 {
		var word uint64
		eight := codes[i:min(i+8, len(codes))]
		for j, c := range eight {
			word |= uint64(c) << (int64(j) * bits)
		}
		for range int64(len(eight)) * bits / 8 {
			dst[at] = byte(word)
			word >>= 8
			at++
		}
	}
}
