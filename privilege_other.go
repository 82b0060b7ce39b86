//go:build !linux

package main

// dropPrivileges has nothing to do where nothing is captured live.
func dropPrivileges(*identity) error { return nil }
