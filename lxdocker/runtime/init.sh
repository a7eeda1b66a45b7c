#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2154,SC3038
# (SC2154: what /lxd-image sets. SC3038: busybox's exec has -a.)
# PID 1 of the instance. Prepares what a Docker container would find (environment, tmpfs, network),
# then runs the image's command and looks after it until it has ended.
# Everything is done with LXD's own busybox: the image may hold no program but its own.
set -u
bb=/busybox-lxd
nl='
'

say() { printf 'lxdocker: %s\n' "$*"; }

# Gives up: what PID 1 says is in `lxc console NAME --show-log`; when it ends, the instance stops.
die() {
	say "$1"
	exit "${2:-1}"
}

# ---- environment: the image's, under what LXD's instance configuration has set

# Names that came with PID 1, one a line: `environment.*` of the instance. From /proc, because the
# shell gives itself a PATH and others that nobody set. A newline in a value must not look like a name.
names_of_instance() { "$bb" tr '\n\0' ' \n' </proc/1/environ | "$bb" cut -d= -f1; }

is_from_instance() {
	case "$nl$instance_names$nl" in *"$nl$1$nl"*) return 0 ;; esac
	return 1
}

is_shell_name() {
	case "$1" in '' | [0-9]* | *[!A-Za-z0-9_]*) return 1 ;; esac
	return 0
}

# from_image NAME VALUE: called by /lxd-image for each variable of the OCI config, in its order.
from_image() {
	is_from_instance "$1" && return
	[ "$1" != PATH ] || image_has_path=yes
	is_shell_name "$1" && export "$1=$2"
	# Any other name can't live in a shell: exec_in_odd_environment hands it to the command.
}

# Data as in Docker's --env-file, never code. What the instance configuration sets comes first.
read_envfile() {
	[ -r "$1" ] || {
		say "LXDOCKER_ENVFILE $1 can't be read; going on without it"
		return
	}
	while IFS= read -r line || [ -n "$line" ]; do
		case "$line" in '#'* | '') continue ;; *=*) ;; *) continue ;; esac
		name=${line%%=*}
		if ! is_shell_name "$name"; then
			say "LXDOCKER_ENVFILE $1: '$name' is not a variable name; left out"
		elif ! is_from_instance "$name"; then
			export "$name=${line#*=}"
		fi
	done <"$1"
}

# ---- mounts

# Whether something is mounted at $1 or below: a disk that the user attached must stay visible.
has_mount() {
	# shellcheck disable=SC2016 # awk's own
	"$bb" awk -v d="$1" '$5 == d || index($5, d "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo
}

# A tmpfs on $1 that shows what the image has there.
mount_tmpfs() {
	has_mount "$1" && return
	"$bb" mkdir -p "$1" 2>/dev/null
	if [ -z "$("$bb" ls -A "$1" 2>/dev/null)" ]; then
		"$bb" mount -t tmpfs -o "nosuid,nodev,$2" tmpfs "$1" 2>/dev/null || say "no tmpfs on $1"
		return
	fi
	"$bb" mkdir -p /dev/.lxd-tmpfs
	if "$bb" mount -t tmpfs -o "nosuid,nodev,$2" tmpfs /dev/.lxd-tmpfs 2>/dev/null &&
		"$bb" cp -a "$1/." /dev/.lxd-tmpfs/; then
		# Not moved: what is mounted below a shared mount, as /dev is on some hosts, can't be.
		"$bb" mount -o bind /dev/.lxd-tmpfs "$1"
		"$bb" umount /dev/.lxd-tmpfs
	else
		say "no tmpfs on $1: its content could not be copied"
		"$bb" umount /dev/.lxd-tmpfs 2>/dev/null
	fi
	"$bb" rmdir /dev/.lxd-tmpfs 2>/dev/null
}

mount_all() {
	mount_tmpfs /dev/shm mode=1777
	mount_tmpfs /tmp mode=1777
	mount_tmpfs /run mode=755
}

# ---- network

start_network() {
	"$bb" ip link set lo up
	for switch in ipv4/ip_forward ipv6/conf/all/forwarding; do
		[ -w "/proc/sys/net/$switch" ] && echo 0 >"/proc/sys/net/$switch"
	done
	[ -e /sys/class/net/eth0 ] || return
	"$bb" ip link set eth0 up
	# Comes back when there is a lease, or after 3 s without one: the application then starts all the same, and
	# the lease may come later. Either way udhcpc lives on in the background and renews.
	"$bb" udhcpc -R -b -t 3 -T 1 -A 10 -i eth0 -O search -O staticroutes \
		-x "hostname:$("$bb" hostname)" -s /lxd-udhcpc-default.script
}

