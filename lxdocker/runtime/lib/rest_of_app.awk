# Reads /proc/*/status of all processes, and prints the PIDs of the application's remaining processes. These are the
# descendants of PID 1 in sessions other than its own, except those in a session of the runtime (helpers: files named by
# session ID) and those older than the application (older: paths /proc/PID) with their descendants. Exit status 1 if the
# answer is uncertain and must be repeated.

BEGIN {
	count = split(older, paths, " ")
	for (at = 1; at <= count; at++) {
		sub(/.*\//, "", paths[at])
		stays[paths[at]] = 1
	}
	count = split(helpers, paths, " ")
	for (at = 1; at <= count; at++) {
		sub(/.*\//, "", paths[at])
		helper[paths[at]] = 1
	}
}

$1 == "State:" { state = $2 }
$1 == "Pid:" { pid = $2; ended[pid] = state == "Z" || state == "X" }
$1 == "PPid:" { parent[pid] = $2 }
$1 == "NSsid:" { session[pid] = $NF }

END {
	for (pid in parent) {
		if (pid == 1 || ended[pid] || session[pid] == session[1] || session[pid] in helper) continue
		# Processes of lxc exec come from outside: their first ancestor has no parent here.
		for (at = pid; at > 1 && !(at in stays); at = parent[at]);
		if (at == 1) print pid
		# Its parent ended while the files were being read, so its parent has changed by now.
		else if (at > 1 && !(at in stays) || at == "") unsure = 1
	}
	exit unsure
}
