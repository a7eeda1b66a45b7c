#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# fetch.sh NAME WORK SECRETS STALL MOST WANTED [COMMAND…]: has COMMAND copy NAME's image into the OCI layout WORK, in the
# layer cache, and write its manifest's digest to /run/digest; unless the cache has all of the image whose manifest's
# digest is WANTED (hex, or empty). Exit status 79 if it has not, and there is no COMMAND. Unpacking then uses the layout
# /run/layout, which is private to this builder: builders share only the cache's blobs, whose names are their digests.
# Transient failures are retried, keeping the blobs already downloaded. COMMAND is killed if no data arrives for STALL
# seconds, or if a blob exceeds MOST bytes; 0 means no limit.
# The folder SECRETS may contain a file `environment` with variables for COMMAND, one NAME=VALUE per line. SECRETS and
# WORK are deleted at the end.
set -eu
bb=/bin/busybox
name=$1 work=$2 secrets=$3 stall=$4 most=$5 wanted=$6
shift 6
here=/run/build cache=/cache/blobs/sha256
# shellcheck source=lxdocker/builder/quoted.sh
if [ -n "${ran-}" ]; then . /run/build/quoted.sh; else note() { :; }; fi
said=/dev/lxdocker-copied ended=/dev/lxdocker-copy-ended # in memory
trap '"$bb" rm -rf "$secrets" "$work"' EXIT

# A builder compromised by an image may have left anything here. Other builders may be running this clean-up now, so it
# deletes nothing that they may just have created, and files that disappear meanwhile are not an error.
for folder in blobs blobs/sha256 manifests work; do
	if [ -L "/cache/$folder" ] || [ ! -d "/cache/$folder" ]; then "$bb" rm -f "/cache/$folder" 2>/dev/null || :; fi
done
"$bb" mkdir -p /cache/blobs/sha256 /cache/manifests /cache/work
"$bb" find /cache/blobs/sha256 -mindepth 1 ! -type f -exec "$bb" rm -rf {} + 2>/dev/null || :
# Left by killed builders, since no download takes a day.
"$bb" find /cache/work -mindepth 1 -maxdepth 1 -mtime +0 -exec "$bb" rm -rf {} + 2>/dev/null || :
"$bb" rm -rf "$work" /run/layout /run/digest
"$bb" mkdir "$work" /run/layout
"$bb" ln -s ../../blobs "$work/blobs"
"$bb" ln -s /cache/blobs /run/layout/blobs

if [ -e "$secrets/environment" ]; then
	while IFS= read -r variable; do export "${variable?}"; done <"$secrets/environment"
fi

# The sizes of downloads in progress: the layout's files, and those that skopeo extracts from an archive.
coming() { "$bb" find "$work" /var/tmp -type f -exec "$bb" stat -c '%s %n' {} + 2>/dev/null || :; }

uptime() {
	read -r now _ </proc/uptime
	echo "${now%.*}"
}

# KiB, so that a small limit is not told as 0 MiB.
size() { if [ "$1" -ge 10240 ]; then echo "$(($1 / 1024)) MiB"; else echo "$1 KiB"; fi; }

watch() { # PID
	before='' since=$(uptime)
	while "$bb" sleep 1; do
		now_coming=$(coming)
		if [ "$now_coming" != "$before" ]; then before=$now_coming since=$(uptime); fi
		reason=
		if [ "$stall" -gt 0 ] && [ "$(($(uptime) - since))" -ge "$stall" ]; then
			reason="no data from the registry for $stall s"
		elif [ "$most" -gt 0 ] && ! echo "$before" | "$bb" awk -v most="$most" '$1 > most { exit 1 }'; then
			reason="more data than the image should have: over $(size "$((most >> 10))") in one piece"
		fi
		[ -n "$reason" ] || continue
		echo "$reason" >"$ended"
		kill -9 "$1"
		return
	done
}