# ---- the image's command

# Prints the file that execvp(3) would run for $1, seen from the working directory.
find_program() {
	case "$1" in
	*/*)
		[ -f "$1" ] && [ -x "$1" ] && printf '%s' "$1"
		return
		;;
	esac
	rest=${PATH-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:
	while [ -n "$rest" ]; do
		candidate=${rest%%:*}/$1
		rest=${rest#*:}
		case "$candidate" in /*) ;; *) candidate=./$candidate ;; esac
		[ -f "$candidate" ] && [ -x "$candidate" ] && printf '%s' "$candidate" && return
	done
}

# Becomes the command, as the image's user.
become() {
	[ $# -gt 0 ] || die "the image names no command to run" 127
	if [ -n "$user" ]; then
		# gosu is static and follows Docker's rules for users and groups; it looks the program up itself.
		set -- /lxd-gosu "$user" "$@"
		program=/lxd-gosu
	else
		program=$(find_program "$1")
		[ -n "$program" ] || die "can't run '$1': no such program in the image (working directory $PWD, PATH ${PATH-})" 127
	fi
	argv0=$1
	shift
	# The shell's own, which Docker would not have set.
	for name in PWD OLDPWD SHLVL; do is_from_instance "$name" || unset "$name"; done
	# Variables that no shell could hold, such as `a.b`.
	[ "$odd_environment" = no ] || exec_in_odd_environment "$program" "$@"
	# By its path: busybox would take a command called like one of its applets for that applet.
	exec -a "$argv0" "$program" "$@"
}

uptime_seconds() { "$bb" cut -d. -f1 /proc/uptime; }

# Runs the command as a child. SIGPWR is what `lxc stop` sends; TERM and INT come from other managers.
supervise() {
	started=$(uptime_seconds)
	interrupted=
	# Job control needs a terminal. With it, the shell starts the command in a process group of its own and
	# leaves SIGINT and SIGQUIT as they were; without, POSIX has it ignore both in the command.
	exec 0<>/dev/console 2>/dev/null
	set -m 2>/dev/null
	(become "$@") </dev/null &
	app=$!
	set +m 2>/dev/null
	exec </dev/null
	trap 'interrupted=1; say "stopping $1 with SIG$stop_signal"; "$bb" kill -s "$stop_signal" "$app" 2>/dev/null' PWR TERM INT
	wait "$app"
	status=$?
	# A trapped signal ends `wait` early: wait again until the command really has ended.
	while [ -n "$interrupted" ]; do
		interrupted=
		wait "$app"
		again=$?
		# 127: the first wait had its end already.
		[ "$again" -eq 127 ] || status=$again
	done
	lasted=$(($(uptime_seconds) - started))
	if [ "$status" -gt 128 ]; then
		say "$1 was ended by signal $((status - 128)) after $lasted s"
	else
		say "$1 ended with status $status after $lasted s"
	fi
	exit "$status"
}

start() {
	# shellcheck source=/dev/null
	. /lxd-image
	instance_names=$(names_of_instance)
	# What Docker would set, unless the image or the instance does.
	is_from_instance HOSTNAME || HOSTNAME=$("$bb" hostname)
	export HOSTNAME
	image_environment
	is_from_instance PATH || [ -n "${image_has_path-}" ] || export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	[ -n "${HOME+set}" ] || export HOME=/root
	mount_all
	start_network
	# The image's own init is in its place again for whoever looks for it; this script is running already.
	[ -e /lxd-realinit ] && "$bb" mount -o bind /lxd-realinit /sbin/init
	if [ -s /lxd-prelaunch ]; then
		case "$("$bb" head -c 2 /lxd-prelaunch)" in
		'#!') "$bb" chmod 700 /lxd-prelaunch && /lxd-prelaunch ;;
		*) "$bb" sh /lxd-prelaunch ;;
		esac || say "the prelaunch script (user.lxdocker_init_script) failed with status $?; starting all the same"
	fi
	[ -n "${LXDOCKER_ENVFILE-}" ] && read_envfile "$LXDOCKER_ENVFILE"
	"$bb" mkdir -p "$working_dir" 2>/dev/null
	cd "$working_dir" || die "can't enter the working directory $working_dir" 126
	if [ "$supervise" = yes ]; then
		with_image_command supervise
	else
		with_image_command become
	fi
}

# Sourced by the tests, which call the functions one by one.
[ -n "${LXDOCKER_SOURCE_ONLY-}" ] || start
