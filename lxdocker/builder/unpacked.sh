#!/bin/busybox sh
# shellcheck shell=dash
# unpacked.sh form FILE: prints the format of the layer FILE, detected from its bytes: gzip, zstd, xz, bzip2 or tar
# unpacked.sh tar FILE: prints the layer's tar
set -eu
bb=/bin/busybox

form() {
	case $("$bb" od -A n -t x1 -N 6 "$1" | "$bb" tr -d ' \n') in
	1f8b*) echo gzip ;;
	28b52ffd* | 5?2a4d18*) echo zstd ;;
	fd377a585a00) echo xz ;;
	425a68*) echo bzip2 ;;
	*) echo tar ;;
	esac
}

case $1 in
form) form "$2" ;;
tar)
	case $(form "$2") in
	tar) exec "$bb" cat "$2" ;;
	bzip2) exec "$bb" bunzip2 -c "$2" ;;
	*) exec zstd -dcq "$2" ;; # also supports gzip and xz, and is several times faster than busybox
	esac
	;;
esac
