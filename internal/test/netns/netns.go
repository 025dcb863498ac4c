// Package netns gives tests a network of their own, which may drop packets. It
// takes Linux.
package netns