copy() { # COMMAND…
	"$bb" rm -rf "$ended"
	"$bb" find "$work" -mindepth 1 ! -name blobs -exec "$bb" rm -rf {} + 2>/dev/null || :
	"$@" 2>"$said" &
	copying=$!
	watch "$copying" >/dev/null 2>&1 &
	watcher=$!
	status=0
	wait "$copying" 2>/dev/null || status=$? # hides the shell's message about a killed process
	kill -9 "$watcher" 2>/dev/null || :
	# The kernel closes its open files only gradually.
	"$bb" cat "$said" >&2
	[ ! -e "$ended" ] || { "$bb" cat "$ended" >&2; return 1; }
	return "$status"
}

# Messages of a registry, or of the route to it, about failures that are probably transient.
passing='unexpected http status:? (408|425|429|5[0-9][0-9])|toomanyrequests|too many requests|unexpected eof|: eof\b'
passing="$passing|connection reset|broken pipe|server closed|connection lost|stream error|goaway|timeout|timed out"
passing="$passing|deadline exceeded|connection refused|no such host|temporary failure|is unreachable|no route to host"
passing="$passing|(bad gateway|service unavailable|internal server error)"

# The digest of a file that describes an image, none of which is larger.
sum() { "$bb" head -c 4194305 "$1" | "$bb" sha256sum | "$bb" cut -c1-64; }

# Whether the cache has all of the wanted image, as far as that shows without reading its layers: umoci verifies them.
# The host may have given the manifest, since skopeo converts Docker's, which then has another digest here.
has_all() {
	[ -n "$wanted" ] || return
	if [ -e "$here/manifest" ]; then "$bb" cp "$here/manifest" "$work/given" && "$bb" mv "$work/given" "$cache/$wanted"; fi
	[ -f "$cache/$wanted" ] && [ "$(sum "$cache/$wanted")" = "$wanted" ] &&
		perl "$here/named.pl" <"$cache/$wanted" >/run/named 2>/dev/null || return
	while read -r kind digest size _; do
		[ -f "$cache/$digest" ] && [ "$("$bb" stat -c %s "$cache/$digest")" = "$size" ] || return
		[ "$kind" != config ] || [ "$(sum "$cache/$digest")" = "$digest" ] || return
	done </run/named
	echo "sha256:$wanted" >/run/digest
}

# Transient failures are retried; the last attempt's messages are reported as the reason.
fetch() { # COMMAND…
	for pause in 1 3 9 ''; do
		status=0
		copy "$@" || status=$?
		[ "$status" != 0 ] || break
		# Fetch the blobs unchanged instead, for mend.sh to convert.
		if [ "$1" != perl ] && "$bb" grep -q 'unsupported docker v2s2 media type' "$said"; then
			printf '\f' >&2
			set -- perl /run/build/raw.pl "$work" "$@"
			note ran "$@"
			status=0
			copy "$@" || status=$?
			[ "$status" != 0 ] || break
		fi
		if [ -z "$pause" ] || [ -e "$ended" ] || ! "$bb" grep -Eqi "$passing" "$said"; then exit "$status"; fi
		"$bb" sleep "$pause"
		printf '\f' >&2
	done
}

if ! has_all; then
	[ "$#" != 0 ] || exit 79
	fetch "$@"
fi

read -r digest <"/run/digest" || [ -n "$digest" ]
size=$("$bb" stat -c %s "/cache/blobs/sha256/${digest#sha256:}")
echo '{"imageLayoutVersion": "1.0.0"}' >/run/layout/oci-layout
printf '{"schemaVersion": 2, "manifests": [{"mediaType": "%s", "digest": "%s", "size": %d, "annotations": {"%s": "%s"}}]}\n' \
	application/vnd.oci.image.manifest.v1+json "$digest" "$size" org.opencontainers.image.ref.name image \
	>/run/layout/index.json
echo "$digest" >"$work/manifest"
"$bb" mv "$work/manifest" "/cache/manifests/$name"
