#!/bin/busybox sh
# shellcheck shell=dash
# look.sh SECONDS: in a builder, asks each registry for an image that does not exist, and prints for each
#   registry NUMBER STATUS
# and what skopeo said, as lines that begin with a blank. STATUS is 143 if it did not answer within SECONDS, and 144 if
# not even its name was resolved. /run/doctor/NUMBER is a folder with the files `arguments` (of skopeo, one per line),
# `host` (its name, or empty if there is none to resolve) and `environment` (NAME=VALUE per line).
set -eu
bb=/bin/busybox
seconds=$1
cd /run/doctor

look() { # FOLDER
	cd "$1"
	while IFS= read -r variable; do export "${variable?}"; done <environment
	set --
	while IFS= read -r word; do set -- "$@" "$word"; done <arguments
	status=0
	"$bb" timeout "$seconds" skopeo "$@" >/dev/null 2>said || status=$?
	read -r name <host || :
	if [ "$status" = 143 ] && [ -n "$name" ]; then
		"$bb" timeout 2 "$bb" nslookup "$name" >/dev/null 2>&1 || status=144
	fi
	echo "$status" >status
}

for folder in [0-9]*; do (look "$folder") & done
wait
for folder in [0-9]*; do
	read -r status <"$folder/status" || status=1
	echo "registry $folder $status"
	"$bb" head -c 2000 "$folder/said" | "$bb" sed 's/^/ /'
	echo
done
