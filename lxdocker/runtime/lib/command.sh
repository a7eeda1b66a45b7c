# shellcheck shell=dash disable=SC2154,SC3038
# (SC3038: busybox's exec has -a.)
# The image's command: what it is, where it is found, and becoming it.

# with_command FUNCTION: calls the function with the argument list to run. As under Docker, an entrypoint of the
# instance's comes without the image's arguments.
with_command() {
	if [ -n "${_instance_has_entrypoint-}" ]; then
		if [ -n "${_instance_has_cmd-}" ]; then
			with_instance_entrypoint with_instance_cmd "$1"
		else
			with_instance_entrypoint "$1"
		fi
	elif [ -n "${_instance_has_cmd-}" ]; then
		with_image_entrypoint with_instance_cmd "$1"
	else
		with_image_entrypoint with_image_cmd "$1"
	fi
}

# A name that is in no /etc/passwd can't be looked up, which gosu would say less plainly.
check_user() {
	_name=${_user%%:*}
	case "$_name" in *[!0-9]*) ;; *) return ;; esac
	"$_bb" cut -d: -f1 /etc/passwd 2>/dev/null | "$_bb" grep -qxF -e "$_name" ||
		die "the image runs as user '$_name', which is not in its /etc/passwd" 125
}

# Prints the file that execvp(3) would run for $1, seen from the working directory.
find_program() {
	case "$1" in
	*/*)
		[ -f "$1" ] && [ -x "$1" ] && printf '%s' "$1"
		return
		;;
	esac
	_rest=${PATH-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:
	while [ -n "$_rest" ]; do
		_folder=${_rest%%:*}
		_rest=${_rest#*:}
		case "$_folder" in /*) ;; '') _folder=. ;; *) _folder=./$_folder ;; esac
		_candidate=$_folder/$1
		[ -f "$_candidate" ] && [ -x "$_candidate" ] && printf '%s' "$_candidate" && return
	done
}

# Becomes the command. gosu is static and follows Docker's rules for users and groups. It is used for root too: it
# gives back the signals that LXD, or whoever started LXD, has ignored, which a shell can't.
become() {
	[ $# -gt 0 ] || die "the image names no command to run" 127
	_program=$(find_program "$1")
	[ -n "$_program" ] || die "can't run '$1': no such program in the image (working directory $PWD, PATH ${PATH-})" 127
	# The shell's own, which Docker would not have set.
	for _name in PWD OLDPWD SHLVL; do is_from_instance "$_name" || unset "$_name"; done
	if [ -z "${HOME+set}" ]; then
		# gosu sets HOME to the user's.
		[ "$_odd_environment" = no ] || exec_in_odd_environment /lxd-gosu "$_user" "$@"
		exec /lxd-gosu "$_user" "$@"
	fi
	_argv0=$1
	shift
	# Variables that no shell could hold, such as `a.b`; env has no way to name argv[0] apart from the file.
	[ "$_odd_environment" = no ] || with_odd_environment become_at_home env "HOME=$HOME" "$_program" "$@"
	# By its path: busybox would take a command called like one of its applets for that applet.
	# shellcheck disable=SC2016 # for the shell inside
	become_at_home sh -c '
		export HOME="$1"
		_argv0=$2 _program=$3
		shift 3
		unset PWD OLDPWD SHLVL
		exec -a "$_argv0" "$_program" "$@"' sh "$HOME" "$_argv0" "$_program" "$@"
}

become_at_home() { exec /lxd-gosu "$_user" "$_bb" "$@"; }
