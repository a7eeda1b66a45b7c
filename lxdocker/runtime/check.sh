#!/bin/busybox sh
# shellcheck shell=dash
# check.sh ROOT: checks whether LXD can launch the image at ROOT, after the runtime was injected. It checks every path
# of a root that LXD reads, writes or mounts over. Problems are printed on stderr, one per line, with exit status 74.
# Paths are resolved inside the image only, as in inject.sh.
set -eu

# shellcheck disable=SC2016 # for the shell inside
exec /bin/busybox chroot "$1" /busybox-lxd sh -euc '
status=0

wrong() { # PATH WHY
	if [ -L "$1" ]; then what="a link"; elif [ -d "$1" ]; then what="a folder"; elif [ -f "$1" ]; then what="a file"
	elif [ -e "$1" ]; then what="a special file"; else what=missing; fi
	echo "$1 is $what: $2" >&2
	status=74
}

is_file() { [ -f "$1" ] && [ ! -L "$1" ]; }
is_absent() { [ ! -e "$1" ] && [ ! -L "$1" ]; }

# LXD keeps files of these names beside the root, but also looks for them in the root.
for file in /metadata.yaml /backup.yaml; do
	is_file "$file" || is_absent "$file" ||
		wrong "$file" "LXD (5.0.9, 5.21.7, 6.9 with its security fixes, and later) launches no image with anything but a regular file of that name"
done
for file in /etc/hostname /etc/hosts /lxd-instance /lxd-prelaunch; do
	is_file "$file" || is_absent "$file" || wrong "$file" "LXD writes a file there when it launches an instance"
done
is_file /etc/resolv.conf || wrong /etc/resolv.conf "it has to be a regular file, for the name servers"
for folder in /dev /etc /proc /sys; do
	[ -d "$folder" ] && [ ! -L "$folder" ] || wrong "$folder" "LXD needs a folder there, and follows no link"
done
init=$(/busybox-lxd realpath /sbin/init 2>&-) || init=
case "$init" in
/dev/* | /proc/* | /sys/*) wrong /sbin/init "it is below a folder that LXD mounts on, and cannot be run" ;;
*) [ -f "$init" ] && [ -x "$init" ] || wrong /sbin/init "LXD runs it as the first process, and cannot" ;;
esac
exit "$status"
'
