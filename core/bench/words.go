package bench

import (
	"strings"
	"unicode"
)

// wordErrors are the words that have to be put in, left out or changed to make what is
// said of what was heard, and how many are said. Case and punctuation do not count.
func wordErrors(said, heard string) (errors, words int) {
	plain := func(s string) []string {
		return strings.Fields(strings.Map(func(r rune) rune {
			if unicode.IsPunct(r) {
				return -1
			}
			return unicode.ToLower(r)
		}, s))
	}
	a, z := plain(said), plain(heard)
	row := make([]int, len(z)+1) // of changes between what came of a so far and each beginning of z
	for j := range row {
		row[j] = j
	}
	for i, word := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, other := range z {
			change := diagonal
			if word != other {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(z)], len(a)
}
