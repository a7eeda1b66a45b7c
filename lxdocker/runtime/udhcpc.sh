#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2154
# Configures address, routes and DNS from a DHCP lease. udhcpc calls it with the event as $1 and the lease in variables
# (ip, mask, router, dns, search, domain, staticroutes …): see busybox's udhcpc.
_bb=/busybox-lxd
_lib=/lxd-lib
bb=$_bb
exec 2>&1 # the client's stderr is discarded
say() { printf 'lxdocker: %s\n' "$*"; }
# shellcheck source=/dev/null
. "$_lib/interfaces.sh"
set -f # a `*` in a lease must not expand to file names
family=${family:-4}
[ -d "$_net" ] || "$bb" mkdir -p -m 700 "$_net"

# Addresses and names come from a server on the network, so only valid characters are written anywhere.
# Sets cleaned, usually without starting a process.
clean() {
	cleaned=$1
	case "$1" in *[!A-Za-z0-9._:-]*) cleaned=$(printf '%s' "$1" | "$bb" tr -cd 'A-Za-z0-9._:-') ;; esac
}

# Reads the last lease of this address family.
read_lease() {
	held=''
	expiry=''
	[ -s "$_net/address$family.$interface" ] && read -r held expiry <"$_net/address$family.$interface"
	[ -n "$expiry" ] || held=
}

drop_lease() {
	read_lease
	[ -n "$held" ] || return
	"$bb" ip "-$family" addr del "$held" dev "$interface" 2>/dev/null
	: >"$_net/address$family.$interface"
}

# set_address ADDRESS/PREFIX [WORD...]
set_address() {
	read_lease
	if [ "$held" != "$1" ]; then
		drop_lease
	elif "$bb" ip "-$family" addr show dev "$interface" | "$bb" grep -qF " $1 "; then
		held=same
	fi
	if [ "$held" != same ]; then
		address=$1
		shift
		"$bb" ip "-$family" addr replace "$address" "$@" dev "$interface" || return
		set -- "$address"
	fi
	read_uptime
	echo "$1 $((_now / 100 + ${lease:-3600}))" >"$_net/address$family.$interface"
}

set_address4() {
	if [ -n "${LXDOCKER_UDHCPC_NOPREFIXROUTE-}" ]; then
		set_address "$ip/$mask" noprefixroute
	else
		set_address "$ip/$mask" ${broadcast:+broadcast "$broadcast"}
	fi
	[ -z "${mtu-}" ] || "$bb" ip link set dev "$interface" mtu "$mtu"
}

# Routes that are already there stay, and others go only when the new ones are there, so that no connection is refused
# meanwhile.
set_routes() {
	[ -z "${UDHCPC_NO_DEFAULT_ROUTE-}" ] || return
	read_default_routes
	# The first interface is preferred; the kernel refuses two default routes with the same metric.
	metric=0
	[ "$interface" = eth0 ] || metric=$("$bb" cat "/sys/class/net/$interface/ifindex")
	first=$metric
	if [ -n "${staticroutes-}" ]; then # RFC 3442: if given, the router option is ignored
		# shellcheck disable=SC2086 # pairs of destination and gateway
		set -- $staticroutes
		while [ $# -ge 2 ]; do
			case "$1 $2" in
			'0.0.0.0/0 0.0.0.0') set_default_route '' ;;
			'0.0.0.0/0 '*) set_default_route "$2" ;;
			*' 0.0.0.0') "$bb" ip -4 route replace "$1" dev "$interface" ;;
			*) "$bb" ip -4 route replace "$1" via "$2" dev "$interface" ;;
			esac
			shift 2
		done
	else
		for gateway in ${router-}; do set_default_route "$gateway"; done
	fi
	for old in $former; do
		old=${old%%=*}
		if [ "$old" -lt "$first" ] || [ "$old" -ge "$metric" ]; then
			"$bb" ip -4 route del default dev "$interface" metric "$old" 2>/dev/null
		fi
	done
}

# Sets former to the interface's default routes, as METRIC=GATEWAY. Starts no process if there are none, as at the first
# lease.
read_default_routes() {
	former=
	has_default_route || return
	# shellcheck disable=SC2016 # awk's own
	former=$("$bb" ip -4 route | "$bb" awk -v interface="$interface" '
		$1 == "default" {
			split("", of)
			for (i = 2; i < NF; i += 2) of[$i] = $(i + 1)
			if (of["dev"] == interface) printf " %d=%s ", of["metric"], of["via"]
		}')
}

# set_default_route GATEWAY: sets the route with the next metric. Without a gateway, the link leads everywhere.
set_default_route() {
	change=add
	case "$former" in *" $metric=$1 "*) change= ;; *" $metric="*) change=replace ;; esac
	if [ -n "$change" ]; then
		"$bb" ip -4 route "$change" default ${1:+via "$1"} dev "$interface" metric "$metric" 2>/dev/null || [ -z "$1" ] || {
			# A gateway outside the subnet (mask /32) first needs a route of its own.
			"$bb" ip -4 route replace "$1" dev "$interface"
			"$bb" ip -4 route "$change" default via "$1" dev "$interface" metric "$metric"
		}
	fi
	metric=$((metric + 1))
}

# /proc/net/route: name, destination.
has_default_route() {
	while read -r name destination _; do
		[ "$name" = "$interface" ] && [ "$destination" = 00000000 ] && return 0
	done </proc/net/route
	return 1
}

