# shellcheck shell=dash disable=SC2086,SC2154,SC3045
# (SC2086: $_session is words. SC3045: busybox's read has -n.)
# The image's command: its arguments, the search for its program, and executing it.

# with_command FUNCTION: calls the function with the argument list to run. As under Docker, an entrypoint set on the
# instance drops the image's arguments.
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

# Sets _uid and _home for $_user as Docker does: from /etc/passwd's first line with that name or, for a number, with
# that number, even if a user has the number as its name; root's if there is only a group. A number needs no line. An
# unknown name is an error, which gosu would report less clearly.
find_user() {
	_name=${_user%%:*} _uid='' _home=/
	case "$_name" in
	*[!0-9]*) ;;
	*)
		while :; do case "$_name" in 0?*) _name=${_name#0} ;; *) break ;; esac done
		_uid=${_name:-0}
		;;
	esac
	if [ -r /etc/passwd ]; then
		# The last line may lack its end.
		while IFS=: read -r _entry _ _number _ _ _folder _ || [ -n "$_entry" ]; do
			if [ -n "$_uid" ]; then _found=$_number _wanted=$_uid; else _found=$_entry _wanted=$_name; fi
			[ "$_found" = "$_wanted" ] || continue
			_uid=$_number _home=${_folder:-/}
			break
		done </etc/passwd
	fi
	[ -n "$_uid" ] || die "user '$_name' is not in the image's /etc/passwd" 125
	is_mapped "$_uid" /proc/self/uid_map || die "user $_uid is outside the instance's ID map, which ends at $_last" 125
	case "$_user" in *:?*) check_group "${_user#*:}" ;; esac
}

check_group() {
	case "$1" in
	*[!0-9]*)
		if [ -r /etc/group ]; then
			while IFS=: read -r _entry _ || [ -n "$_entry" ]; do [ "$_entry" != "$1" ] || return 0; done </etc/group
		fi
		die "group '$1' is not in the image's /etc/group" 125
		;;
	*) is_mapped "$1" /proc/self/gid_map || die "group $1 is outside the instance's ID map, which ends at $_last" 125 ;;
	esac
}

# is_mapped NUMBER FILE: whether the instance has the ID. FILE: see user_namespaces(7). Sets $_last to its highest one.
is_mapped() {
	_last=0 _mapped=
	while read -r _first _ _count; do
		_end=$((_first + _count - 1))
		[ "$_end" -le "$_last" ] || _last=$_end
		if [ "$1" -ge "$_first" ] && [ "$1" -le "$_end" ]; then _mapped=yes; fi
	done <"$2" 2>/dev/null
	[ -n "$_mapped" ]
}

# find_program WORD: sets _program to the file that execvp(3) would run from the working directory, or else _reason and
# _status as under Docker: 127 for a missing program, 126 for one that can't be run.
find_program() {
	_program='' _reason='' _status=127
	case "$1" in
	*/*)
		if [ -d "$1" ]; then
			_reason="it is a folder" _status=126
		elif [ ! -e "$1" ]; then
			_reason="no such program in the image (working directory $PWD)"
			[ ! -L "$1" ] || _reason="it is a link that leads nowhere"
		elif [ ! -f "$1" ]; then
			_reason="it is no regular file" _status=126
		elif [ ! -x "$1" ]; then
			_reason="it is not executable" _status=126
		else
			_program=$1
		fi
		;;
	*) find_on_path "$1" ;;
	esac
	[ -z "$_program" ] || knows_format "$_program" || {
		_reason="it is neither a program for this machine nor a script with a #! line" _status=126 _program=
	}
	[ -n "$_program" ]
}

find_on_path() {
	value_of PATH
	_rest=$_value: _unfit=''
	while [ -n "$_rest" ]; do
		_folder=${_rest%%:*}
		_rest=${_rest#*:}
		case "$_folder" in /*) ;; '') _folder=. ;; *) _folder=./$_folder ;; esac
		_candidate=$_folder/$1
		if [ -z "$1" ] || [ ! -f "$_candidate" ]; then continue; fi
		if [ -x "$_candidate" ]; then
			_program=$_candidate
			return
		fi
		_unfit="; $_candidate is not executable"
	done
	_reason="no such program in the image (working directory $PWD, PATH $_value$_unfit)"
}

# The C library would run any other file with the image's shell; the kernel and Docker do not.
knows_format() {
	_magic=
	IFS= read -r -n 4 _magic <"$1"
	case "$_magic" in '#!'* | *ELF) return 0 ;; esac
	return 1
}

# as_application WORD...: executes the command, as the image's user, with its umask and the application's environment,
# which was also used to find the program. gosu is static and follows Docker's rules for users and groups. It is used
# for root, too, because it restores signals ignored by LXD, or by the process that started LXD; a shell can't.
as_application() {
	value_of HOME
	sort_environment
	case "$1,$_odd" in
	*/*,)
		# If the user may not run the program, env exits with Docker's status.
		if [ "$_uid" != 0 ] || [ "$_value" != "$_home" ]; then
			# env would take a path with "=" for a variable.
			# shellcheck disable=SC2016 # for the shell inside
			case "$1" in
			*=*) set -- "$_bb" sh -c 'unset PWD OLDPWD SHLVL; HOME=$1; shift; exec "$@"' sh "$_value" "$@" ;;
			*) set -- "$_bb" env "HOME=$_value" "$@" ;;
			esac
		fi
		;;
	*,)
		# env would run busybox's applet if the command has the name of one.
		_argv0=$1
		shift
		# shellcheck disable=SC2016 # for the shell inside
		set -- "$_bb" sh -c 'unset PWD OLDPWD SHLVL; HOME=$1; shift; exec -a "$@"' sh "$_value" "$_argv0" "$_program" "$@"
		;;
	*)
		# env can't set argv[0] independently of the file, so a command with an applet's name gets its path as argv[0].
		case "$1" in */*) ;; *) ! "$_bb" --list | "$_bb" grep -qxF -e "$1" || { shift && set -- "$_program" "$@"; } ;; esac
		quote "HOME=$_value"
		eval "set -- \"\$_bb\" env $_odd $_quoted \"\$@\""
		;;
	esac
	umask "$_umask"
	with_environment $_session /lxd-gosu "$_user" "$@"
}

# Executes the command, or reports why it can't.
become() {
	[ $# -gt 0 ] || die "the image specifies no command to run" 127
	find_program "$1" || die "can't run '$1': $_reason" "$_status"
	as_application "$@"
}
