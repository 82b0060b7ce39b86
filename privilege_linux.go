package main

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropPrivileges gives up every capability, on all threads and for good, and with
// id not nil the identity. What is open stays open.
func dropPrivileges(id *identity) error {
	// Programs that are executed shall not get any back. This itself takes
	// CAP_SETPCAP: without it, no_new_privs below has to do.
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			break
		}
	}
	if id != nil {
		if err := errors.Join(syscall.Setgroups(id.groups), syscall.Setresgid(id.gid, id.gid, id.gid), syscall.Setresuid(id.uid, id.uid, id.uid)); err != nil {
			return fmt.Errorf("become %s: %w", id.name, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}
