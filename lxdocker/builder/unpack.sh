#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# unpack.sh MEMORY ROOTFS IMAGE [HEX…]: makes ROOTFS, below /build, from the OCI layout IMAGE (its folder:tag).
# With a MEMORY of more than 0 (KiB), and where the host has several times that to spare, /build becomes a tmpfs if the
# image will fit: the layers are HEX…, and unpacked three times as large as a rule. It is then a quarter faster, and
# what it makes is the same.
set -eu
bb=/bin/busybox
memory=$1 rootfs=$2 image=$3
added=16384 # KiB; the runtime with its busybox and gosu is about half of that
shift 3

said=/dev/lxdocker-said # in memory, so that there is room for it also where a disk is full

try_to_unpack() {
	"$bb" rm -rf "$rootfs" &&
		# What inject.sh tells the clock's times by. busybox's find compares whole seconds.
		"$bb" touch -d "@$(($("$bb" date +%s) - 1))" "$rootfs.marker" &&
		# umoci's heap is small, so that by default it is swept all the time, which takes a tenth of the whole.
		GOGC=400 umoci --log=error raw unpack --image "$image" "$rootfs"
}

# Where unpacking fails, umoci (0.4.7) may close a layer that it is still reading and crash instead of saying why.
unpack() {
	for _ in 1 2 3 4; do
		try_to_unpack 2>"$said" && return
		status=$?
		"$bb" grep -q '^goroutine ' "$said" || break
	done
	"$bb" cat "$said" >&2
	return "$status"
}

# An older tmpfs would lose attributes that an image's files may have (user.*).
knows_user_attributes() {
	version=$("$bb" uname -r)
	major=${version%%.*} minor=${version#*.}
	minor=${minor%%[!0-9]*}
	[ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 6 ]; }
}

# Twice what is to be expected of the root filesystem and the squashfs made of it, and what is added to every image.
size_wanted() {
	for layer; do "$bb" stat -c %s "/cache/blobs/sha256/$layer"; done |
		"$bb" awk -v added="$added" '{ sum += $1 } END { printf "%d", sum * 8 / 1024 + added * 3 }'
}

in_memory() {
	[ "$memory" -gt 0 ] && [ $# -gt 0 ] && knows_user_attributes || return 1
	size=$(size_wanted "$@")
	spare=$("$bb" awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
	[ "$size" -le "$memory" ] && [ "$((size * 4))" -le "$spare" ] &&
		"$bb" mount -t tmpfs -o "size=${size}k,mode=755" build /build || return 1
	# The squashfs is never much larger than what it is made of.
	# What goes wrong here is tried again on disk, and only what that says counts.
	if unpack 2>/dev/null && "$bb" df -k /build | "$bb" awk -v added="$added" 'NR == 2 { exit !($3 + added * 2 <= $4) }'; then return; fi
	"$bb" umount -l /build
	return 1
}

# From an earlier try, which failed.
if "$bb" grep -q " /build tmpfs " /proc/mounts; then "$bb" umount -l /build; fi
in_memory "$@" || unpack
