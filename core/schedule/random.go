package schedule

import "math/bits"

// uniform is a random number in [0, 1) with 53 bits that depends on nothing but seed,
// choice and position: a replay, a preemption or another batch draws the same.
// Philox4x32-10 (Salmon et al. 2011): the seed is the key, choice and position the counter.
func uniform(seed uint64, choice, position int) float64 {
	r := philox([4]uint32{uint32(position), uint32(uint64(position) >> 32), uint32(choice), 0},
		[2]uint32{uint32(seed), uint32(seed >> 32)})
	return float64((uint64(r[0])|uint64(r[1])<<32)>>11) / (1 << 53)
}

func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		h0, l0 := bits.Mul32(0xD2511F53, c[0])
		h1, l1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
