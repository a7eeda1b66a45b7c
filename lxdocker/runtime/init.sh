#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2154
# (SC2154: variables that /lxd-image and /lxd-instance set.)
# PID 1 of the instance: prepares what a Docker container would find, then runs the image's command and looks after
# it until it has ended. Everything is done with LXD's own busybox: the image may hold no program but its own.
# What happens, in order, is `start` at the end; the verbs are in /lxd-lib.
set -u
_bb=/busybox-lxd
_lib=/lxd-lib
_session= # a command that starts a session of its own and becomes the one after it; none for PID 1

say() { printf 'lxdocker: %s\n' "$*"; }

# Gives up. What PID 1 says is in `lxc console NAME --show-log`; when it ends, the instance stops.
die() {
	say "$1"
	exit "${2:-1}"
}

for _part in environment mounts network command health supervise; do
	# shellcheck source=/dev/null
	. "$_lib/$_part.sh"
done

start() {
	# For as long as there is no application: the kernel discards signals that PID 1 has no handler for, and whoever
	# sent one would wait in vain.
	trap 'die "stopped before the application was started" 0' PWR USR1 USR2
	trap 'say "restarted before the application was started"; "$_bb" reboot -f; exit 0' TERM INT
	# shellcheck source=/dev/null
	. /lxd-image
	read_instance_settings /lxd-instance
	set_environment
	# What takes longest, most of it waiting for answers, goes on beside the rest.
	start_network
	image_volumes
	image_tmpfs
	# The image's own init is in its place again for whoever looks for it; this script is running already.
	[ -e /lxd-realinit ] && "$_bb" mount -o bind /lxd-realinit /sbin/init
	await_network
	run_prelaunch
	[ -n "${LXDOCKER_ENVFILE-}" ] && read_envfile "$LXDOCKER_ENVFILE"
	"$_bb" mkdir -p "$_working_dir" 2>/dev/null
	cd "$_working_dir" || die "can't enter the working directory $_working_dir" 126
	check_user
	if [ "$_supervise" = yes ]; then
		with_command supervise
	else
		with_command become </dev/null
	fi
}

# Sourced by the tests, which call the functions one by one.
[ -n "${LXDOCKER_SOURCE_ONLY-}" ] || start
