#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2154,SC2172
# (SC2154: variables set by /lxd-image and /lxd-instance. SC2172: busybox has no name for signal 37.)
# PID 1 of the instance: prepares the environment of a Docker container, then runs the image's command and supervises it
# until it ends. It uses only the injected busybox: the image may contain only its own program.
# `start` at the end lists the steps in order; they are defined in /lxd-lib.
_stopping=
trap '_stopping=poweroff' PWR 37 # see hear_lxd
trap '_stopping=reboot' INT
# shellcheck source=lxdocker/runtime/lib/forget.sh
. /lxd-lib/forget.sh
set -u
_bb=/busybox-lxd
_lib=/lxd-lib
_session=       # command prefix that starts a new session; empty for PID 1
_app=           # PID of the application, while it runs
_waits_for=     # PID of the process that PID 1 waits for
_looking=before # look_after_helpers is not needed yet
_console=1      # file descriptor for messages
_unlogged=      # messages from before the log was opened

# Messages appear in `lxc console NAME --show-log` and in /lxd-log; start_log adds the earlier ones to the latter.
say() {
	printf 'lxdocker: %s\n' "$*" >&"$_console"
	if [ -n "$_logged" ]; then say_to_log "$*"; else _unlogged="$_unlogged${_unlogged:+$_nl}lxdocker: $*"; fi
}

# Exits with a message. When PID 1 ends, the instance stops.
die() {
	case $_logger in ?*) end_log ;; esac
	say "$1"
	exit "${2:-1}"
}

for _part in environment sysctls mounts volumes network command log health supervise; do
	# shellcheck source=/dev/null
	. "$_lib/$_part.sh"
done

# Used until the application starts.
stop_early() {
	case $1 in reboot)
		say "restarted before the application was started"
		"$_bb" reboot -f
		exit 0
		;;
	esac
	die "stopped before the application was started" 0
}

start() {
	hear_lxd stop_early
	[ -z "$_stopping" ] || stop_early "$_stopping"
	instance_environment
	# shellcheck source=/dev/null
	. /lxd-image
	read_instance_settings /lxd-instance
	find_user
	[ "$_supervise" = yes ] || own_console
	set_environment
	say_lost
	set_sysctls
	# Before anything writes below the volumes. This may take long, so it can be interrupted by a stop.
	if [ -n "${_disks-}" ]; then
		fill_volumes &
		await $!
		[ "$_ended" -eq 0 ] || exit "$_ended"
	fi
	# The network takes longest, mostly waiting for answers, so it continues in the background.
	start_network
	mount_missing
	image_volumes
	image_tmpfs
	# Puts the image's own init back for programs that look for it; this script is already running.
	[ -e /lxd-realinit ] && "$_bb" mount -o bind /lxd-realinit /sbin/init
	[ "$_supervise" = no ] || start_log
	await_network >&"$_console" 2>&1
	run_prelaunch
	add_envfile
	save_environment
	"$_bb" mkdir -p "$_working_dir" 2>/dev/null
	cd "$_working_dir" || die "can't enter the working directory $_working_dir" 126
	if [ "$_supervise" = yes ]; then
		with_command supervise
	else
		with_command become </dev/null 4<&-
	fi
}

# The tests source this file and call single functions.
[ -n "${LXDOCKER_SOURCE_ONLY-}" ] || start
