#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016,SC3040
# listing.sh LIST RPM LIMIT MOST: unpacks /build/listing.squashfs in this builder, and prints what is in it, as the perl
# script LIST does, with RPM. Its devices, which can't be made here, are taken from the squashfs's own table. Exit
# status 80 if the image has more than MOST files, 81 if they would take more than LIMIT KiB or most of the free space;
# nothing has been unpacked then.
set -eu -o pipefail
bb=/bin/busybox
squashfs=/build/listing.squashfs root=/build/listing devices=/build/listing.devices said=/build/listing.said
list=$1 rpm=$2 limit=$3 most=$4
export PERL_BADLANG=0 # no warnings about missing locales

free=$("$bb" df -Pk /build | "$bb" awk 'NR == 2 { print int($4 * 0.9) }')
[ "$limit" -le "$free" ] || limit=$free
status=0
# A file counts 4 KiB more than its size, as it may take on a disk.
unsquashfs -lln "$squashfs" | "$bb" awk -v limit="$limit" -v most="$most" -v devices="$devices" '
	/^[-dlbcps][-rwxsStT]{9} / { count++; kib += 4 }
	/^-/ { kib += $3 / 1024 }
	/^[bc]/ { print >devices }
	count > most { exit status = 80 }
	kib > limit { exit status = 81 }
	END { exit status }
' || status=$?
case $status in
80 | 81) exit "$status" ;;
0) ;;
*) echo "the squashfs cannot be read" >&2 && exit 1 ;;
esac
: >>"$devices"

unsquashfs -no-progress -quiet -data-queue 64 -frag-queue 64 -no-exit-code -dest "$root" "$squashfs" >/dev/null 2>"$said" || {
	"$bb" cat "$said" >&2
	exit 1
}
# Neither devices nor some attributes can be made in a user namespace. What else is said is a failure.
"$bb" awk '
	/^create_inode: .* create (character|block) device / { next }
	/^write_xattr: / && !/space/ { next }
	/^To avoid this error message|^Further error messages|^[[:space:]]*$/ { next }
	{ print; failed = 1 }
	END { exit failed }
' "$said" >&2 || exit 1
"$bb" rm -f "$squashfs"
exec perl -e "$rpm" -e "$list" "$root" "$devices"
