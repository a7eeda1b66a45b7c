# shellcheck shell=dash disable=SC2154
# Temporary filesystems, which hide nothing.

_tmpfs_on= # where there is one

# Whether something is mounted at $1 or below: a disk that the user attached must stay visible.
has_mount() {
	# shellcheck disable=SC2016 # awk's own
	"$_bb" awk -v d="$1" '$5 == d || index($5, d "/") == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo
}

# make_volumes FOLDER...: called by /lxd-image. As under Docker, a volume is there even if the image does not have it.
make_volumes() {
	for _volume; do
		[ -d "$_volume" ] || "$_bb" mkdir -p "$_volume" 2>/dev/null || say "no folder for the volume $_volume"
	done
}

# mount_tmpfs FOLDER OPTIONS: called by /lxd-image. What the image has in the folder shows on the fresh tmpfs.
mount_tmpfs() {
	has_mount "$1" && return
	_tmpfs_on="$_tmpfs_on $1"
	if [ ! -d "$1" ]; then
		"$_bb" mkdir -p "$1" 2>/dev/null
		"$_bb" mount -t tmpfs -o "nosuid,nodev,$2" tmpfs "$1" 2>/dev/null || say "no tmpfs on $1"
		return
	fi
	# Owner and mode are the image's, also of an empty folder.
	"$_bb" mkdir -p /dev/.lxd-tmpfs
	if "$_bb" mount -t tmpfs -o "nosuid,nodev,$2" tmpfs /dev/.lxd-tmpfs 2>/dev/null; then
		if "$_bb" cp -a "$1/." /dev/.lxd-tmpfs/; then
			# Not moved: what is mounted below a shared mount, as /dev is on some hosts, can't be.
			"$_bb" mount -o bind /dev/.lxd-tmpfs "$1"
		else
			say "no tmpfs on $1: what the image has there could not be copied"
		fi
		"$_bb" umount /dev/.lxd-tmpfs
	else
		say "no tmpfs on $1"
	fi
	"$_bb" rmdir /dev/.lxd-tmpfs 2>/dev/null
}
