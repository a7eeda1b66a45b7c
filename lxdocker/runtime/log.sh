#!/busybox-lxd sh
# shellcheck shell=dash
# lxc exec NAME -- /lxd-log [-f] [-n LINES]: prints the application's output, including earlier starts.
bb=/busybox-lxd
follow='' lines=''
usage() {
	echo "usage: /lxd-log [-f] [-n LINES]" >&"$1"
	exit "$2"
}
while [ $# -gt 0 ]; do
	case $1 in
	-f | --follow) follow=yes ;;
	-n | --tail)
		[ $# -ge 2 ] || usage 2 2
		lines=$2
		shift
		;;
	-n?*) lines=${1#-n} ;;
	-h | --help) usage 1 0 ;;
	*) usage 2 2 ;;
	esac
	shift
done
case $lines in *[!0-9]*) usage 2 2 ;; ??????????*) lines= ;; esac # more than there can be

folder=/.lxd-log
[ ! -d /dev/.lxd-log ] || folder=/dev/.lxd-log
"$bb" grep -qx _supervise=yes /lxd-image || {
	echo "no log: the application is PID 1 and prints to the console; see lxc console --show-log" >&2
	exit 1
}
# The instance may have just started, before any output.
tries=0
until cd "$folder" 2>/dev/null; do
	if [ -d "$folder" ] || [ "$tries" -ge 100 ]; then
		echo "no log: $folder can't be read$([ "$("$bb" id -u)" = 0 ] || echo " without root")" >&2
		exit 1
	fi
	tries=$((tries + 1))
	"$bb" usleep 100000
done
kept() { "$bb" cat previous current 2>/dev/null | "$bb" tail -n "${lines:-+1}"; }

if [ -n "$follow" ]; then
	kept
	exec "$bb" tail -n 0 -F current
elif [ -t 1 ]; then
	kept
else
	# Strips colours, since stdout is not a terminal.
	kept | "$bb" awk '{ gsub(/\033\[[0-9;?]*[A-Za-z]/, ""); print }'
fi
