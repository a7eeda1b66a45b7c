#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# The layer cache on the volume that all builders share: /cache/blobs/sha256 holds every blob once,
# /cache/manifests/NAME the digest of the manifest last fetched for NAME, and /cache/work the downloads in progress (see
# fetch.sh).
#   cache.sh keep NAME…          deletes blobs not referenced by these names' manifests; no download may be running
#   cache.sh forget DIGEST       deletes the blobs of the manifest DIGEST, because one of them is damaged
#   cache.sh fetched WORK HEX…   prints the bytes present of these blobs, including downloads in WORK
set -eu
bb=/bin/busybox
command=$1
shift

# The blobs referenced by a file, one hex digest per line. Extra digests do no harm.
digests_in() { "$bb" grep -oh 'sha256:[0-9a-f]\{64\}' "$@" 2>/dev/null | "$bb" cut -c8- | "$bb" sort -u; }

# The manifests named in a file, and their blobs.
blobs_of() {
	for manifest in $(digests_in "$1"); do
		echo "$manifest"
		digests_in "/cache/blobs/sha256/$manifest"
	done
}

case $command in
keep)
	cd /cache
	[ -d manifests ] || exit 0
	"$bb" rm -rf work/*
	for record in manifests/*; do
		case " $* " in *" ${record#manifests/} "*) ;; *) "$bb" rm -rf "$record" ;; esac
	done
	# At least one line, since for busybox a file without patterns matches everything.
	{ echo none && for name; do blobs_of "manifests/$name"; done; } | "$bb" sort -u >/build/kept
	"$bb" find blobs/sha256 -type f | "$bb" sed 's,.*/,,' | "$bb" sort >/build/there
	"$bb" grep -vxFf /build/kept /build/there | while read -r blob; do "$bb" rm -f "blobs/sha256/$blob"; done
	;;
forget)
	echo "$1" >/build/forgotten
	for blob in $(blobs_of /build/forgotten); do "$bb" rm -rf "/cache/blobs/sha256/$blob"; done
	;;
fetched)
	work=$1
	shift
	for blob; do echo "/cache/blobs/sha256/$blob"; done | "$bb" xargs "$bb" stat -c %s "$work"/oci-put-blob* 2>/dev/null |
		"$bb" awk '{ sum += $1 } END { print sum + 0 }'
	;;
esac
