# shellcheck shell=dash disable=SC2154
# The environment: the image's variables under what LXD's instance configuration has set, and the instance's settings.

_nl='
'
_cr=$(printf '\r')

# Names that came with PID 1, one a line: `environment.*` of the instance. From /proc, because the shell gives itself
# a PATH and others that nobody set. A newline in a value must not look like a name. `container=lxc` is liblxc's.
names_of_instance() { "$_bb" tr '\n\0' ' \n' </proc/1/environ | "$_bb" grep -vxF container=lxc | "$_bb" cut -d= -f1; }

is_from_instance() {
	case "$_nl$_instance_names$_nl" in *"$_nl$1$_nl"*) return 0 ;; esac
	return 1
}

# Whether a shell can hold the variable as it is; PWD and others it changes or obeys.
is_shell_name() {
	case "$1" in '' | [0-9]* | *[!A-Za-z0-9_]* | PWD | OLDPWD | SHLVL | IFS) return 1 ;; esac
	return 0
}

# from_image NAME VALUE: called by /lxd-image for each variable of the OCI config, in its order.
from_image() {
	is_from_instance "$1" && return
	is_shell_name "$1" && export "$1=$2"
	# Any other name can't live in a shell: exec_in_odd_environment hands it to the command.
}

set_environment() {
	_instance_names=$(names_of_instance)
	# What Docker would set, unless the image or the instance does. HOME follows the user, see become.
	is_from_instance PATH || export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	is_from_instance HOSTNAME || HOSTNAME=$("$_bb" hostname)
	is_from_instance HOME || unset HOME
	export HOSTNAME
	image_environment
	while IFS= read -r _name; do
		[ -z "$_name" ] || is_shell_name "$_name" || _odd_environment=yes
	done <<-NAMES
		$_instance_names
	NAMES
}

# user.lxdocker.* of the instance, which LXD wrote into file $1 from a template when it started, replace what the spec
# says. Each is one line, NAME=VALUE, the value as in a URL's query: whatever it holds, it is data.
read_instance_settings() {
	[ -r "$1" ] || return
	_assignments=$("$_bb" awk -f "$_lib/settings.awk" "$1")
	eval "$_assignments"
	[ -z "${_settings_error-}" ] || die "$_settings_error" 125
}

# Data as in Docker's --env-file, never code. What the instance configuration sets comes first.
read_envfile() {
	[ -r "$1" ] || {
		say "LXDOCKER_ENVFILE $1 can't be read; going on without it"
		return
	}
	while IFS= read -r _line || [ -n "$_line" ]; do
		_line=${_line%"$_cr"}
		while :; do case "$_line" in [[:blank:]]*) _line=${_line#?} ;; *) break ;; esac done
		case "$_line" in '#'* | '') continue ;; *=*) ;; *) continue ;; esac
		_name=${_line%%=*}
		if ! is_shell_name "$_name"; then
			say "LXDOCKER_ENVFILE $1: '$_name' is not a name that it may set; left out"
		elif ! is_from_instance "$_name"; then
			export "$_name=${_line#*=}"
		fi
	done <"$1"
}

# /lxd-prelaunch is user.lxdocker_init_script of the instance.
run_prelaunch() {
	[ -s /lxd-prelaunch ] || return
	case "$("$_bb" head -c 2 /lxd-prelaunch)" in
	'#!') "$_bb" chmod 700 /lxd-prelaunch && /lxd-prelaunch ;;
	*) "$_bb" sh /lxd-prelaunch ;;
	esac </dev/null
	_status=$?
	[ "$_status" -eq 0 ] && return
	[ "$_prelaunch" != required ] || die "the prelaunch script (user.lxdocker_init_script) failed with status $_status" 125
	say "the prelaunch script (user.lxdocker_init_script) failed with status $_status; starting all the same"
}
