# shellcheck shell=dash disable=SC2086,SC2154,SC3038,SC3045
# (SC2086: $_session is words. SC3038, SC3045: busybox's exec has -a, its read -d.)
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
	# The shell's own, which Docker would not have set; what the image or the instance says of them is among the odd ones.
	unset PWD OLDPWD SHLVL
	# Without HOME, or with an empty one, gosu's is the user's.
	if [ -z "${HOME-}" ]; then
		unset HOME
		[ "$_odd_environment" = no ] || with_odd_of_instance exec_in_odd_environment $_session /lxd-gosu "$_user" "$@"
		exec $_session /lxd-gosu "$_user" "$@"
	fi
	_argv0=$1
	shift
	if [ "$_odd_environment" = yes ]; then
		# env has no way to name argv[0] apart from the file. By its name it finds the same file, unless busybox has an
		# applet of that name.
		"$_bb" --list | "$_bb" grep -qxF -e "$_argv0" || _program=$_argv0
		with_odd_of_instance with_odd_environment_at_home "HOME=$HOME" "$_program" "$@"
	fi
	# By its path: busybox would take a command called like one of its applets for that applet.
	# shellcheck disable=SC2016 # for the shell inside
	become_at_home sh -c '
		export HOME="$1"
		_argv0=$2 _program=$3
		shift 3
		unset PWD OLDPWD SHLVL
		exec -a "$_argv0" "$_program" "$@"' sh "$HOME" "$_argv0" "$_program" "$@"
}

become_at_home() { exec $_session /lxd-gosu "$_user" "$_bb" "$@"; }

# Variables that a shell can't hold, such as `a.b`, or makes its own, such as PWD: env hands them to the command.
with_odd_environment_at_home() { with_odd_environment become_at_home env "$@"; }

# with_odd_of_instance FUNCTION [WORD...]: calls the function with the instance's in front of the words.
with_odd_of_instance() {
	_function=$1
	shift
	while IFS= read -r -d '' _entry; do
		is_shell_name "${_entry%%=*}" || set -- "$_entry" "$@"
	done </proc/1/environ
	"$_function" "$@"
}
