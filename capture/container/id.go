package container

// IDIn returns the id of the container that control groups are of, in the words of
// /proc/PID/cgroup: of the innermost, where one runs inside another. It returns ""
// where they name none by an id as engines make them.
func IDIn(groups string) (id string) {
	for _, name := range groupsIn(groups) {
		if len(name) >= 64 && isID(name[len(name)-64:]) {
			id = name[len(name)-64:]
		}
	}
	return id
}
