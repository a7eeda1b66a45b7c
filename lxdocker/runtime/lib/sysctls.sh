# shellcheck shell=dash disable=SC2154
# The sysctls that Docker sets in a container's namespaces. Those set by the user (linux.sysctl.* of the instance or its
# profiles, lxc.sysctl.* in its raw.lxc) already apply, and stay: $_sysctls and $_raw_sysctls have their names.

set_sysctls() {
	# One switch with two names, which also controls all interfaces.
	is_set "net/ipv4/ip_forward" "net/ipv4/conf/*/forwarding" || set_sysctl net/ipv4/ip_forward 0
	is_set "net/ipv6/conf/*/forwarding" || set_sysctl net/ipv6/conf/all/forwarding 0
	# Users other than root may use low ports, and ping.
	is_set net/ipv4/ip_unprivileged_port_start || set_sysctl net/ipv4/ip_unprivileged_port_start 0
	is_set net/ipv4/ping_group_range || set_sysctl net/ipv4/ping_group_range "0 $(highest_group)"
}

# is_set PATTERN...: whether the user has set one of these sysctls. Dots and slashes in their names are interchangeable,
# as in sysctl(8).
is_set() {
	for _pattern; do
		_names=${_sysctls-}$_nl${_raw_sysctls-}
		while [ -n "$_names" ]; do
			_name=${_names%%"$_nl"*}
			_names=${_names#"$_name"}
			_names=${_names#"$_nl"}
			_path=
			while :; do
				case "$_name" in
				*[./]*)
					_path=$_path${_name%%[./]*}/
					_name=${_name#*[./]}
					;;
				*) break ;;
				esac
			done
			# shellcheck disable=SC2254 # a pattern
			case "$_path$_name" in $_pattern) return 0 ;; esac
		done
	done
	return 1
}

# The kernel may lack the sysctl, or reserve it for the host.
set_sysctl() { [ ! -w "/proc/sys/$1" ] || echo "$2" 2>/dev/null >"/proc/sys/$1"; }

# Both ends of the range must be groups of the instance, and no higher than the largest signed 32-bit number.
highest_group() {
	_highest=0
	while read -r _first _ _count; do
		[ $((_first + _count - 1)) -le "$_highest" ] || _highest=$((_first + _count - 1))
	done </proc/self/gid_map
	[ "$_highest" -le 2147483647 ] || _highest=2147483647
	echo "$_highest"
}