# Prints the resolver file: the servers and domains of all interfaces, which are stored separately, without duplicates.
# Settings from the instance configuration replace all others.
resolver() (
	set +f
	set -- /dev/.lxd-dns/*
	# With IPv4, its servers are sufficient, so those of IPv6 are omitted.
	[ -e "$1" ] || set -- /dev/.lxd-dns6/*
	[ ! -e /dev/.lxd-dns/static ] || set -- /dev/.lxd-dns/static
	# shellcheck disable=SC2016 # awk's own
	"$bb" awk '
		seen[$0]++ { next }
		$1 == "search" { domains = domains " " $2 }
		$1 == "nameserver" { servers = servers $0 "\n" }
		END { if (domains) print "search" domains; printf "%s", servers }' "$@"
)

write_resolver() {
	# A link points to a resolver that does not run here.
	[ ! -L /etc/resolv.conf ] || "$bb" rm -f /etc/resolv.conf 2>/dev/null
	# Atomic if possible; a mounted file can only be written in place.
	new=/etc/.resolv.conf.lxd.$$
	{ printf '%s\n' "$1" >"$new" && "$bb" mv -f "$new" /etc/resolv.conf; } 2>/dev/null || {
		"$bb" rm -f "$new" 2>/dev/null
		printf '%s\n' "$1" >/etc/resolv.conf
	} 2>/dev/null || {
		# On a read-only root, a file can be mounted over it, unless the user has mounted one.
		! "$bb" grep -q " /etc/resolv.conf " /proc/self/mountinfo &&
			printf '%s\n' "$1" >/dev/.lxd-resolv.conf &&
			"$bb" mount -o bind /dev/.lxd-resolv.conf /etc/resolv.conf
	} 2>/dev/null || echo "lxdocker: /etc/resolv.conf can't be written; DNS is as the image has it"
}

set_dns() {
	[ -n "${dns-}" ] || return
	[ -z "${UDHCPC_NO_DNS-}" ] || [ "$interface" = static ] || return
	servers=/dev/.lxd-dns
	[ "$family" = 4 ] || servers=/dev/.lxd-dns6
	"$bb" mkdir -p /etc "$servers" 2>/dev/null
	{
		for domain in ${search:-${domain-}}; do
			clean "$domain"
			echo "search $cleaned"
		done
		for server in $dns; do
			clean "$server"
			! is_ipv6 "$cleaned" || { shorten_ipv6 "$cleaned" && cleaned=$_short; }
			echo "nameserver $cleaned"
		done
	} >"$servers/$interface"
	# Other interfaces may be writing, too: repeats until the content includes their results.
	seen=$(resolver)
	while
		content=$seen
		write_resolver "$content"
		seen=$(resolver)
		[ "$seen" != "$content" ]
	do :; done
}

# Sets stage to the client's state: `started`, `going`, or `nak` if the server refused the lease. Empty if no keeper
# started the client.
read_stage() {
	stage=
	{ read -r stage <"$_net/stage$family.$interface"; } 2>/dev/null
}

# has_expired [SECONDS]: whether the lease has expired, or will within SECONDS.
has_expired() {
	read_lease
	read_uptime
	[ -n "$held" ] && [ $((_now / 100 + ${1:-0})) -ge "$expiry" ]
}

announce() {
	set +f
	write_own_name
	rouse
}

case "${1-}" in
deconfig)
	if [ -e "$_net/stopping" ]; then
		: >"$_net/address$family.$interface" # the instance is stopping; nothing else matters
		rouse
		exit
	fi
	read_stage
	if [ "$stage" = started ]; then
		echo going >"$_net/stage$family.$interface" # keeps the address of an earlier client
	elif [ "$stage" = going ] && ! has_expired 5 && [ -n "$held" ]; then
		# The client was told to release its lease (`kill -USR2 -1`) and would then do nothing more. It is killed, and
		# the next client asks for the same address again.
		kill -KILL "$PPID"
	else
		drop_lease
		announce
	fi
	is_up "$interface" || "$bb" ip link set "$interface" up
	;;
leasefail)
	# A restarted client keeps the address of the previous one, but only until the lease expires.
	if has_expired; then
		drop_lease
		announce
	fi
	;;
bound | renew)
	if [ "$family" = 4 ]; then
		set_address4
		set_routes
	elif is_ipv6 "${ipv6-}"; then
		shorten_ipv6 "$ipv6"
		set_address "$_short/128"
	fi
	set_dns
	read_stage
	[ "$stage" != nak ] || echo going >"$_net/stage$family.$interface"
	echo yes >"$_net/settled$family.$interface"
	announce
	;;
nak)
	read_stage
	[ -z "$stage" ] || echo nak >"$_net/stage$family.$interface"
	# udhcpc6 would keep asking a server without addresses every few seconds.
	read_lease
	[ "$family" = 4 ] || [ -n "$held" ] || kill "$PPID"
	;;
dns) set_dns ;; # settings from the instance configuration, without a lease
refresh) # rewrites the files, since a mount may have hidden them
	if [ -d /dev/.lxd-dns ] || [ -d /dev/.lxd-dns6 ]; then write_resolver "$(resolver)"; fi
	: >"$_net/own"
	set +f
	write_own_name
	;;
esac
