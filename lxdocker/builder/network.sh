#!/bin/busybox sh
# shellcheck shell=dash disable=SC2016
# network.sh HOLDER: gives the builder's network interface to a network namespace of its own, and writes the process that
# holds that to the file HOLDER. The builder's loopback, where LXD's proxies to this host listen, is not in it: commands
# of an image, which run there, must not reach a registry that trusts whoever comes from its own host.
set -eu
bb=/bin/busybox
holder=$1
[ ! -e "$holder" ] || exit 0
address=$("$bb" ip -o -4 addr show dev eth0 | "$bb" awk '{ print $4; exit }')
gateway=$("$bb" ip -4 route show | "$bb" awk '$1 == "default" { print $3; exit }')
"$bb" unshare -n "$bb" sleep 604800 </dev/null >/dev/null 2>&1 &
pid=$!
ours=$("$bb" readlink /proc/self/ns/net)
for _ in 1 2 3 4 5 6 7 8 9 10; do
	[ "$("$bb" readlink "/proc/$pid/ns/net")" = "$ours" ] || break
	"$bb" usleep 50000
done
"$bb" ip link set eth0 netns "$pid"
"$bb" nsenter -t "$pid" -n "$bb" sh -euc '
bb=/bin/busybox
"$bb" ip link set lo up
"$bb" ip link set eth0 up
"$bb" ip addr add "$1" dev eth0
[ -z "$2" ] || "$bb" ip route add default via "$2"
' network "$address" "$gateway"
echo "$pid" >"$holder"
