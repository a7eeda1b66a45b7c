# shellcheck shell=dash disable=SC2154
# Mounts: temporary filesystems, which keep the image's files visible, and mounts that LXD omits.

_tmpfs_on= # their mount points
_memory=   # the instance's memory in KiB

# Whether anything is mounted at $1 or below: the user's disks must stay visible.
has_mount() {
	# shellcheck disable=SC2016 # awk's own
	"$_bb" awk -v d="$1" '$5 == d || index($5, d "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo
}

# mount_tmpfs FOLDER OPTIONS: called by /lxd-image. The image's files in the folder are copied onto the tmpfs. A size in
# percent refers to the instance's memory. The kernel would take it of the host's memory, and then kill the application,
# or PID 1, when the tmpfs fills up.
mount_tmpfs() {
	has_mount "$1" && return
	_tmpfs_on="$_tmpfs_on $1"
	_options=nosuid,nodev,$2
	[ "$1" != /dev/shm ] || _options=noexec,$_options # as under Docker
	case "$_options" in
	*size=*%)
		[ -n "$_memory" ] || find_memory
		_size=${_options##*size=}
		_size=$((_memory * ${_size%\%} / 100))
		_options=${_options%size=*}size=${_size}k,nr_inodes=$((_size / 4 + 1024)) # empty files also take memory
		;;
	esac
	if [ ! -d "$1" ]; then
		"$_bb" mkdir -p "$1" 2>/dev/null
		"$_bb" mount -t tmpfs -o "$_options" tmpfs "$1" 2>/dev/null || say "no tmpfs on $1"
		return
	fi
	# Keeps the image's owner and mode, also of an empty folder.
	"$_bb" mkdir -p /dev/.lxd-tmpfs
	if "$_bb" mount -t tmpfs -o "$_options" tmpfs /dev/.lxd-tmpfs 2>/dev/null; then
		if "$_bb" cp -a "$1/." /dev/.lxd-tmpfs/; then
			# Not moved, since mounts below a shared mount (/dev on some hosts) can't be moved.
			"$_bb" mount -o bind /dev/.lxd-tmpfs "$1"
		else
			say "no tmpfs on $1: the image's files there could not be copied"
		fi
		"$_bb" umount /dev/.lxd-tmpfs
	else
		say "no tmpfs on $1"
	fi
	"$_bb" rmdir /dev/.lxd-tmpfs 2>/dev/null
}

# The minimum of the host's memory, as shown by the kernel or lxcfs, and the limits of the instance's cgroup.
find_memory() {
	while read -r _word _memory _; do [ "$_word" != MemTotal: ] || break; done </proc/meminfo
	for _limit in memory.max memory.high memory/memory.limit_in_bytes; do
		read -r _word 2>/dev/null <"/sys/fs/cgroup/$_limit" || continue
		case "$_word" in
		*[!0-9]* | '' | ????????????????*) ;; # no limit
		*) [ $((_word / 1024)) -ge "$_memory" ] || _memory=$((_word / 1024)) ;;
		esac
	done
}

# Mounts that every Docker container has, and that LXD leaves to an init.
mount_missing() {
	_table=
	if [ ! -e /dev/mqueue ] && "$_bb" mkdir /dev/mqueue; then
		_table="mqueue /dev/mqueue mqueue nosuid,nodev,noexec 0 0$_nl"
	fi
	mount_cgroups
	[ -n "$_table" ] || return 0
	# A single mount command, since each process takes time to start.
	printf '%s' "$_table" >/dev/.lxd-fstab
	"$_bb" mount -a -T /dev/.lxd-fstab 2>/dev/null || "$_bb" rmdir /dev/mqueue /sys/fs/cgroup/* 2>/dev/null
	"$_bb" rm -f /dev/.lxd-fstab
}

# Adds the control groups to $_table. LXD mounts them itself if the host uses only version 2. Otherwise each controller
# has its own hierarchy, which contains the instance's limits, for example for Java.
mount_cgroups() {
	set -- /sys/fs/cgroup/*
	{ [ -d /sys/fs/cgroup ] && [ ! -e "$1" ]; } || return 0
	set --
	while IFS=: read -r _ _controllers _path; do
		# A path other than the root belongs to the host, since there is no cgroup namespace.
		case "$_controllers $_path" in ' '* | *' /'?*) continue ;; esac
		_options=$_controllers
		case "$_controllers" in name=*) _options=none,$_controllers ;; esac
		set -- "$@" "/sys/fs/cgroup/${_controllers#name=}"
		_table="${_table}cgroup /sys/fs/cgroup/${_controllers#name=} cgroup nosuid,nodev,noexec,$_options 0 0$_nl"
	done </proc/self/cgroup
	[ $# -gt 0 ] || return 0
	"$_bb" mount -t tmpfs -o nosuid,nodev,noexec,mode=755,size=64k cgroup /sys/fs/cgroup 2>/dev/null || return 0
	"$_bb" mkdir "$@"
	# Controllers that share a hierarchy get a link for each name.
	for _path; do
		case "$_path" in *,*) ;; *) continue ;; esac
		for _name in $(echo "${_path##*/}" | "$_bb" tr , ' '); do
			"$_bb" ln -s "${_path##*/}" "/sys/fs/cgroup/$_name"
		done
	done
}

# Reports what unpacking could not create: KIND WHAT PATH, one per line (see inject.sh).
say_lost() {
	[ -s /lxd-lost ] || return 0
	"$_bb" head -n 20 /lxd-lost | while read -r _kind _what _path; do
		case $_kind in
		device) say "$_path is an empty file here: the image has device $_what there, which only the host can create" ;;
		attribute) say "$_path is without the attribute $_what that the image gives it: only the host can set it" ;;
		esac
	done
}
