#!/bin/busybox sh
# shellcheck shell=dash
# build.sh DAMAGED NAME WORK STALL MOST SECONDS WAY MEMORY LIMIT EPOCH LEVEL LAYERS PRCTL WANTED [COMMAND…]: fetches
# NAME's image with COMMAND, unpacks it, changes it, injects the runtime and packs the result as a squashfs. The same
# image gives the same bytes on any day and any host. For WORK, STALL, MOST, WANTED and an image without COMMAND see
# fetch.sh, for SECONDS and WAY connected.sh, for MEMORY and LIMIT unpack.sh, for EPOCH inject.sh. LEVEL is the zstd
# level. LAYERS are the digests of the known layers, separated by blanks, for progress reports. For PRCTL see run.pl. The
# changes are in /run/changes (see change.pl), in the folders steps/0, steps/1, … beside this script (see run.pl), and in
# /run/layer0, … (see layers.sh). DAMAGED is the digest of a manifest with a damaged blob in the layer cache, or empty.
# stdout reports progress, one item per line, and then carries the squashfs:
#   phase NAME      the current phase
#   run COMMAND     the command that runs now, as a shell reads it
#   ran COMMAND     a command that it has run in turn
#   failed COMMAND  which of these gave the reason of a failure, if not the last
#   fetched BYTES   bytes of the image present so far
#   manifest DIGEST the fetched manifest
#   said TEXT       a line that a command in the image has printed
#   lost COUNT      number of device nodes and file attributes that could not be created
#   squashfs BYTES  the last line: BYTES bytes follow
# stderr carries the programs' messages, with a form feed before each step. Exit status: 69 as connected.sh, 74 as
# check.sh, 75 as unpack.sh, 79 as fetch.sh, else the failing step's status below.
set -eu
bb=/bin/busybox
here=/run/build secrets=/dev/lxdocker-secrets rootfs=/build/rootfs squashfs=/build/rootfs.squashfs
damaged=$1 name=$2 work=$3 stall=$4 most=$5 seconds=$6 way=$7 memory=$8 limit=$9
shift 9
epoch=$1 level=$2 layers=$3 prctl=$4 wanted=$5
shift 5
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
		case "$status" in 69 | 74 | 75 | 79) failed=$status ;; esac
		exit "$failed"
	}
}

# Runs a command in the image, whose process reports progress, too.
step_in_image() { # NUMBER
	tell phase run "$1"
	made=/run/build/made
	secrets_of_step=/dev/lxdocker-steps/$1
	if [ -d "$secrets_of_step" ]; then with=secrets; else with=; fi
	# Its first field.
	case $("$bb" head -c 3 "$here/steps/$1/step") in
	yes) step 77 "$bb" sh "$here/connected.sh" "$seconds" lease "$bb" sh "$here/network.sh" "$here/network" ;;
	esac
	step 77 "$bb" sh "$here/prepare.sh" "$rootfs" "$made" $with
	status=0
	set -- perl "$here/run.pl" "$rootfs" "$here/steps/$1" "$secrets_of_step" "$prctl" "$((limit))"
	tell run "$(quoted "$@")"
	printf '\f' >&2
	"$@" >&3 3>&- || status=$?
	"$bb" rm -rf "$secrets_of_step"
	[ "$status" = 0 ] || exit 77
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
[ "$#" = 0 ] || set -- "$bb" sh "$here/connected.sh" "$seconds" "$way" "$@"
step 72 "$bb" sh "$here/fetch.sh" "$name" "$work" "$secrets" "$stall" "$most" "$wanted" "$@"
trap - EXIT
kill "$watcher" 2>/dev/null || :
manifest=$("$bb" cat /run/digest)
tell manifest "$manifest"

tell phase unpack
step 71 "$bb" sh "$here/unpack.sh" "$memory" "$limit" "$rootfs" "${manifest#sha256:}"

if [ -e /run/changes ]; then
	tell phase change
	# shellcheck disable=SC2016  # the inner shell's own
	step 76 "$bb" sh -c 'exec "$@" </run/changes' sh perl "$here/change.pl" "$rootfs"
	"$bb" rm /run/changes
fi
if [ -d "$here/steps" ]; then
	# What runs in the image must not reach the blobs of other images: from here on, nothing in this builder does.
	step 77 "$bb" umount -l /cache
	# shellcheck disable=SC2016  # the inner shell's own
	step 77 "$bb" sh -c 'exec perl "$1" "$2" remember >"$3"' sh "$here/restore.pl" "$rootfs" /run/build/made
	number=0
	while [ -d "$here/steps/$number" ]; do
		step_in_image "$number"
		number=$((number + 1))
	done
	# shellcheck disable=SC2016  # the inner shell's own
	step 77 "$bb" sh -c 'exec perl "$1" "$2" <"$3"' sh "$here/restore.pl" "$rootfs" /run/build/made
fi
if [ -e /run/layer0 ]; then
	tell phase layers
	step 78 "$bb" sh "$here/layers.sh" "$rootfs"
fi

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
