package origin

// For the tests that are outside of the package.
const (
	OverLimit = overLimit
	NoPort    = noPort
)
