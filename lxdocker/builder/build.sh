#!/bin/busybox sh
# shellcheck shell=dash
# build.sh DAMAGED NAME WORK SECONDS WAY MEMORY EPOCH LEVEL LAYERS COMMAND…: has COMMAND fetch NAME's image, unpacks it,
# puts the runtime into it and makes a squashfs of that, of the same image the same bytes, whenever and wherever.
# For WORK see fetch.sh, for SECONDS and WAY connected.sh, for MEMORY and LAYERS (with blanks between them) unpack.sh, for
# EPOCH inject.sh. LEVEL is zstd's. DAMAGED is the digest of a manifest of which the layer cache turned out to have a
# damaged blob, or empty.
# On stdout it tells how it goes, a line each, and then gives the squashfs:
#   phase NAME      what it is at
#   fetched BYTES   how much of the image is there
#   manifest DIGEST what has been fetched
#   squashfs BYTES  the last line: so many bytes follow
# On stderr is what programs said, with a form feed before each step. Exit status: 69 as connected.sh, else the failing
# step's below.
set -eu
bb=/bin/busybox
here=/run/build secrets=/dev/lxdocker-secrets rootfs=/build/rootfs squashfs=/build/rootfs.squashfs
damaged=$1 name=$2 work=$3 seconds=$4 way=$5 memory=$6 epoch=$7 level=$8 layers=$9
shift 9
exec 3>&1 >/dev/null

tell() { echo "$*" >&3; }

step() { # STATUS COMMAND…: ends with STATUS where COMMAND fails
	failed=$1
	shift
	printf '\f' >&2
	"$@" 3>&- || {
		status=$?
		[ "$status" -ne 137 ] || echo "it was killed" >&2
		[ "$status" -ne 69 ] || failed=69
		exit "$failed"
	}
}

watch_fetching() {
	# Its sleep may go on for a while when this is over, and nobody shall have to wait for that.
	while "$bb" sleep 1 2>/dev/null 3>&-; do
		# shellcheck disable=SC2086 # a list
		tell fetched "$("$bb" sh "$here/cache.sh" fetched "$work" $layers 3>&-)"
	done
}

watcher=
trap '"$bb" rm -rf "$secrets"; [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || :' EXIT
[ -z "$damaged" ] || step 72 "$bb" sh "$here/cache.sh" forget "$damaged"

tell phase fetch
watch_fetching &
watcher=$!
step 72 "$bb" sh "$here/fetch.sh" "$name" "$work" "$secrets" "$bb" sh "$here/connected.sh" "$seconds" "$way" "$@"
trap - EXIT
kill "$watcher" 2>/dev/null || :
tell manifest "$("$bb" cat /run/digest)"

tell phase unpack
# shellcheck disable=SC2086 # a list
step 71 "$bb" sh "$here/unpack.sh" "$memory" "$rootfs" /run/layout:image $layers

tell phase pack
step 70 "$bb" sh "$here/inject.sh" "$rootfs" "$epoch" <"$here/runtime.tar"
# By itself mksquashfs sizes its buffers by the host's memory, not the builder's.
step 73 mksquashfs "$rootfs" "$squashfs" -noappend -no-progress -quiet -comp zstd -Xcompression-level "$level" \
	-mkfs-time "$epoch" -mem 512M

tell squashfs "$("$bb" stat -c %s "$squashfs")"
exec "$bb" cat "$squashfs" >&3
