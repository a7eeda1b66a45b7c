# shellcheck shell=dash disable=SC2154,SC3045
# (SC3045: busybox's read has -t and -d.)
# The network: interfaces configured by LXD stay unchanged, those in user.lxdocker.network get their addresses, and all
# others use DHCP. The kernel itself sets IPv6 routes, and most addresses, from router advertisements.
# shellcheck source=/dev/null
. "$_lib/interfaces.sh"
_longest_wait=300 # hundredths of a second
_wait_beside_ipv6=100 # for DHCP if IPv6 is already configured

start_network() {
	read_uptime
	_network_began=$_now
	"$_bb" mkdir -p -m 700 "$_net" "$_helpers"
	read_knobs
	_static=
	[ -z "${_network-}" ] || read_static_entries
	_addresses=$("$_bb" ip -o addr)
	_awaited=
	for _path in /sys/class/net/*; do
		is_ethernet "${_path##*/}" || continue
		configure_interface "${_path##*/}"
	done
	# Sleeps in the kernel until an interface is added.
	start_helper uevent
	"$_bb" mkfifo -m 600 "$_net/ready"
	"$_bb" ip link set lo up
	[ -z "${_dns-}" ] || set_static_dns
}

# Returns when every interface has an address, or after 3 s: the application then starts anyway, and the address may
# arrive later.
await_network() {
	# Opened before the first check, so that later changes wake it.
	exec 8<>"$_net/ready"
	while
		find_missing
		[ -n "$_missing" ] && [ "$_patience" -gt 0 ]
	do
		read -r -t "$((_patience / 100)).$((_patience % 100 / 10))$((_patience % 10))" _ <&8
	done
	exec 8>&-
	[ -z "$_missing" ] || say "no address yet on$_missing; starting anyway"
	# A tmpfs on /etc may have been filled before a lease arrived, and mounted afterwards.
	case "${_tmpfs_on-} " in *" /etc "*) "$_bb" sh /lxd-udhcpc-default.script.real refresh ;; esac
	write_own_name
}

# Starts wanted helpers that are not running. PID 1 calls it whenever a process ends, so it must be cheap. Runs in a trap:
# see supervise.sh.
ensure_network_helpers() {
	for _file in "$_net"/keep.*; do
		_pid='' _since=''
		{ read -r _pid _since <"$_file"; } 2>/dev/null
		case $_since in '') continue ;; esac # it is just being written
		read_start "$_pid"
		case $_start in "$_since") continue ;; esac
		"$_bb" rm -f "$_helpers/$_pid"
		start_helper "${_file##*/keep.}"
	done
}

# Releases the leases when the instance stops. Takes a tenth of a second at most.
release_network() {
	[ -p "$_net/ready" ] || return 0
	: >"$_net/stopping"
	exec 8<>"$_net/ready"
	for _file in /dev/.lxd-udhcpc.* /dev/.lxd-udhcpc6.*; do
		[ -s "$_file" ] && read -r _pid <"$_file" && is_client "$_pid" && kill -USR2 "$_pid" 2>/dev/null
	done
	_patience=5
	while [ "$_patience" -gt 0 ] && has_lease; do
		read -r -t 0.02 _ <&8
		_patience=$((_patience - 1))
	done
	exec 8>&-
}

has_lease() {
	for _file in "$_net"/address[46].*; do
		_expiry=
		[ -s "$_file" ] && read -r _ _expiry <"$_file"
		[ -z "$_expiry" ] || return 0
	done
	return 1
}

# ---- helpers

# start_helper NAME: dhcp4.IFACE, dhcp6.IFACE or uevent. Of the image's and the instance's environment, it receives only
# the three variables meant for it.
start_helper() {
	# shellcheck disable=SC2086 # words
	"$_bb" env -i $_knobs "$_bb" setsid "$_bb" sh "$_lib/keep.sh" "$1" </dev/null 3>&- 4<&- &
	note_helper "$1" $!
}

# is_helper PID START: whether PID is still the recorded process.
is_helper() { read_start "$1" && [ "$_start" = "$2" ]; }

# Reads PID 1's initial environment, which comes from LXD; later it may be the application's.
read_knobs() {
	_knobs=
	while IFS= read -r -d '' _entry; do
		case "$_entry" in
		LXDOCKER_UDHCPC_NOPREFIXROUTE=?* | UDHCPC_NO_DEFAULT_ROUTE=?* | UDHCPC_NO_DNS=?*)
			_knobs="$_knobs ${_entry%%=*}=1"
			;;
		esac
	done </proc/1/environ
	echo "$_knobs" >"$_net/knobs"
}

# ---- interfaces

