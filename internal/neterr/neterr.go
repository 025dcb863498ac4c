// Package neterr tells what an error of a socket means. Each system has its own numbers
// for them: Windows' sockets never return the ones that package syscall names like Unix's.
package neterr

import (
	"errors"
	"slices"
)

// IsReset tells whether the other end did not know the connection, and said so.
func IsReset(err error) bool { return isAny(err, reset) }

// IsBroken tells whether something was to be sent on a connection that had been reset.
func IsBroken(err error) bool { return isAny(err, broken) }

// IsGivenUp tells whether the kernel gave the connection up: nobody answered it.
func IsGivenUp(err error) bool { return isAny(err, givenUp) }

// IsTaken tells whether another socket listens on the address.
func IsTaken(err error) bool { return isAny(err, taken) }

func isAny(err error, of []error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}
