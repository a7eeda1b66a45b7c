#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# collect.sh OUT: creates OUT/rootfs.squashfs, the builder's root filesystem, from the system it runs in, and
# OUT/versions. The builder's init is read from stdin. The system needs Debian's skopeo, umoci, squashfs-tools, zstd,
# perl-base, busybox-static, gosu, attr and ca-certificates, unpacked but not configured; nothing else of it is used.
set -eu
out=$1
root=$out/rootfs
bb=/bin/busybox

find_tool() {
	for folder in /usr/bin /usr/sbin /bin /sbin; do
		[ -x "$folder/$1" ] && echo "$folder/$1" && return
	done
	echo "the base has no $1" >&2
	exit 1
}

find_loader() {
	for loader in /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.* /lib64/ld64.so.*; do
		[ -e "$loader" ] && echo "$loader" && return
	done
	echo "the base has no dynamic loader" >&2
	exit 1
}

"$bb" rm -rf "$out"
for folder in bin sbin usr/bin lib lib64 etc/containers etc/ssl/certs proc sys dev run root cache build; do
	"$bb" mkdir -p "$root/$folder"
done
"$bb" mkdir -m 1777 "$root/tmp" "$root/var" "$root/var/tmp"
"$bb" chmod 755 "$root/var"

loader=$(find_loader)
"$bb" cp -L "$loader" "$root$loader"
skopeo=$(find_tool skopeo) umoci=$(find_tool umoci) mksquashfs=$(find_tool mksquashfs) gosu=$(find_tool gosu)
zstd=$(find_tool zstd) perl=$(find_tool perl) unsquashfs=$(find_tool unsquashfs)
"$bb" cp "$bb" "$root/bin/busybox"
"$bb" ln -s busybox "$root/bin/sh"
"$bb" cp "$gosu" "$root/usr/bin/gosu"
for program in "$skopeo" "$umoci" "$mksquashfs" "$unsquashfs" "$zstd" "$perl"; do
	"$bb" cp "$program" "$root/usr/bin/"
	"$loader" --list "$program" | while read -r _ arrow path _; do
		if [ "$arrow" = "=>" ] && [ ! -e "$root$path" ]; then
			"$bb" mkdir -p "$root${path%/*}"
			"$bb" cp -L "$path" "$root$path"
		fi
	done
done
# For images with extended attributes, which busybox can't copy, and for listing these.
attributes=$root/usr/lib/attributes
"$bb" mkdir -p "$attributes"
"$bb" cp -L "$loader" "$attributes/ld.so"
for name in getfattr setfattr; do
	program=$(find_tool "$name")
	"$bb" cp "$program" "$attributes/"
	"$loader" --list "$program" | while read -r library arrow path _; do
		[ "$arrow" != "=>" ] || "$bb" cp -L "$path" "$attributes/$library"
	done
done
# Not linked, but loaded by name when a thread of mksquashfs ends.
for library in /usr/lib/*/libgcc_s.so.1 /lib/*/libgcc_s.so.1; do
	if [ -e "$library" ] && [ ! -e "$root/usr/lib/libgcc_s.so.1" ]; then
		"$bb" mkdir -p "$root/usr/lib"
		"$bb" cp -L "$library" "$root/usr/lib/libgcc_s.so.1"
	fi
done

# From the package's own files, since its bundle is only created when the package is configured.
"$bb" find /usr/share/ca-certificates/mozilla -name '*.crt' | "$bb" sort | while read -r certificate; do
	"$bb" cat "$certificate"
	echo
done >"$root/etc/ssl/certs/ca-certificates.crt"
[ -s "$root/etc/ssl/certs/ca-certificates.crt" ] || { echo "the base has no CA certificates" >&2; exit 1; }

echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$root/etc/containers/policy.json"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
"$bb" cat >"$root/sbin/init"
"$bb" chmod 755 "$root/sbin/init"

{
	echo "skopeo=$("$skopeo" --version | "$bb" awk '{ print $3; exit }')"
	echo "umoci=$("$umoci" --version | "$bb" awk '{ print $3; exit }')"
	echo "mksquashfs=$("$mksquashfs" -version | "$bb" awk '{ print $3; exit }')"
	echo "attr=$("$program" --version | "$bb" awk '{ print $2; exit }')"
	echo "busybox=$("$bb" 2>&1 | "$bb" awk '{ print $2; exit }')"
	echo "zstd=$("$zstd" --version | "$bb" sed 's/.* v\([0-9.]*\),.*/\1/')"
	echo "perl=$("$perl" -e 'printf "%vd", $^V')"
	echo "gosu=$("$gosu" --version | "$bb" awk '{ print $1; exit }')"
	echo "busybox_sha256=$("$bb" sha256sum "$bb" | "$bb" cut -d' ' -f1)"
} >"$out/versions"

"$mksquashfs" "$root" "$out/rootfs.squashfs" -noappend -comp zstd -Xcompression-level 3 -all-root -no-progress -quiet -no-xattrs
"$bb" rm -rf "$root"