# Whether the interface leads to LXD or a cable, and was not created by an application.
is_ethernet() {
	_type=
	[ "$1" != lo ] && [ -r "/sys/class/net/$1/type" ] && read -r _type <"/sys/class/net/$1/type"
	[ "$_type" = 1 ] || return 1
	for _mark in bridge brport master tun_flags; do
		[ ! -e "/sys/class/net/$1/$_mark" ] || return 1
	done
}

configure_interface() {
	_awaited="${_awaited-} $1"
	if has_static_entry "$1"; then
		set_static_addresses "$1"
	elif note_addresses "$1"; then
		: # configured by LXD (nictype=routed, ipvlan, raw.lxc) or others: stays unchanged
	else
		prepare_ipv6 "$1"
		start_helper "dhcp4.$1"
		_ipv6=1
		{ read -r _ipv6 <"/proc/sys/net/ipv6/conf/$1/disable_ipv6"; } 2>/dev/null
		[ "$_ipv6" != 0 ] || start_helper "dhcp6.$1"
	fi
}

# Cleans up after a removed interface.
forget_interface() {
	for _file in "$_net/keep.dhcp4.$1" "$_net/keep.dhcp6.$1" "/dev/.lxd-udhcpc.$1" "/dev/.lxd-udhcpc6.$1"; do
		_pid='' _since=''
		[ -s "$_file" ] && read -r _pid _since <"$_file"
		# The keeper first, since it would restart the client.
		"$_bb" rm -f "$_file"
		if [ -n "$_pid" ] && { is_client "$_pid" || is_helper "$_pid" "$_since"; }; then
			kill -KILL "$_pid" 2>/dev/null
			"$_bb" rm -f "$_helpers/$_pid"
		fi
	done
	"$_bb" rm -f "$_net/address4.$1" "$_net/address6.$1" "$_net/slaac.$1" "$_net/settled4.$1" "$_net/settled6.$1"
	# Its name servers can't be reached any more.
	if [ -e "/dev/.lxd-dns/$1" ] || [ -e "/dev/.lxd-dns6/$1" ]; then
		"$_bb" rm -f "/dev/.lxd-dns/$1" "/dev/.lxd-dns6/$1"
		"$_bb" env -i "$_bb" sh /lxd-udhcpc-default.script.real refresh
	fi
}

# Records the addresses of the interface; fails if it has only automatic ones.
note_addresses() {
	_found=
	while read -r _ _name _family _address _more; do
		[ "$_name" = "$1" ] || continue
		case "$_family $_more " in
		*"scope link"* | *dynamic*) ;;
		'inet '*) note_address 4 "$1" "$_address" ;;
		'inet6 '*) note_address 6 "$1" "$_address" ;;
		esac
	done <<-ADDRESSES
		$_addresses
	ADDRESSES
	[ -n "$_found" ]
}

# note_address FAMILY IFACE ADDRESS: only the first one is recorded.
note_address() {
	_found=yes
	[ -s "$_net/address$1.$2" ] || echo "$3" >"$_net/address$1.$2"
	echo yes >"$_net/settled4.$2"
}

# As under Docker, an address can be used at once: duplicate detection takes 2 s, twice. If the kernel has already
# started it for an address, the address is recreated.
prepare_ipv6() {
	accept_routers "$1"
	! skip_duplicate_detection "$1" || restart_ipv6 "$1"
}

# By default, the kernel ignores routers' advertisements once an application forwards.
accept_routers() {
	_accepts=
	{
		read -r _accepts <"/proc/sys/net/ipv6/conf/$1/accept_ra" # fails, since the kernel gives the first byte only
		[ "$_accepts" != 1 ] || echo 2 >"/proc/sys/net/ipv6/conf/$1/accept_ra"
	} 2>/dev/null
}

