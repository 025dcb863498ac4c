//go:build !linux

package fake

import "errors"

// Deafen is for Linux.
func Deafen(any) error { return errors.ErrUnsupported }

// Hear is for Linux.
func Hear(any) error { return errors.ErrUnsupported }

// Vanish is for Linux.
func Vanish(any) error { return errors.ErrUnsupported }
