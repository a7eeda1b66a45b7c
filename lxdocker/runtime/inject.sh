#!/bin/busybox sh
# shellcheck shell=dash
# inject.sh ROOT EPOCH: injects the runtime (a tar on stdin) into the unpacked image at ROOT, in the builder.
# Paths are resolved in a chroot, so they never lead outside the image. The only program that runs in the chroot is the
# busybox copied there first. Nothing of the image is executed.
set -eu
root=$1 epoch=$2
bb=/bin/busybox
marker=$root.marker

"$bb" rm -rf "$root/busybox-lxd"
"$bb" cp "$bb" "$root/busybox-lxd"
"$bb" chmod 755 "$root/busybox-lxd"
"$bb" rm -rf "$root/lxd-gosu"
"$bb" cp /usr/bin/gosu "$root/lxd-gosu"
"$bb" chmod 755 "$root/lxd-gosu"

# shellcheck disable=SC2016 # for the shell inside
"$bb" chroot "$root" /busybox-lxd sh -euc '
bb=/busybox-lxd

make_folder() { # replaces any existing file
	"$bb" rm -rf "$1"
	"$bb" mkdir "$1"
	"$bb" chmod 755 "$1"
}

# Regardless of the first layer, as under Docker: otherwise other users might not be able to run anything.
"$bb" chown 0:0 /
"$bb" chmod 755 /
"$bb" rm -rf /lxd-image /lxd-instance /lxd-lib /lxd-exec /lxd-health /lxd-log /.lxd-log /lxd-realinit /lxd-prelaunch \
	/lxd-lost /lxd-attributes \
	/lxd-udhcpc-default.script /lxd-udhcpc-default.script.real /.lxd-runtime
"$bb" mkdir /.lxd-runtime
"$bb" tar -xf - -C /.lxd-runtime
# LXD writes files in /etc from the host, where a link might lead anywhere. A linked folder in the image is therefore
# moved to /etc, and its old path becomes a link to it.
if [ -L /etc ]; then
	target=$("$bb" realpath /etc 2>&-) || target=
	"$bb" rm /etc
	if [ "${target:-/}" != / ] && [ -d "$target" ]; then
		"$bb" mv "$target" /etc
		"$bb" ln -s /etc "$target"
	fi
fi
[ -d /etc ] || make_folder /etc
# Mount points must be real folders, since LXD follows no links there.
for folder in dev proc sys; do [ -d "/$folder" ] && [ ! -L "/$folder" ] || make_folder "/$folder"; done
# LXD writes into these, so each must be a regular file without other hard links, which would change with it.
for file in hostname hosts resolv.conf; do
	[ -f "/etc/$file" ] && [ ! -L "/etc/$file" ] && [ "$("$bb" stat -c %h "/etc/$file")" = 1 ] ||
		"$bb" rm -rf "/etc/$file"
done
# On a read-only root, the resolver file needs a mount point.
[ -e /etc/resolv.conf ] || : >/etc/resolv.conf
# Docker creates these if they are missing. By the second one, some applications recognize that they run in a container.
[ -e /etc/mtab ] || [ -L /etc/mtab ] || "$bb" ln -s /proc/mounts /etc/mtab
[ -e /.dockerenv ] || [ -L /.dockerenv ] || {
	: >/.dockerenv
	"$bb" chmod 755 /.dockerenv
}
for file in /.lxd-runtime/*; do
	case "$file" in */init) ;; *) "$bb" mv "$file" / ;; esac
done
# /sbin may be a folder, a link (merged /usr) or absent; the target of a link may not exist yet.
if [ -L /sbin ] && [ ! -d /sbin ]; then
	(cd / && "$bb" mkdir -p "$("$bb" readlink /sbin)") || make_folder /sbin
elif [ ! -d /sbin ]; then
	make_folder /sbin
fi
# Mounts of LXD there would hide init.
case "$("$bb" realpath /sbin)/" in /dev/* | /proc/* | /sys/* | /.lxd-runtime/*) make_folder /sbin ;; esac
if [ -L /sbin/init ]; then
	target=$("$bb" readlink /sbin/init)
	# A relative link is relative to its folder, which it is about to leave.
	case "$target" in /*) ;; *) target=$("$bb" realpath /sbin)/$target ;; esac
	"$bb" rm /sbin/init
	"$bb" ln -s "$target" /lxd-realinit
elif [ -e /sbin/init ]; then
	"$bb" mv /sbin/init /lxd-realinit
fi
"$bb" mv /.lxd-runtime/init /sbin/init
"$bb" rmdir /.lxd-runtime
'

# Handles what unpacking lost (see unpack.sh). Device nodes that every instance may use are listed in ROOT.devices for
# mksquashfs to create. The rest goes to /lxd-lost, which init.sh reports.
# shellcheck disable=SC2016 # for the shell inside
if [ -s "$root.lost" ]; then "$bb" chroot "$root" /busybox-lxd sh -euc '
bb=/busybox-lxd
names_of() { # FILE: its path, or all paths of a hard-linked file
	[ "$("$bb" stat -c %h "$1")" = 1 ] && echo "$1" || "$bb" find / -xdev -inum "$("$bb" stat -c %i "$1")"
}

# Excludes RAM disks, which have the same device numbers, and names that mksquashfs does not accept.
can_be_made() { # NUMBER PATH
	case "$1 ${2##*/}" in *" ram"*) return 1 ;; 1:[35789]" "* | 5:[012]" "*) ;; *) return 1 ;; esac
	case "$2" in *[!A-Za-z0-9._/+-]*) return 1 ;; esac
}

make_device() { # NUMBER FILE
	time=$("$bb" stat -c %Y "${2%/*}/")
	"$bb" stat -c "${2#/} C %Y 0%a %u %g ${1%:*} ${1#*:}" "$2"
	"$bb" rm "$2"
	"$bb" touch -d "@$time" "${2%/*}/"
}

while read -r kind what path; do
	folder=$("$bb" realpath "/${path%"${path##*/}"}" 2>&-) || continue # removed by a later layer
	file=${folder%/}/${path##*/}
	[ -f "$file" ] && [ ! -L "$file" ] || continue
	case "$kind $what $file" in
	device*" /dev/"*) ;; # hidden in an instance
	device*)
		[ ! -s "$file" ] || continue
		names_of "$file" | while IFS= read -r name; do
			if can_be_made "$what" "$name"; then make_device "$what" "$name"; else echo "device $what $name" >>/lxd-lost; fi
		done
		;;
	# Specific to the filesystem on which the image was built; Docker does not keep them either.
	"attribute trusted."* | "attribute security.selinux"*) ;;
	*) echo "$kind $what $file" >>/lxd-lost ;;
	esac
done' <"$root.lost" >"$root.devices"; fi

# Filling a volume also copies extended attributes. busybox can't copy them, and few images have any.
attributes=/usr/lib/attributes
if [ -d "$attributes" ] && [ -n "$("$attributes/ld.so" --library-path "$attributes" "$attributes/getfattr" -RPh \
	-m '^user\.|^security\.capability$' "$root" 2>/dev/null | "$bb" head -c 1)" ]; then
	"$bb" cp -R "$attributes" "$root/lxd-attributes"
fi

# Unpacking and injecting leave current timestamps; the same inputs must give the same bytes on any day.
"$bb" find "$root" -xdev -newer "$marker" -exec "$bb" touch -h -d "@$epoch" {} +
