#!/bin/sh
# shellcheck shell=dash
# install.sh SECONDS PACKAGE…: installs Debian packages in a base image that has just started, using its own shell.
# Exit status 69 if its network is not up after SECONDS.
set -eu
seconds=$1
shift
tab=$(printf '\t')

# Read from the kernel (proc(5)), since not every base has `ip`.
has_default_route() {
	grep -qs "^[^$tab]*${tab}00000000$tab" /proc/net/route ||
		grep -qsE '^0{32} 00 0{32} 00 [0-9a-f]*[1-9a-f]' /proc/net/ipv6_route
}

i=0
until has_default_route; do
	i=$((i + 1))
	[ "$i" -le "$seconds" ] || exit 69
	sleep 1
done
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "$@"
