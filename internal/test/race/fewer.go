package race

// Fewer returns n, or a tenth of that where the race detector is on: with it the same
// takes up to ten times as long, and a race shows among few as well.
func Fewer(n int) int {
	if Enabled {
		return n / 10
	}
	return n
}
