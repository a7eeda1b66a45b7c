#!/bin/busybox sh
# shellcheck shell=dash
# fetch.sh NAME WORK SECRETS COMMAND…: has COMMAND copy NAME's image into the OCI layout WORK, in the layer cache, and
# write its manifest's digest to /run/digest. What is unpacked is then the layout /run/layout, which is this builder's
# alone: others share the cache's blobs, whose names are their digests, and nothing else.
# In SECRETS, a folder, there may be a file `environment` of variables for COMMAND, a NAME=VALUE a line. Neither SECRETS
# nor WORK is there any more when this ends.
set -eu
bb=/bin/busybox
name=$1 work=$2 secrets=$3
shift 3
trap '"$bb" rm -rf "$secrets" "$work"' EXIT

# A builder that an image had taken over may have left anything here.
for folder in blobs blobs/sha256 manifests work; do
	if [ -L "/cache/$folder" ] || [ ! -d "/cache/$folder" ]; then "$bb" rm -rf "/cache/$folder"; fi
done
"$bb" mkdir -p /cache/blobs/sha256 /cache/manifests /cache/work
"$bb" find /cache/blobs/sha256 -mindepth 1 ! -type f -exec "$bb" rm -rf {} +
# What a builder left that was killed. None fetches for as long as a day.
"$bb" find /cache/work -mindepth 1 -maxdepth 1 -mtime +0 -exec "$bb" rm -rf {} +
"$bb" rm -rf "$work" /run/layout /run/digest
"$bb" mkdir "$work" /run/layout
"$bb" ln -s ../../blobs "$work/blobs"
"$bb" ln -s /cache/blobs /run/layout/blobs

if [ -e "$secrets/environment" ]; then
	while IFS= read -r variable; do export "${variable?}"; done <"$secrets/environment"
fi
# Not exec: there is something to do after it, however it ends.
"$@"

read -r digest <"/run/digest" || [ -n "$digest" ]
size=$("$bb" stat -c %s "/cache/blobs/sha256/${digest#sha256:}")
"$bb" cp "$work/oci-layout" /run/layout/
printf '{"schemaVersion": 2, "manifests": [{"mediaType": "%s", "digest": "%s", "size": %d, "annotations": {"%s": "%s"}}]}\n' \
	application/vnd.oci.image.manifest.v1+json "$digest" "$size" org.opencontainers.image.ref.name image \
	>/run/layout/index.json
echo "$digest" >"$work/manifest"
"$bb" mv "$work/manifest" "/cache/manifests/$name"
