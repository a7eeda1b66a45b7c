#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# unpack.sh MEMORY LIMIT ROOTFS MANIFEST: creates ROOTFS, below /build, from the OCI layout /run/layout, which refers to
# the blobs of MANIFEST (hex) in the layer cache. Exit status 75 if one of these is damaged. If MEMORY (KiB) is more
# than 0, the host has several times the size to spare and the image fits, /build becomes a tmpfs. That is a quarter
# faster, and the result is the same. No image may exceed LIMIT (KiB), by default (0) a multiple of its download size,
# or use the last free space of a pool that is nearly full.
set -eu
bb=/bin/busybox
here=/run/build cache=/cache/blobs/sha256
memory=$1 limit=$2 rootfs=$3 manifest=$4
added=16384   # KiB; the runtime with its busybox and gosu takes about half of that
allowed=20    # times the download; 3 is usual, 10 is rare
small=1048576 # KiB allowed for every image

# shellcheck source=lxdocker/builder/quoted.sh
if [ -n "${ran-}" ]; then . "$here/quoted.sh"; else note() { :; }; fi

unpacking="umoci --log=warn raw unpack --image /run/layout:image $rootfs"
said=/dev/lxdocker-said # in memory, so that there is room even if the disk is full
ended=/dev/lxdocker-ended
# Messages about a full disk, and our own about an aborted unpacking.
full='no space left|quota exceeded|unpacked, the image takes'

# The size and path of each existing blob that the manifest names; extra ones do no harm. No program is started per
# blob, which would take much of a small image's build time.
sizes() {
	"$bb" grep -o 'sha256:[0-9a-f]\{64\}' "$cache/$manifest" | "$bb" sort -u | "$bb" sed "s,sha256:,$cache/," |
		"$bb" xargs "$bb" stat -c '%s %n' 2>/dev/null || :
}

size_fetched() { sizes | "$bb" awk '{ sum += $1 } END { printf "%d", sum / 1024 }'; }

# Twice the expected size of the root filesystem and its squashfs, plus the additions to every image. A layer whose
# first bytes are neither gzip nor zstd counts as a plain tar.
size_wanted() {
	gzip=$(printf '\037\213') zstd=$(printf '\050\265')
	sizes | while read -r size blob; do
		magic=
		# shellcheck disable=SC3045 # busybox has it
		IFS= read -r -n 2 magic <"$blob" || :
		case $magic in
		"$gzip" | "$zstd") echo "$((size * 8))" ;;
		*) echo "$((size * 3))" ;;
		esac
	done | "$bb" awk -v added="$added" '{ sum += $1 } END { printf "%d", sum / 1024 + added * 3 }'
}

# KiB written by umoci; empty files also take space.
written() { # PID
	bytes=0
	while read -r key value; do
		[ "$key" != wchar: ] || bytes=$value
	done <"/proc/$1/io" && echo "$((bytes / 1024 + files * 4))"
} 2>/dev/null

now() { # in 1/100 s
	read -r uptime _ </proc/uptime
	echo "${uptime%.*}${uptime#*.}"
}

# KiB, so that a small limit is not told as 0 MiB.
size() { if [ "$1" -ge 10240 ]; then echo "$(($1 / 1024)) MiB"; else echo "$1 KiB"; fi; }

# Kills umoci if it exceeds the limit. Counting many files is slow, so the more files there are, the rarer the count.
watch() { # PID
	files=0 rounds=0
	while "$bb" usleep 200000; do
		rounds=$((rounds - 1))
		if [ "$rounds" -le 0 ]; then
			start=$(now)
			files=$("$bb" find "$rootfs" 2>/dev/null | "$bb" wc -l)
			rounds=$((($(now) - start) / 2 + 2))
		fi
		kib=$(written "$1") || return 0
		reason=
		if [ "$kib" -gt "$limit" ]; then
			reason="unpacked, the image takes more than $(size "$limit")"
		elif [ "$kib" -gt "$expected" ] && "$bb" df -k /build | "$bb" awk 'NR == 2 { exit !($4 < $2 / 10 && $4 < 1048576) }'; then
			reason="unpacked, the image takes more than $(size "$kib"), and the storage pool has no space left for others"
		fi
		[ -n "$reason" ] || continue
		echo "$reason" >"$ended"
		kill -9 "$1"
		return
	done
}

# Starts a process that feeds each FIFO of the layout; prints their PIDs.
feed() {
	[ -e /run/feeds ] || return 0
	while read -r digest blob; do
		# The FIFO is opened first, so that only one of many layers is decompressed at a time.
		{ "$bb" sh "$here/unpacked.sh" tar "$cache/$blob" | perl "$here/plain.pl"; } \
			>"/run/layout/blobs/sha256/$digest" 2>/dev/null &
		echo $!
	done </run/feeds
}

