#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2154
# Configures address, routes and DNS from a DHCP lease. Called by udhcpc with the event as $1 and the
# lease in variables (ip, mask, router, dns, search, domain, staticroutes …): see busybox's udhcpc.
bb=/busybox-lxd
set -f # a `*` in a lease must not become the names of files

# Addresses and names come from a server on the network: only what they may consist of is written anywhere.
clean() { printf '%s' "$*" | "$bb" tr -cd 'A-Za-z0-9._: \n-'; }

set_address() {
	if ! "$bb" ip -4 addr show dev "$interface" | "$bb" grep -qF " $ip/$mask "; then
		"$bb" ip -4 addr flush dev "$interface"
		if [ -n "${LXDOCKER_UDHCPC_NOPREFIXROUTE-}" ]; then
			"$bb" ip addr add "$ip/$mask" dev "$interface" noprefixroute
		else
			"$bb" ip addr add "$ip/$mask" ${broadcast:+broadcast "$broadcast"} dev "$interface"
		fi
	fi
	[ -z "${mtu-}" ] || "$bb" ip link set dev "$interface" mtu "$mtu"
}

set_routes() {
	[ -z "${UDHCPC_NO_DEFAULT_ROUTE-}" ] || return
	while "$bb" ip -4 route del default dev "$interface" 2>/dev/null; do :; done
	if [ -n "${staticroutes-}" ]; then # RFC 3442: where this is given, the router option is not used
		# shellcheck disable=SC2086 # pairs of destination and gateway
		set -- $staticroutes
		while [ $# -ge 2 ]; do
			if [ "$2" = 0.0.0.0 ]; then
				"$bb" ip -4 route replace "$1" dev "$interface"
			else
				"$bb" ip -4 route replace "$1" via "$2" dev "$interface"
			fi
			shift 2
		done
		return
	fi
	# The first interface is preferred; the kernel refuses two default routes of one metric.
	metric=0
	[ "$interface" = eth0 ] || metric=$("$bb" cat "/sys/class/net/$interface/ifindex")
	for gateway in ${router-}; do
		# A gateway outside the subnet (mask /32) needs a route to itself first.
		"$bb" ip -4 route add default via "$gateway" dev "$interface" metric "$metric" 2>/dev/null || {
			"$bb" ip -4 route replace "$gateway" dev "$interface"
			"$bb" ip -4 route add default via "$gateway" dev "$interface" metric "$metric"
		}
		metric=$((metric + 1))
	done
}

# What the resolver file is to hold: each interface's servers and domains are kept apart, here are those of all, each
# once. What the instance configuration says, it says alone.
resolver() (
	set +f
	set -- /dev/.lxd-dns/*
	[ ! -e /dev/.lxd-dns/static ] || set -- /dev/.lxd-dns/static
	# shellcheck disable=SC2016 # awk's own
	"$bb" awk '
		seen[$0]++ { next }
		$1 == "search" { domains = domains " " $2 }
		$1 == "nameserver" { servers = servers $0 "\n" }
		END { if (domains) print "search" domains; printf "%s", servers }' "$@"
)

write_resolver() {
	# A link there points to a resolver that does not run here.
	[ ! -L /etc/resolv.conf ] || "$bb" rm -f /etc/resolv.conf 2>/dev/null
	# Whole or not at all; where the file is a mount of its own only writing into it works.
	new=/etc/.resolv.conf.lxd.$$
	{ printf '%s\n' "$1" >"$new" && "$bb" mv -f "$new" /etc/resolv.conf; } 2>/dev/null || {
		"$bb" rm -f "$new" 2>/dev/null
		printf '%s\n' "$1" >/etc/resolv.conf
	} 2>/dev/null || {
		# On a read-only root the file itself can be covered; one that the user has mounted is theirs.
		! "$bb" grep -q " /etc/resolv.conf " /proc/self/mountinfo &&
			printf '%s\n' "$1" >/dev/.lxd-resolv.conf &&
			"$bb" mount -o bind /dev/.lxd-resolv.conf /etc/resolv.conf
	} 2>/dev/null || echo "lxdocker: /etc/resolv.conf can't be written; DNS is as the image has it"
}

set_dns() {
	[ -n "${dns-}" ] || return
	[ -z "${UDHCPC_NO_DNS-}" ] || [ "$interface" = static ] || return
	"$bb" mkdir -p /etc /dev/.lxd-dns 2>/dev/null
	{
		for domain in ${search:-${domain-}}; do echo "search $(clean "$domain")"; done
		for server in $dns; do echo "nameserver $(clean "$server")"; done
	} >"/dev/.lxd-dns/$interface"
	# Other interfaces may be at it, too: whoever writes last must have seen what the others got.
	seen=$(resolver)
	while
		content=$seen
		write_resolver "$content"
		seen=$(resolver)
		[ "$seen" != "$content" ]
	do :; done
}

case "${1-}" in
deconfig)
	"$bb" ip link set "$interface" up
	"$bb" ip -4 addr flush dev "$interface"
	;;
bound | renew)
	set_address
	set_routes
	set_dns
	;;
dns) set_dns ;; # from the instance configuration, without a lease
refresh) [ ! -d /dev/.lxd-dns ] || write_resolver "$(resolver)" ;; # nothing new, but perhaps it was hidden
esac
