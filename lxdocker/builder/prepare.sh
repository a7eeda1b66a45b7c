#!/bin/busybox sh
# shellcheck shell=dash
# prepare.sh ROOT MADE [secrets]: prepares the unpacked image at ROOT for run.pl, and adds to the list MADE what it makes
# there for the time of the commands, which restore.pl removes. With `secrets`, there is a folder for these.
# Paths are resolved in a chroot, in which no program of the image runs.
set -eu
root=$1 made=$2 secrets=${3-}
bb=/bin/busybox

"$bb" rm -rf "$root/busybox-lxd" "$root/lxd-gosu"
"$bb" cp "$bb" "$root/busybox-lxd"
"$bb" cp /usr/bin/gosu "$root/lxd-gosu"
"$bb" chmod 755 "$root/busybox-lxd" "$root/lxd-gosu"

# shellcheck disable=SC2016 # for the shell inside
exec "$bb" chroot "$root" /busybox-lxd sh -euc '
bb=/busybox-lxd
secrets=$1

make_folder() { # unless there is one
	[ -d "$1" ] && [ ! -L "$1" ] || {
		"$bb" rm -rf "$1"
		"$bb" mkdir "$1"
		"$bb" chmod 755 "$1"
	}
}

for folder in dev proc sys; do make_folder "/$folder"; done
# Not somewhere below what will be mounted.
case "$("$bb" realpath /etc 2>&-)/" in
/ | // | /dev/* | /proc/* | /sys/*) make_folder /etc ;;
esac
for file in hosts resolv.conf; do
	[ -f "/etc/$file" ] && [ ! -L "/etc/$file" ] || {
		"$bb" rm -rf "/etc/$file"
		: >"/etc/$file"
		echo "file /etc/$file"
	}
done
# A link to the root would have secrets written into the image, since nothing can be mounted there.
[ -z "$secrets" ] || for folder in /run /run/secrets; do
	case "$("$bb" realpath "$folder" 2>&-)/" in
	/ | // | /dev/* | /proc/* | /sys/*) "$bb" rm -rf "$folder" ;;
	esac
	[ "$folder" = /run ] || [ ! -L "$folder" ] || "$bb" rm "$folder"
	[ -d "$folder" ] || {
		"$bb" rm -rf "$folder"
		"$bb" mkdir "$folder"
		"$bb" chmod 755 "$folder"
		echo "folder $folder"
	}
done
' prepare "$secrets" >>"$made"
