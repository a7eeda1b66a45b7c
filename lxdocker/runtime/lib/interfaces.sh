# shellcheck shell=dash disable=SC2154
# Shared by PID 1 and its network helpers: the state of the interfaces, and queries about them.
#
# The helpers (keep.sh: a DHCP client for IPv4 and one for IPv6 on each interface, `uevent` for interfaces added later)
# are separate processes with a separate environment. They share their state in $_net, which belongs to root:
#
#   keep.HELPER        a wanted helper: its PID and start time (read_start)
#   address4.IFACE     ADDRESS/PREFIX, and the expiry of a lease (seconds of uptime); address6.IFACE alike
#   slaac.IFACE        an address that the kernel made from a router advertisement
#   stage4.IFACE       the client's state, see udhcpc.sh; stage6 alike
#   settled4.IFACE     routes and name servers of the address are set, too; or the interface is configured by others
#   settled6.IFACE     the first DHCPv6 exchange is complete
#   static, knobs      settings of the instance, for helpers that start later
#   ready              a FIFO: a process that changed one of these files wakes await_network
#   stopping           the instance is stopping
_net=/dev/.lxd-net
_newline='
'
_helpers=/dev/.lxd-helpers # a file for each helper, named by its PID, which is also its session ID

for _part in addresses names; do
	# shellcheck source=/dev/null
	. "$_lib/$_part.sh"
done

# Sets now, in hundredths of a second, without starting a process.
read_uptime() {
	read -r _now _ </proc/uptime
	# The fraction may begin with a zero, and must not be parsed as octal.
	_now=$((${_now%.*} * 100 + 1${_now#*.} - 100))
}

rouse() { [ ! -p "$_net/ready" ] || echo 1<>"$_net/ready"; }

is_client() { read_cmdline "$1" && case "$_cmdline" in "${_bb}udhcpc"*) ;; *) return 1 ;; esac }

# Sets cmdline to the arguments without separators. An ended process has none.
read_cmdline() {
	_cmdline=
	{ read -r _cmdline <"/proc/$1/cmdline"; } 2>/dev/null
	[ -n "$_cmdline" ]
}

# Sets start to the process's start time, in clock ticks since the boot; empty, and fails, for an ended process, even
# before it is reaped. Its arguments in /proc would not identify it: during execve they may be a mix of both programs.
read_start() {
	_stat='' _start=
	{ read -r _stat <"/proc/$1/stat"; } 2>/dev/null
	# The second field may contain blanks and brackets.
	_stat=${_stat##*) }
	case $_stat in '' | Z* | X*) return 1 ;; esac
	# shellcheck disable=SC2086 # words
	set -- $_stat
	_start=${20-}
}

# note_helper NAME PID
note_helper() {
	read_start "$2"
	case $_start in '') return 0 ;; esac
	echo "$2 $_start" >"$_net/keep.$1"
	: >"$_helpers/$2"
}

is_up() {
	_flags=0
	{ read -r _flags <"/sys/class/net/$1/flags"; } 2>/dev/null
	[ $((_flags & 1)) = 1 ]
}

# Whether an address of the interface is still tentative.
is_tentative() { has_global_ipv6 "$1" 0x40; }

# has_global_ipv6 IFACE [FLAG]: fields of /proc/net/if_inet6: address, index, prefix, scope, flags, name.
has_global_ipv6() {
	[ -r /proc/net/if_inet6 ] || return 1
	while read -r _ _ _ _scope _flags _name; do
		[ "$_name" = "$1" ] && [ "$_scope" = 00 ] && [ $(((0x$_flags & ${2:-0}) == ${2:-0})) = 1 ] && return 0
	done </proc/net/if_inet6
	return 1
}

# Makes the kernel recreate the link-local address and ask for a router at once.
restart_ipv6() {
	_conf=/proc/sys/net/ipv6/conf/$1
	read -r _ipv6 <"$_conf/disable_ipv6"
	[ "$_ipv6" = 0 ] && echo 1 >"$_conf/disable_ipv6" && echo 0 >"$_conf/disable_ipv6"
}
