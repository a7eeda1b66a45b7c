#!/bin/busybox sh
# shellcheck shell=dash
# layers.sh ROOT: puts the layers /run/layer0, /run/layer1, … on top of the unpacked image at ROOT. umoci does that, as
# with any layer of an image. It takes neither zstd nor global headers, so it reads a plain tar from a FIFO; for its
# digest and size, the layer is read once before.
set -eu
bb=/bin/busybox
here=/run/build root=$1 layout=/run/layers
# shellcheck source=lxdocker/builder/quoted.sh
if [ -n "${ran-}" ]; then . "$here/quoted.sh"; else note() { :; }; fi
oci=application/vnd.oci.image

sum() { "$bb" sha256sum | "$bb" cut -c1-64; }

descriptor() { printf '{"mediaType": "%s", "digest": "sha256:%s", "size": %d%s}' "$@"; }

# Adds stdin as a blob of the layout; prints its digest and size.
add_blob() {
	"$bb" cat >"$layout/blob"
	digest=$(sum <"$layout/blob") size=$("$bb" stat -c %s "$layout/blob")
	"$bb" mv "$layout/blob" "$layout/blobs/sha256/$digest"
	echo "$digest $size"
}

tar_of() { "$bb" sh "$here/unpacked.sh" tar "$1" | perl "$here/plain.pl"; }

number=0
while [ -e "/run/layer$number" ]; do
	layer=/run/layer$number
	"$bb" rm -rf "$layout"
	"$bb" mkdir -p "$layout/blobs/sha256"
	"$bb" mkfifo "$layout/tar"
	"$bb" wc -c <"$layout/tar" >"$layout/size" &
	diff=$(tar_of "$layer" | "$bb" tee "$layout/tar" | sum)
	wait $!
	size=$("$bb" cat "$layout/size")
	echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
	config=$(printf '{"architecture": "any", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}}' "$diff" | add_blob)
	# shellcheck disable=SC2086 # digest and size
	manifest=$(printf '{"schemaVersion": 2, "config": %s, "layers": [%s]}' \
		"$(descriptor $oci.config.v1+json $config '')" "$(descriptor $oci.layer.v1.tar "$diff" "$size" '')" | add_blob)
	# shellcheck disable=SC2086 # digest and size
	printf '{"schemaVersion": 2, "manifests": [%s]}\n' "$(descriptor $oci.manifest.v1+json $manifest \
		', "annotations": {"org.opencontainers.image.ref.name": "image"}')" >"$layout/index.json"
	"$bb" mkfifo "$layout/blobs/sha256/$diff"
	tar_of "$layer" >"$layout/blobs/sha256/$diff" 2>/dev/null &
	feed=$!
	note ran umoci --log=warn raw unpack --image "$layout:image" "$root"
	umoci --log=warn raw unpack --image "$layout:image" "$root" || {
		echo "layer $number could not be unpacked" >&2
		exit 1
	}
	kill "$feed" 2>/dev/null || :
	"$bb" rm -f "$layer"
	number=$((number + 1))
done