try_to_unpack() {
	"$bb" rm -rf "$rootfs" "$ended" &&
		# inject.sh compares file times with this marker. busybox's find compares whole seconds.
		"$bb" touch -d "@$(($("$bb" date +%s) - 1))" "$rootfs.marker" || return
	feed >/run/feeding
	# umoci's heap is small, so by default it is collected all the time, which takes a tenth of the total.
	# shellcheck disable=SC2086 # a command
	{
		note ran "$bb" env GOGC=400 $unpacking
		GOGC=400 $unpacking &
	}
	umoci=$!
	watch "$umoci" >/dev/null 2>&1 &
	watcher=$!
	status=0
	wait "$umoci" || status=$?
	# shellcheck disable=SC2046 # a list
	kill -9 "$watcher" $("$bb" cat /run/feeding) 2>/dev/null || :
	[ ! -e "$ended" ] || status=1
	return "$status"
}

# If unpacking fails, umoci (0.4.7) may close a layer that it is still reading and crash instead of reporting the
# reason.
unpack() {
	for _ in 1 2 3 4; do
		try_to_unpack 2>"$said" && return
		status=$?
		has_crashed || break
	done
	[ ! -e "$ended" ] || "$bb" mv "$ended" "$said"
	return "$status"
}

has_crashed() { [ ! -e "$ended" ] && "$bb" grep -q '^goroutine ' "$said"; }

# Images known to be unsupported by umoci are mended first, others if unpacking fails. A damaged layer is another cause.
attempt() {
	if [ -z "$mended" ] && "$bb" grep -Eq 'zstd|vnd\.docker' "$cache/$manifest"; then
		mend "$said" || [ $? = 1 ] || return "$failed"
		mended=partly
	fi
	unpack && return
	status=$?
	if "$bb" grep -Eqi "$full" "$said" || [ "$mended" = all ]; then return "$status"; fi
	if mend "$said.why" all; then
		mended=all
		unpack
		return
	fi
	if [ "$failed" = 75 ] || { [ "$failed" -gt 1 ] && has_crashed; }; then
		status=$failed
		"$bb" mv "$said.why" "$said"
	else
		# shellcheck disable=SC2086 # a command
		note failed "$bb" env GOGC=400 $unpacking # its message is the reason
	fi
	return "$status"
}

mend() { # WORDS [all]
	words=$1 failed=0
	shift
	set -- "$bb" sh "$here/mend.sh" "$manifest" "$limit" "$@"
	note ran "$@"
	"$@" 2>"$words" || failed=$?
	return "$failed"
}

# A tmpfs before Linux 6.6 would lose an image's user.* attributes.
knows_user_attributes() {
	version=$("$bb" uname -r)
	major=${version%%.*} minor=${version#*.}
	minor=${minor%%[!0-9]*}
	[ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 6 ]; }
}

in_memory() {
	[ "$memory" -gt 0 ] && knows_user_attributes || return 1
	size=$(size_wanted)
	spare=$("$bb" awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
	[ "$size" -le "$memory" ] && [ "$((size * 4))" -le "$spare" ] &&
		"$bb" mount -t tmpfs -o "size=${size}k,mode=755" build /build || return 1
	# The squashfs is never much larger than its contents.
	# Failures here are retried on disk, and only the messages of that attempt count.
	if attempt && "$bb" df -k /build | "$bb" awk -v added="$added" 'NR == 2 { exit !($3 + added * 2 <= $4) }'; then return; fi
	"$bb" umount -l /build
	return 1
}

fetched=$(size_fetched)
[ "$limit" -gt 0 ] || limit=$((small + fetched * allowed))
expected=$((65536 + fetched * 4))
mended='' status=0
# Left by a failed attempt.
if "$bb" grep -q "^build /build tmpfs " /proc/mounts; then "$bb" umount -l /build; fi
in_memory || attempt || {
	status=$?
	"$bb" cat "$said" >&2
	case $status in 75 | 137) ;; *) status=1 ;; esac
	exit "$status"
}
# What only the host's root can create: device nodes, now replaced by empty files, and some extended attributes. Only
# umoci's messages list them. inject.sh reads the list.
"$bb" sed -n \
	-e 's/.*rootless{\(.*\)} creating empty file in place of device \([0-9]*:[0-9]*\) *$/device \2 \1/p' \
	-e 's/.*rootless{\(.*\)} ignoring (usually) harmless EPERM on setxattr "\(.*\)" *$/attribute \2 \1/p' \
	"$said" >"$rootfs.lost"
