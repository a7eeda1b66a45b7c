#!/bin/busybox sh
# shellcheck shell=dash disable=SC2154
# PID 1 of a builder, and also the script that its DHCP client calls with an event as $1.
bb=/bin/busybox

case "${1-}" in
deconfig) "$bb" ip link set "$interface" up ;;
bound | renew)
	"$bb" ip -4 addr flush dev "$interface"
	"$bb" ip addr add "$ip/$mask" dev "$interface"
	for gateway in $router; do "$bb" ip route replace default via "$gateway" dev "$interface"; done
	for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf.new
	# Written atomically: the file signals that the network is up.
	"$bb" mv /etc/resolv.conf.new /etc/resolv.conf
	;;
leasefail | nak) ;;
*)
	"$bb" ip link set lo up
	[ ! -e /sys/class/net/eth0 ] || "$bb" udhcpc -b -t 5 -T 1 -i eth0 -s /sbin/init &
	trap 'exit 0' PWR TERM
	while :; do
		"$bb" sleep 86400 &
		wait $!
	done
	;;
esac
