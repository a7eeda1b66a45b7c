#!/bin/busybox sh
# shellcheck shell=dash
# connected.sh SECONDS WAY COMMAND…: runs COMMAND in a builder once its way to the image is there. The WAY is
#   lease       an address of the network's DHCP server, which PID 1 asks for
#   port:HEX    LXD's proxy to a registry on this host, which listens at that port
#   none        nothing that must be waited for
# Exit status 69 where it has not come within SECONDS.
set -eu
bb=/bin/busybox
seconds=$1 way=$2
shift 2

uptime() {
	read -r now _ </proc/uptime
	echo "${now%.*}"
}

is_there() {
	case $way in
	lease) [ -s /etc/resolv.conf ] ;;
	# In proc(5)'s tables: listening is state 0A, and no peer has port 0.
	port:*) "$bb" grep -qs ":${way#port:} 0*:0000 0A" /proc/net/tcp /proc/net/tcp6 ;;
	esac
}

end=$(($(uptime) + seconds))
until is_there; do
	[ "$(uptime)" -le "$end" ] || exit 69
	"$bb" usleep 20000
done
exec "$@"
