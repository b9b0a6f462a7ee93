package checkpoint

import "sort"

// Bounds on what Alike compares, for names may come from hostile files.
const (
	alikeNames = 1 << 14
	alikeBytes = 1 << 7
)

// Alike returns up to max of the names that look most like name, nearest first:
// those within an edit distance of half its length.
func Alike(name string, names []string, max int) []string {
	type match struct {
		name     string
		distance int
	}
	name = head(name)
	var found []match
	for i, n := range names {
		if i == alikeNames {
			break
		}
		n = head(n)
		if d := distance(name, n); d <= len(name)/2 {
			found = append(found, match{n, d})
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].distance < found[j].distance })
	if len(found) > max {
		found = found[:max]
	}
	out := make([]string, len(found))
	for i, m := range found {
		out[i] = m.name
	}
	return out
}

func head(s string) string {
	if len(s) > alikeBytes {
		return s[:alikeBytes]
	}
	return s
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
