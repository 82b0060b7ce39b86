package main

import (
	"fmt"
	"os/user"
	"strconv"
)

// An identity is a user to go on as.
type identity struct {
	name     string
	uid, gid int
	groups   []int
}

// lookUpUser finds a user by name or number.
func lookUpUser(name string) (*identity, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("there is no user %q", name)
		}
	}
	id := &identity{name: u.Username}
	var err2 error
	id.uid, err = strconv.Atoi(u.Uid)
	id.gid, err2 = strconv.Atoi(u.Gid)
	if err != nil || err2 != nil {
		return nil, fmt.Errorf("user %q has no number", name)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	for _, g := range groups {
		if n, err := strconv.Atoi(g); err == nil {
			id.groups = append(id.groups, n)
		}
	}
	return id, nil
}
