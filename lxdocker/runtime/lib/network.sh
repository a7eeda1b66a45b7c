# shellcheck shell=dash disable=SC2154
# The network: DHCP on every Ethernet interface, or what user.lxdocker.network says. IPv6 is the kernel's own work, from
# router advertisements, which it heeds as long as it does not forward.

start_network() {
	"$_bb" ip link set lo up
	for _switch in ipv4/ip_forward ipv6/conf/all/forwarding; do
		[ -w "/proc/sys/net/$_switch" ] && echo 0 >"/proc/sys/net/$_switch"
	done
	[ -z "${_dns-}" ] || set_static_dns
	_waiting=
	for _path in /sys/class/net/*; do
		is_ethernet "${_path##*/}" || continue
		configure_interface "${_path##*/}" &
		_waiting="$_waiting $!"
	done
}

await_network() {
	# shellcheck disable=SC2086 # process ids
	[ -z "$_waiting" ] || wait $_waiting
	# A tmpfs on /etc may have been filled before a lease came, and mounted after that.
	case "$_tmpfs_on " in *" /etc "*) "$_bb" sh /lxd-udhcpc-default.script.real refresh ;; esac
	# Sleeps in the kernel until an interface comes.
	"$_bb" uevent "$_lib/hotplug.sh" >/dev/null 2>&1 </dev/null &
}

is_ethernet() { [ "$1" != lo ] && [ -r "/sys/class/net/$1/type" ] && [ "$("$_bb" cat "/sys/class/net/$1/type")" = 1 ]; }

# Comes back when the interface is configured, or after 3 s without a lease: the application then starts all the same,
# and the lease may come later. Either way udhcpc lives on in the background and renews.
configure_interface() {
	"$_bb" ip link set dev "$1" up
	set_static_address "$1" && return
	"$_bb" udhcpc -R -b -t 3 -T 1 -A 10 -i "$1" -O search -O staticroutes -p "/dev/.lxd-udhcpc.$1" \
		-x "hostname:$("$_bb" hostname)" -s /lxd-udhcpc-default.script </dev/null
}

# user.lxdocker.network: "INTERFACE ADDRESS/PREFIX [GATEWAY]", further interfaces after a semicolon. Fails if the
# interface is not among them.
set_static_address() {
	[ -n "${_network-}" ] || return 1
	_rest="$_network;"
	while [ -n "$_rest" ]; do
		_entry=${_rest%%;*}
		_rest=${_rest#*;}
		# shellcheck disable=SC2086 # words
		set -- "$1" $_entry
		[ "${2-}" = "$1" ] || continue
		"$_bb" ip addr replace "${3-}" dev "$1" || say "user.lxdocker.network: $1 can't have the address ${3-}"
		[ -z "${4-}" ] || "$_bb" ip route replace default via "$4" dev "$1" ||
			say "user.lxdocker.network: $1 can't have the gateway $4"
		return 0
	done
	return 1
}

# user.lxdocker.dns: "SERVER… [search DOMAIN…]".
set_static_dns() {
	_servers=${_dns%%search*}
	case "$_dns" in *search*) _domains=${_dns#*search} ;; *) _domains= ;; esac
	interface=static dns=$_servers search=$_domains "$_bb" sh /lxd-udhcpc-default.script.real dns
}
