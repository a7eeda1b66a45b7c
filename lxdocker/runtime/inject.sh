#!/bin/busybox sh
# shellcheck shell=dash
# inject.sh ROOT EPOCH: puts the runtime (a tar on stdin) into the unpacked image at ROOT, in the builder.
# Every path is followed inside the image only, because it is followed in a chroot there; the one program that
# runs in it is the busybox put there first. Nothing of the image is executed.
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
"$bb" rm -rf /lxd-image /lxd-instance /lxd-lib /lxd-health /lxd-realinit /lxd-prelaunch \
	/lxd-udhcpc-default.script /lxd-udhcpc-default.script.real /.lxd-runtime
"$bb" mkdir /.lxd-runtime
"$bb" tar -xf - -C /.lxd-runtime
# /sbin may be a folder, a link (merged /usr) or absent; a link may lead nowhere yet.
if [ -L /sbin ] && [ ! -d /sbin ]; then
	(cd / && "$bb" mkdir -p "$("$bb" readlink /sbin)") || { "$bb" rm /sbin && "$bb" mkdir /sbin; }
elif [ ! -d /sbin ]; then
	"$bb" rm -f /sbin
	"$bb" mkdir /sbin
	"$bb" chmod 755 /sbin
fi
if [ -L /sbin/init ]; then
	target=$("$bb" readlink /sbin/init)
	# A relative link counts from its folder, which it is about to leave.
	case "$target" in /*) ;; *) target=$("$bb" realpath /sbin)/$target ;; esac
	"$bb" rm /sbin/init
	"$bb" ln -s "$target" /lxd-realinit
elif [ -e /sbin/init ]; then
	"$bb" mv /sbin/init /lxd-realinit
fi
"$bb" mv /.lxd-runtime/init /sbin/init
for file in /.lxd-runtime/*; do "$bb" mv "$file" /; done
"$bb" rmdir /.lxd-runtime
# LXD writes files in /etc from the host, so it must be no link, which might lead anywhere there: what it led to in the
# image takes its place, and is still found where it was.
if [ -L /etc ]; then
	target=$("$bb" realpath /etc 2>&-) || target=
	"$bb" rm /etc
	if [ "${target:-/}" != / ] && [ -d "$target" ]; then
		"$bb" mv "$target" /etc
		"$bb" ln -s /etc "$target"
	fi
fi
# LXD writes these from templates: what they are put into must be there, and be a file.
[ -d /etc ] || { "$bb" rm -f /etc; "$bb" mkdir /etc; "$bb" chmod 755 /etc; }
# What is mounted on must be a folder itself: LXD follows no link there.
for folder in dev proc sys; do [ -d "/$folder" ] && [ ! -L "/$folder" ] || { "$bb" rm -rf "/$folder"; "$bb" mkdir "/$folder"; "$bb" chmod 755 "/$folder"; }; done
for file in hostname hosts resolv.conf; do [ ! -L "/etc/$file" ] || "$bb" rm "/etc/$file"; done
# On a read-only root there must be something to mount the resolver file on.
[ -e /etc/resolv.conf ] || : >/etc/resolv.conf
'

# What unpacking and injecting made carries the clock; the same inputs must give the same bytes on any day.
"$bb" find "$root" -xdev -newer "$marker" -exec "$bb" touch -h -d "@$epoch" {} +