# Changes only the kernel's default; any other value was set on purpose.
skip_duplicate_detection() {
	_dad=
	[ -w "/proc/sys/net/ipv6/conf/$1/accept_dad" ] && read -r _dad <"/proc/sys/net/ipv6/conf/$1/accept_dad"
	[ "$_dad" = 0 ] || { [ "$_dad" = 1 ] && echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_dad"; }
}

# Sets missing to the interfaces to wait for, and patience to the remaining time: for an address by DHCP, which gets
# less time once IPv6 is complete, or for a static one until it can be used.
find_missing() {
	_missing=
	read_uptime
	_patience=$((_longest_wait + _network_began - _now))
	for _interface in $_awaited; do
		if has_static_entry "$_interface"; then
			is_tentative "$_interface" || continue
			[ "$_patience" -le 5 ] || _patience=5 # nothing signals this change
		elif [ -s "$_net/settled4.$_interface" ] &&
			{ [ -s "$_net/address4.$_interface" ] || [ -s "$_net/address6.$_interface" ]; }; then
			continue
		elif [ -s "$_net/settled6.$_interface" ]; then
			_left=$((_wait_beside_ipv6 + _network_began - _now))
			[ "$_left" -gt 0 ] || continue
			[ "$_patience" -le "$_left" ] || _patience=$_left
		fi
		_missing="$_missing $_interface"
	done
}

# ---- settings of the instance

# user.lxdocker.network: "INTERFACE ADDRESS/PREFIX [GATEWAY]", with entries separated by semicolons. Sets static to the
# usable entries, and reports why others are not.
read_static_entries() {
	set -f
	_rest="$_network;"
	while [ -n "$_rest" ]; do
		_entry=${_rest%%;*}
		_rest=${_rest#*;}
		# shellcheck disable=SC2086 # words
		set -- $_entry
		[ $# -eq 0 ] || read_static_entry "$@"
	done
	set +f
	printf '%s\n' "$_static" >"$_net/static"
}

read_static_entry() {
	_entry=$*
	if is_address_with_prefix "$1"; then
		refuse_entry "it must begin with an interface, such as eth0 $1"
	elif [ $# -lt 2 ]; then
		refuse_entry "it needs an interface and an address, such as eth0 10.0.0.5/24"
	elif ! is_address_with_prefix "$2"; then
		case "$2" in
		*/*) refuse_entry "$2 is not an address with a prefix, such as 10.0.0.5/24 or fd42::5/64" ;;
		*) refuse_entry "$2 needs a prefix length, such as 10.0.0.5/24 or fd42::5/64" ;;
		esac
	else
		_gateway=${3-}
		if [ -n "$_gateway" ] && ! is_gateway_for "$2" "$_gateway"; then
			say "user.lxdocker.network: '$_entry': $_gateway is not a gateway for $2; continuing without one"
			_gateway=
		fi
		[ $# -le 3 ] || say "user.lxdocker.network: '$_entry': what follows the gateway is ignored"
		if [ ! -e "/sys/class/net/$1" ]; then
			say "user.lxdocker.network: '$_entry': no interface $1 (found:$(list_interfaces)); it gets the address when it is added"
		elif ! is_ethernet "$1"; then
			refuse_entry "$1 is not an Ethernet interface"
			return
		fi
		_static="$_static$_newline$1 $2 $_gateway"
	fi
}

# Prints a blank before each.
list_interfaces() (
	set +f
	for _path in /sys/class/net/*; do
		! is_ethernet "${_path##*/}" || printf ' %s' "${_path##*/}"
	done
)

refuse_entry() { say "user.lxdocker.network: '$_entry' is ignored: $1"; }

has_static_entry() { case "$_static" in *"$_newline$1 "*) ;; *) return 1 ;; esac }

set_static_addresses() {
	skip_duplicate_detection "$1"
	is_up "$1" || "$_bb" ip link set dev "$1" up
	while read -r _name _address _gateway; do
		[ "$_name" = "$1" ] || continue
		_family=4
		case "$_address" in *:*) _family=6 ;; esac
		if "$_bb" ip "-$_family" addr replace "$_address" dev "$1"; then
			note_address "$_family" "$1" "$_address"
		else
			say "user.lxdocker.network: $1 can't have the address $_address"
		fi
		[ -z "$_gateway" ] || set_gateway "$1" "$_family" "$_gateway" ||
			say "user.lxdocker.network: $1 can't have the gateway $_gateway"
	done <<-ENTRIES
		$_static
	ENTRIES
}

# A gateway outside the subnet first needs a route of its own.
set_gateway() {
	"$_bb" ip "-$2" route replace default via "$3" dev "$1" 2>/dev/null || {
		"$_bb" ip "-$2" route replace "$3" dev "$1"
		"$_bb" ip "-$2" route replace default via "$3" dev "$1"
	}
}

# user.lxdocker.dns: "SERVER… [search DOMAIN…]".
set_static_dns() {
	_servers=
	_domains=
	_kind=server
	set -f
	# shellcheck disable=SC2086 # words
	set -- $_dns
	set +f
	for _word; do
		if [ "$_kind" = server ] && [ "$_word" = search ]; then
			_kind=domain
		elif [ "$_kind" = domain ]; then
			case "$_word" in
			*[!A-Za-z0-9._-]*) say "user.lxdocker.dns: '$_word' is not a domain; ignored" ;;
			*) _domains="$_domains $_word" ;;
			esac
		elif is_ipv4 "$_word" || is_ipv6 "${_word%%%*}"; then
			_servers="$_servers $_word"
		else
			say "user.lxdocker.dns: '$_word' is not the address of a server; ignored"
		fi
	done
	if [ -n "$_servers" ]; then
		"$_bb" env -i interface=static dns="$_servers" search="$_domains" "$_bb" sh /lxd-udhcpc-default.script.real dns
	else
		say "user.lxdocker.dns names no server; using those from DHCP"
	fi
}
