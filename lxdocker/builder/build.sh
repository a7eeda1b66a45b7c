#!/bin/busybox sh
# shellcheck shell=dash
# build.sh DAMAGED NAME WORK STALL MOST SECONDS WAY MEMORY LIMIT EPOCH LEVEL LAYERS COMMAND…: fetches NAME's image with
# COMMAND, unpacks it, injects the runtime and packs the result as a squashfs. The same image gives the same bytes on
# any day and any host. For WORK, STALL and MOST see fetch.sh, for SECONDS and WAY connected.sh, for MEMORY and LIMIT
# unpack.sh, for EPOCH inject.sh. LEVEL is the zstd level. LAYERS are the digests of the known layers, separated by
# blanks, for progress reports. DAMAGED is the digest of a manifest with a damaged blob in the layer cache, or empty.
# stdout reports progress, one item per line, and then carries the squashfs:
#   phase NAME      the current phase
#   run COMMAND     the command that runs now, as a shell reads it
#   ran COMMAND     a command that it has run in turn
#   failed COMMAND  which of these gave the reason of a failure, if not the last
#   fetched BYTES   bytes of the image present so far
#   manifest DIGEST the fetched manifest
#   lost COUNT      number of device nodes and file attributes that could not be created
#   squashfs BYTES  the last line: BYTES bytes follow
# stderr carries the programs' messages, with a form feed before each step. Exit status: 69 as connected.sh, 74 as
# check.sh, 75 as unpack.sh, else the failing step's status below.
set -eu
bb=/bin/busybox
here=/run/build secrets=/dev/lxdocker-secrets rootfs=/build/rootfs squashfs=/build/rootfs.squashfs
damaged=$1 name=$2 work=$3 stall=$4 most=$5 seconds=$6 way=$7 memory=$8 limit=$9
shift 9
epoch=$1 level=$2 layers=$3
shift 3
export PERL_BADLANG=0 # no warnings about missing locales
export ran=/dev/lxdocker-ran # where scripts note what they run: in memory, and never the stream that reports progress
# shellcheck source=lxdocker/builder/quoted.sh
. "$here/quoted.sh"
exec 3>&1 >/dev/null

tell() { printf '%s\n' "$*" >&3; }

step() { # STATUS COMMAND…: exits with STATUS if COMMAND fails
	failed=$1 status=0
	shift
	: >"$ran"
	tell run "$(quoted "$@")"
	printf '\f' >&2
	"$@" 3>&- || status=$?
	while IFS= read -r line; do tell "$line"; done <"$ran"
	[ "$status" = 0 ] || {
		[ "$status" -ne 137 ] || echo "it was killed" >&2
		case "$status" in 69 | 74 | 75) failed=$status ;; esac
		exit "$failed"
	}
}

watch_fetching() {
	# The last sleep may outlive this script, so it keeps none of the script's pipes open.
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
step 72 "$bb" sh "$here/fetch.sh" "$name" "$work" "$secrets" "$stall" "$most" \
	"$bb" sh "$here/connected.sh" "$seconds" "$way" "$@"
trap - EXIT
kill "$watcher" 2>/dev/null || :
manifest=$("$bb" cat /run/digest)
tell manifest "$manifest"

tell phase unpack
step 71 "$bb" sh "$here/unpack.sh" "$memory" "$limit" "$rootfs" "${manifest#sha256:}"

tell phase pack
# shellcheck disable=SC2016  # the inner shell's own
step 70 "$bb" sh -c 'exec "$@" </run/build/runtime.tar' sh "$bb" sh "$here/inject.sh" "$rootfs" "$epoch"
step 70 "$bb" sh "$here/check.sh" "$rootfs"
[ ! -s "$rootfs/lxd-lost" ] || tell lost "$("$bb" wc -l <"$rootfs/lxd-lost")"
devices=
[ ! -s "$rootfs.devices" ] || devices="-pf $rootfs.devices"
# shellcheck disable=SC2086 # two words, or none
# By default, mksquashfs sizes its buffers by the host's memory, not the builder's.
step 73 mksquashfs "$rootfs" "$squashfs" -noappend -no-progress -quiet -comp zstd -Xcompression-level "$level" \
	-mkfs-time "$epoch" -mem 512M $devices

tell squashfs "$("$bb" stat -c %s "$squashfs")"
exec "$bb" cat "$squashfs" >&3
