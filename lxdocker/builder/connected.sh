#!/bin/busybox sh
# shellcheck shell=dash
# connected.sh SECONDS WAY COMMAND…: runs COMMAND in a builder once the whole network route to the image is up. WAY is
# `none` if there is nothing to wait for, or a comma-separated list of:
#   lease       an address from the network's DHCP server, requested by PID 1
#   port:HEX    LXD's proxy to a service on this host, listening on that port
# Exit status 69 if the route is not up within SECONDS.
set -eu
bb=/bin/busybox
seconds=$1 way=$2
shift 2

uptime() {
	read -r now _ </proc/uptime
	echo "${now%.*}"
}

is_there() { # PART
	case $1 in
	lease) [ -s /etc/resolv.conf ] ;;
	# In proc(5)'s tables, 0A is the state of listening sockets, and 0 the port of a missing peer.
	port:*) "$bb" grep -qs ":${1#port:} 0*:0000 0A" /proc/net/tcp /proc/net/tcp6 ;;
	esac
}

end=$(($(uptime) + seconds))
while [ -n "$way" ]; do
	part=${way%%,*}
	until is_there "$part"; do
		[ "$(uptime)" -le "$end" ] || exit 69
		"$bb" usleep 20000
	done
	way=${way#"$part"} way=${way#,}
done
exec "$@"
