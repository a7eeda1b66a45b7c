#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2034,SC2154,SC3045
# (SC2034, SC2154: variables shared with the sourced parts. SC3045: busybox's read has -d.)
# lxc exec NAME -- /lxd-exec [-u USER[:GROUP]] [-w FOLDER] [-e NAME[=VALUE]]... COMMAND [ARGUMENT]...: runs a command in
# the application's context, like `docker exec`: with its environment, as its user, in its working directory.
# Exit status: the command's; 125 this program failed, 126 the command can't be run, 127 there is no such command.
# shellcheck source=lxdocker/runtime/lib/forget.sh
. /lxd-lib/forget.sh
set -u
_bb=/busybox-lxd
_lib=/lxd-lib
_session=

say() { printf '%s\n' "/lxd-exec: $*" >&2; }
die() {
	say "$1"
	exit "${2:-1}"
}
_usage='usage: /lxd-exec [-u USER[:GROUP]] [-w FOLDER] [-e NAME[=VALUE]]... COMMAND [ARGUMENT]...'
usage() { die "$_usage" 125; }

for _part in environment command; do
	# shellcheck source=/dev/null
	. "$_lib/$_part.sh"
done

_as='' _in='' _added=''
add() {
	quote "$1"
	_added="$_added $_quoted"
}
# docker takes the value from its own environment; here it comes from lxc exec's.
add_given() {
	while IFS= read -r -d '' _entry; do
		case "$_entry" in "$1="*) add "$_entry" ;; esac
	done <"/proc/$$/environ"
}
while [ $# -gt 0 ]; do
	case $1 in
	-u?* | -w?* | -e?*)
		_option=${1%"${1#-?}"} _given=${1#-?}
		shift
		set -- "$_option" "$_given" "$@"
		;;
	--user=* | --workdir=* | --env=*)
		_option=${1%%=*} _given=${1#*=}
		shift
		set -- "$_option" "$_given" "$@"
		;;
	esac
	case $1 in
	-h | --help)
		printf '%s\n' "$_usage"
		exit 0
		;;
	-i | -t | -it | -ti | --interactive | --tty) ;; # handled by lxc exec
	-u | --user | -w | --workdir | -e | --env)
		[ $# -ge 2 ] || usage
		case $1 in
		-u | --user) _as=$2 ;;
		-w | --workdir) _in=$2 ;;
		*)
			case $2 in
			=* | '') usage ;;
			*=*) add "$2" ;;
			*) add_given "$2" ;;
			esac
			;;
		esac
		shift
		;;
	--)
		shift
		break
		;;
	-*) usage ;;
	*) break ;;
	esac
	shift
done
[ $# -gt 0 ] || usage
case ${_in:-/} in /*) ;; *) die "the working directory $_in is not an absolute path" 125 ;; esac

# The instance may have just started, before it saved its environment.
_tries=0
until [ -r /dev/.lxd-environment ]; do
	[ ! -e /dev/.lxd-environment ] || die "only root can use it: leave out --user of lxc exec, and add -u to it" 125
	[ "$_tries" -lt 100 ] || die "the application has not been started yet: see lxc console --show-log" 125
	_tries=$((_tries + 1))
	"$_bb" usleep 100000
done
if [ -t 0 ]; then
	_terminal=TERM=xterm
	add_given TERM
fi
# shellcheck source=/dev/null
. /lxd-image
[ -z "$_as" ] || _user=$_as
find_user
restore_environment
set_environment
_environment="$_environment $_added"
# As under Docker, the user can also open the terminal by its name.
[ -z "${_terminal-}" ] || "$_bb" chown "$_uid" "$("$_bb" tty)" 2>/dev/null
cd "${_in:-$_working_dir}" 2>/dev/null || die "can't enter the working directory ${_in:-$_working_dir}" 126
become "$@"
