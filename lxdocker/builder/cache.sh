#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# The layer cache on the volume that all builders share: /cache/blobs/sha256 holds every blob once, and
# /cache/images/NAME is an OCI layout whose index names the manifest last built for NAME (fetch.sh makes it).
#   cache.sh keep NAME…          deletes every other layout, and each blob that no kept one refers to
#   cache.sh forget NAME         deletes NAME's blobs: one of them turned out to be damaged
#   cache.sh fetched NAME HEX…   prints how many bytes of these blobs are there, those on their way to NAME included
set -eu
bb=/bin/busybox
command=$1
shift

# The blobs a file refers to, one hex digest a line. More digests than strictly needed do no harm.
digests_in() { "$bb" grep -oh 'sha256:[0-9a-f]\{64\}' "$@" 2>/dev/null | "$bb" cut -c8- | "$bb" sort -u; }

blobs_of() {
	for manifest in $(digests_in "/cache/images/$1/index.json"); do
		echo "$manifest"
		digests_in "/cache/blobs/sha256/$manifest"
	done
}

case $command in
keep)
	cd /cache
	[ -d images ] || exit 0
	for layout in images/*; do
		case " $* " in *" ${layout#images/} "*) ;; *) "$bb" rm -rf "$layout" ;; esac
	done
	# Never without a line: busybox takes a file without patterns for one that matches all.
	{ echo none && for name; do blobs_of "$name"; done; } | "$bb" sort -u >/build/kept
	"$bb" find blobs/sha256 -type f | "$bb" sed 's,.*/,,' | "$bb" sort >/build/there
	"$bb" grep -vxFf /build/kept /build/there | while read -r blob; do "$bb" rm -f "blobs/sha256/$blob"; done
	;;
forget)
	for blob in $(blobs_of "$1"); do "$bb" rm -f "/cache/blobs/sha256/$blob"; done
	"$bb" rm -rf "/cache/images/$1"
	;;
fetched)
	name=$1
	shift
	for blob; do echo "/cache/blobs/sha256/$blob"; done | "$bb" xargs "$bb" stat -c %s "/cache/images/$name"/oci-put-blob* 2>/dev/null |
		"$bb" awk '{ sum += $1 } END { print sum + 0 }'
	;;
esac
