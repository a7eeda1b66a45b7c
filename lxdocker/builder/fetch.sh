#!/bin/busybox sh
# shellcheck shell=dash
# fetch.sh NAME SECRETS COMMAND…: makes NAME's layout in the layer cache (see cache.sh) ready to be written to, and runs
# COMMAND, which copies the image there. SECRETS, a folder, is gone before anything of the image is unpacked.
set -eu
bb=/bin/busybox
layout=/cache/images/$1 secrets=$2
shift 2

"$bb" mkdir -p /cache/blobs/sha256 "$layout"
# What a killed skopeo left.
"$bb" rm -f "$layout"/oci-put-blob*
[ -L "$layout/blobs" ] || "$bb" ln -s ../../blobs "$layout/blobs"

status=0
"$@" || status=$?
"$bb" rm -rf "$secrets"
exit "$status"
