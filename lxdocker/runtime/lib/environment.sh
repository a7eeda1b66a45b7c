# shellcheck shell=dash disable=SC2154,SC3045
# (SC3045: busybox's read has -d.)
# The application's environment, and the instance's settings. The application's variables never become variables of this
# shell, where they could collide with its own: they are words, NAME=VALUE, that env passes to the application.

_nl='
'
_cr=$(printf '\r')
_terminal= # TERM=..., if the application has a terminal

# quote WORD: sets _quoted to the word, quoted for the shell.
quote() {
	_quoted=
	_rest=$1
	while :; do
		case "$_rest" in
		*\'*)
			_quoted="$_quoted${_rest%%\'*}'\\''"
			_rest=${_rest#*\'}
			;;
		*) break ;;
		esac
	done
	_quoted="'$_quoted$_rest'"
}

# Reads PID 1's environment, from `environment.*` of the instance, as quoted words. It is read from /proc, because the
# shell has imported the variables and added others. container=lxc is set by liblxc; an image may override it.
instance_environment() {
	_of_file='' _of_instance='' _of_lxc=''
	read -r _hostname </proc/sys/kernel/hostname
	while IFS= read -r -d '' _entry; do
		quote "$_entry"
		if [ "$_entry" = container=lxc ]; then _of_lxc=$_quoted; else _of_instance="$_of_instance $_quoted"; fi
	done </proc/1/environ
}

# value_of NAME: sets _value to the variable's value in the application's environment, or to an empty string.
value_of() {
	_wanted=$1 _value=
	eval "set -- $_environment"
	for _word; do
		case "$_word" in "$_wanted="*) _value=${_word#*=} ;; esac
	done
}

# Sets _odd to the variables, as quoted words, that a shell can't hold, sets itself or obeys, and _plain to the others.
sort_environment() {
	_odd='' _plain=''
	eval "set -- $_environment"
	for _word; do
		quote "$_word"
		case "${_word%%=*}" in
		'' | [0-9]* | *[!A-Za-z0-9_]* | IFS | PWD | OLDPWD | SHLVL | OPTIND | PPID | LINENO | RANDOM | FUNCNAME | EPOCH*)
			_odd="$_odd $_quoted"
			;;
		*) _plain="$_plain $_quoted" ;;
		esac
	done
}

# with_environment WORD...: executes a command with the application's plain variables. They never appear in a command's
# arguments, which anybody may read; odd variables, which are rare, do so for a moment.
with_environment() {
	eval "export $_plain"
	# From here on, this shell's variables may be the application's.
	unset PWD OLDPWD SHLVL
	exec "$@"
}

# Sets _environment: Docker's defaults, overridden by the image, then the env file, then the instance. An empty HOME
# also becomes the user's.
set_environment() {
	quote "HOSTNAME=$_hostname"
	_environment="PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $_quoted $_terminal $_of_lxc"
	_environment="$_environment $_image_environment $_of_file $_of_instance"
	value_of HOME
	[ -z "$_value" ] || return 0
	quote "HOME=$_home"
	_environment="$_environment $_quoted"
}

add_envfile() {
	value_of LXDOCKER_ENVFILE
	[ -n "$_value" ] || return 0
	read_envfile "$_value"
	set_environment
}

# For /lxd-exec, with the other setting that it needs of the instance; readable only by root, like /proc/1/environ.
save_environment() (
	umask 077
	for _part in "$_hostname" "$_of_lxc" "$_of_file" "$_of_instance" "$_umask"; do
		quote "$_part"
		printf '%s ' "$_quoted"
	done >/dev/.lxd-environment.new
	"$_bb" mv /dev/.lxd-environment.new /dev/.lxd-environment
)

restore_environment() {
	eval "set -- $("$_bb" cat /dev/.lxd-environment)"
	_hostname=$1 _of_lxc=$2 _of_file=$3 _of_instance=$4 _umask=$5
}

# Settings of the instance (user.lxdocker.*), which LXD writes to file $1 from a template at each start, override the
# spec. Each is one line, NAME=VALUE, both URL-encoded, so that any content is data.
read_instance_settings() {
	[ -r "$1" ] || return
	_assignments=$("$_bb" awk -f "$_lib/settings.awk" "$1")
	eval "$_assignments"
	[ -z "${_settings_error-}" ] || die "$_settings_error" 125
}

# Data as in Docker's --env-file, never code. The instance configuration takes precedence.
read_envfile() {
	_lines=$(content_of_envfile "$1") || {
		# What root could read, if it were root's.
		[ ! -f "$1" ] || is_of_root "$1" || set -- "$1" " by user $_user, and is not root's alone"
		say "LXDOCKER_ENVFILE $1 can't be read${2-}; continuing without it"
		return
	}
	_lines=${_lines#"$(printf '\357\273\277')"} # the byte order mark of editors on Windows
	while IFS= read -r _line; do
		_line=${_line%"$_cr"}
		while :; do case "$_line" in [[:blank:]]*) _line=${_line#?} ;; *) break ;; esac done
		case "$_line" in '#'* | '') continue ;; *=*) ;; *) continue ;; esac
		case "${_line%%=*}" in
		'' | *[[:space:]]*) say "LXDOCKER_ENVFILE $1: '${_line%%=*}' is not a name it may set; ignored" ;;
		*)
			quote "$_line"
			_of_file="$_of_file $_quoted"
			;;
		esac
	done <<-LINES
		$_lines
	LINES
}

# Reads as the application's user, who may own the folder and could place a link or a pipe there; that discloses nothing
# and blocks nothing. Reads as root only if only root can have written the path.
content_of_envfile() {
	[ -f "$1" ] || return
	# shellcheck disable=SC2016 # for the shell inside
	if is_of_root "$1"; then set -- 0 "$1"; else set -- "$_user" "$1"; fi
	"$_bb" timeout 10 /lxd-gosu "$1" "$_bb" head -c 1048576 "$2" 2>/dev/null
}

is_of_root() {
	[ "$("$_bb" realpath "$1")" = "$1" ] || return
	while :; do
		case "$("$_bb" stat -c '%u %A' "$1")" in '0 '?????-??-*) ;; *) return 1 ;; esac
		[ "$1" != / ] || return 0
		set -- "$("$_bb" dirname "$1")"
	done
}

# /lxd-prelaunch is the instance's user.lxdocker_init_script. It runs with the application's environment.
run_prelaunch() {
	[ -s /lxd-prelaunch ] || return
	case "$("$_bb" head -c 2 /lxd-prelaunch)" in
	'#!')
		"$_bb" chmod 700 /lxd-prelaunch
		set -- /lxd-prelaunch
		;;
	*) set -- "$_bb" sh /lxd-prelaunch ;;
	esac
	(
		value_of HOME
		sort_environment
		[ -z "$_odd" ] || eval "set -- \"\$_bb\" env $_odd \"\$@\""
		# gosu, as for the application, because it restores signals: pipelines end by SIGPIPE.
		with_environment /lxd-gosu 0 "$_bb" env "HOME=$_value" "$@"
	) </dev/null >"$_output" 2>&1 3>&- 4<&- &
	await $!
	[ "$_ended" -eq 0 ] && return
	[ "$_prelaunch" != required ] || die "the prelaunch script (user.lxdocker_init_script) failed with status $_ended" 125
	say "the prelaunch script (user.lxdocker_init_script) failed with status $_ended; starting anyway"
}
