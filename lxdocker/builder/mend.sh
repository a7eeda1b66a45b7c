#!/bin/busybox sh
# shellcheck shell=dash
# mend.sh MANIFEST LIMIT [all]: rebuilds the layout /run/layout from blobs in the layer cache so that umoci can unpack
# it. umoci supports neither zstd nor global headers, and trusts the layer types in the manifest; Docker looks at the
# bytes. A layer that umoci would reject is replaced by its plain tar, under another digest. To avoid a second copy on
# disk, the tar is a FIFO in the layout, with a line `DIGEST BLOB` in /run/feeds. The layer is therefore read twice:
# here, for its digest and size, and when it is unpacked. By default, only layers that umoci can't recognize are
# examined, with `all` every layer; no further than LIMIT (KiB). Exit status: 0 a new layout was made, 1 nothing to
# mend, 75 a blob in the cache is damaged, else the image is damaged.
set -eu
bb=/bin/busybox
here=/run/build cache=/cache/blobs/sha256 layout=/run/layout feeds=/run/feeds work=/run/mend
manifest=$1 limit=$2 all=${3-}
oci=application/vnd.oci.image

sum() { "$bb" sha256sum | "$bb" cut -c1-64; }

# Other builders can write to the cache.
require_intact() {
	[ -f "$cache/$1" ] && [ "$(sum <"$cache/$1")" = "$1" ] && return
	echo "the layer cache has a blob that is not what its digest says: $1" >&2
	exit 75
}

# KiB, so that a small limit is not told as 0 MiB.
size() { if [ "$1" -ge 10240 ]; then echo "$(($1 / 1024)) MiB"; else echo "$1 KiB"; fi; }

refuse() {
	echo "$1" >&2
	exit 2
}

# Writes $work/size, $work/was and $work/is: the size of a layer's tar without the parts to be dropped, and its digest
# with and without them. $work/odd exists if the tar is followed by other data, such as padding.
read_layer() {
	sum <"$work/all" >"$work/was" &
	sum <"$work/rest" >"$work/is" &
	"$bb" rm -f "$work/odd"
	{ "$bb" sh "$here/unpacked.sh" tar "$1" 2>"$work/said" || : >"$work/odd"; } |
		"$bb" head -c "$((limit * 1024 + 1))" | "$bb" tee "$work/all" | perl "$here/plain.pl" | "$bb" tee "$work/rest" |
		"$bb" wc -c >"$work/size"
	wait
}

descriptor() { printf '{"mediaType": "%s", "digest": "sha256:%s", "size": %d}' "$@"; }

# Adds stdin as a blob of the layout; prints its digest and size.
add_blob() {
	"$bb" cat >"$work/blob"
	digest=$(sum <"$work/blob") size=$("$bb" stat -c %s "$work/blob")
	"$bb" mv "$work/blob" "$work/blobs/$digest"
	echo "$digest $size"
}

"$bb" rm -rf "$work"
"$bb" mkdir -p "$work/blobs"
"$bb" mkfifo "$work/all" "$work/rest"
require_intact "$manifest"
perl "$here/named.pl" <"$cache/$manifest" >"$work/named" || exit 2
config=$("$bb" sed -n 's/^config \([^ ]*\).*/\1/p' "$work/named")
require_intact "$config"
perl "$here/named.pl" <"$cache/$config" | "$bb" sed -n 's/^diff //p' >"$work/diffs"
"$bb" sed -n 's/^layer //p' "$work/named" >"$work/layers"
[ "$("$bb" wc -l <"$work/layers")" = "$("$bb" wc -l <"$work/diffs")" ] ||
	refuse "the image's manifest and its configuration do not have the same number of layers"

mended='' layers='' diffs=''
: >"$work/feeds"
exec 4<"$work/diffs"
while read -r layer size type; do
	read -r diff <&4
	[ -f "$cache/$layer" ] || require_intact "$layer"
	form=$("$bb" sh "$here/unpacked.sh" form "$cache/$layer")
	digest=$layer size=$("$bb" stat -c %s "$cache/$layer") fed=
	case $form in
	gzip) right=$oci.layer.v1.tar+gzip ;;
	tar) right=$oci.layer.v1.tar ;;
	*) right=$oci.layer.v1.tar fed=yes ;;
	esac
	if [ -n "$all$fed" ]; then
		read_layer "$cache/$layer"
		if [ "$("$bb" cat "$work/was")" != "$diff" ]; then
			[ "$("$bb" cat "$work/size")" -le "$((limit * 1024))" ] ||
				refuse "unpacked, the image takes more than $(size "$limit")"
			require_intact "$layer"
			refuse "unpacked, the layer $layer does not match the digest $diff: $("$bb" tail -n 1 "$work/said")"
		fi
		is=$("$bb" cat "$work/is")
		[ "$is" = "$diff" ] && [ ! -e "$work/odd" ] || fed=yes
	fi
	if [ -z "$fed" ]; then
		[ "$type" = "$right" ] || mended=yes
		[ ! -p "$work/blobs/$digest" ] || "$bb" sed -i "/^$digest /d" "$work/feeds"
		"$bb" ln -sf "$cache/$layer" "$work/blobs/$digest"
	else
		mended=yes
		right=$oci.layer.v1.tar digest=$is diff=$is size=$("$bb" cat "$work/size")
		if [ ! -e "$work/blobs/$digest" ]; then
			"$bb" mkfifo "$work/blobs/$digest"
			echo "$digest $layer" >>"$work/feeds"
		elif [ -p "$work/blobs/$digest" ]; then
			# The image contains this layer more than once, and a FIFO can be read only once. It is usually an empty
			# layer.
			"$bb" rm "$work/blobs/$digest"
			"$bb" sed -i "/^$digest /d" "$work/feeds"
			"$bb" sh "$here/unpacked.sh" tar "$cache/$layer" | perl "$here/plain.pl" >"$work/blobs/$digest"
		fi
	fi
	layers="$layers${layers:+, }$(descriptor "$right" "$digest" "$size")"
	diffs="$diffs${diffs:+, }\"sha256:$diff\""
done <"$work/layers"
[ -n "$mended" ] || exit 1

described=$(printf '{"architecture": "any", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [%s]}}' "$diffs" | add_blob)
# shellcheck disable=SC2086 # digest and size
config=$(descriptor $oci.config.v1+json $described)
described=$(printf '{"schemaVersion": 2, "config": %s, "layers": [%s]}' "$config" "$layers" | add_blob)
"$bb" rm -rf "$layout/blobs"
"$bb" mkdir "$layout/blobs"
"$bb" mv "$work/blobs" "$layout/blobs/sha256"
# shellcheck disable=SC2086 # digest and size
printf '{"schemaVersion": 2, "manifests": [{"mediaType": "%s", "digest": "sha256:%s", "size": %d, "annotations": %s}]}\n' \
	$oci.manifest.v1+json $described '{"org.opencontainers.image.ref.name": "image"}' >"$layout/index.json"
"$bb" mv "$work/feeds" "$feeds"
"$bb" rm -rf "$work"
