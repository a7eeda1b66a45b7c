#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2034,SC2154
# (SC2034: read by the sourced parts.)
# keep.sh HELPER: runs a network helper for as long as it is wanted, as the leader of its own session and with its own
# environment. It ignores a `kill -1` by the application's root, which is meant for other processes; a killed client is
# restarted, and keeps its address. See interfaces.sh for the files.
trap '' HUP INT QUIT PIPE ALRM USR1 USR2 TSTP TTIN TTOU VTALRM PROF XCPU XFSZ IO PWR
_bb=/busybox-lxd
_lib=/lxd-lib

# If systemd is PID 1, it asks all processes to end when the instance stops, and waits long for them.
trap 'read -r _init </proc/1/comm; case "$_init" in systemd-shutdow*) exit ;; esac' TERM
case $1 in
uevent)
	# busybox's uevent can't check that itself; PID 1 restarts it, unless PID 1 is the image's own init.
	! "$_bb" grep -qsx _supervise=yes /lxd-image || trap '' TERM
	exec "$_bb" uevent "$_lib/hotplug.sh" >/dev/null 2>&1
	;;
# Gives the instance's start priority: by then, an application that needs no IPv6 is running.
dhcp6.*) "$_bb" usleep 200000 ;;
esac
say() { printf 'lxdocker: %s\n' "$*"; }
# shellcheck source=/dev/null
. "$_lib/interfaces.sh"
_helper=$1
_interface=${1#*.}

is_there() { [ -e "/sys/class/net/$_interface" ]; }

# pause HUNDREDTHS: sleeps without starting a process, by reading from a FIFO that nobody writes to.
_can_pause=
pause() {
	if [ -z "$_can_pause" ]; then
		"$_bb" mkfifo -m 600 "$_net/pause.$$"
		exec 9<>"$_net/pause.$$"
		"$_bb" rm -f "$_net/pause.$$"
		_can_pause=yes
	fi
	# shellcheck disable=SC3045 # busybox's read has -t
	read -r -t "$(($1 / 100)).$(($1 % 100 / 10))$(($1 % 10))" _ <&9
}

begin() {
	read_uptime
	_began=$_now
}

# pause_longer SHORTEST LONGEST: pauses longer each time, and resets after a long run.
_pause=0
pause_longer() {
	read_uptime
	[ $((_now - _began)) -lt 1000 ] || _pause=0
	_pause=$((_pause * 2))
	[ "$_pause" -ge "$1" ] || _pause=$1
	[ "$_pause" -le "$2" ] || _pause=$2
	pause "$_pause"
}

# Kills a client left by a previous keeper that was killed.
end_client() {
	_pid=
	[ -s "$1" ] && read -r _pid <"$1"
	[ -z "$_pid" ] || ! is_client "$_pid" || kill -KILL "$_pid" 2>/dev/null
}

# Sets address to the leased address, to ask for it again; empty if there was no lease.
leased_address() {
	_address=''
	_expiry=''
	[ -s "$1" ] && read -r _address _expiry <"$1"
	[ -n "$_expiry" ] && _address=${_address%%/*} || _address=
}

# Without -R: a lease is released when the instance stops (see release_network), not when somebody kills the client. The
# client's messages are discarded, since they would gradually fill the console's log; its script uses stdout.
keep_dhcp4() {
	end_client "/dev/.lxd-udhcpc.$_interface"
	while is_there; do
		begin
		leased_address "$_net/address4.$_interface"
		own_hostname
		echo started >"$_net/stage4.$_interface"
		"$_bb" udhcpc -f -t 3 -T 1 -A 10 -i "$_interface" -O search -O staticroutes -p "/dev/.lxd-udhcpc.$_interface" \
			${_address:+-r "$_address"} -x "hostname:$_hostname" -s /lxd-udhcpc-default.script 2>/dev/null
		pause_longer 20 3000
	done
}

# Sends no request before a router announces IPv6. The kernel does not reveal whether the router offers addresses and
# name servers by DHCPv6, so the client has to ask.
keep_dhcp6() {
	end_client "/dev/.lxd-udhcpc6.$_interface"
	await_router || return 0
	while is_there; do
		begin
		if note_slaac; then
			run_client6 -q -l -t 1
			settle
			# DHCPv6 may offer an address in addition to the kernel's.
			run_client6 -t 2
			pause_longer 3000 360000
		else
			# The server may offer only name servers.
			run_client6 -t 3
			run_client6 -q -l -t 1
			settle
			pause_longer 20 3000
		fi
	done
}

run_client6() {
	[ -n "$("$_bb" udhcpc6 --help 2>&1 | "$_bb" grep -F -e 'information request')" ] || return 1
	leased_address "$_net/address6.$_interface"
	echo started >"$_net/stage6.$_interface"
	family=6 "$_bb" udhcpc6 -f -n -T 1 -i "$_interface" -p "/dev/.lxd-udhcpc6.$_interface" \
		${_address:+-r "$_address"} "$@" -s /lxd-udhcpc-default.script 2>/dev/null
}

settle() {
	echo yes >"$_net/settled6.$_interface"
	rouse
}

# Checks often at first, and then less and less, down to once in five minutes.
await_router() {
	_tries=0
	_seldom=50
	until has_router; do
		is_there || return 1
		_tries=$((_tries + 1))
		case $_tries in
		4) ask_again ;;
		10 | 20) [ -s "$_net/address4.$_interface" ] || ask_again ;; # the application may still be waiting
		esac
		if [ "$_tries" -le 30 ]; then
			pause 10
		else
			_seldom=$((_seldom * 2))
			[ "$_seldom" -le 30000 ] || _seldom=30000
			pause "$_seldom"
		fi
	done
	return 0 # not the status of the last pause
}

# The kernel asks again only after 4 s, and not at all once it has had an answer. But the first instance on a bridge
# asks before the bridge can answer, and an immediate answer may be lost.
ask_again() {
	_dad=
	{ read -r _dad <"/proc/sys/net/ipv6/conf/$_interface/accept_dad"; } 2>/dev/null
	[ "$_dad" != 0 ] || has_global_ipv6 "$_interface" || restart_ipv6 "$_interface"
}

# Whether the kernel has a route from a router advertisement (RTF_ADDRCONF). Fields of /proc/net/ipv6_route: destination
# and prefix, source and prefix, next hop, metric, two counters, flags, name.
has_router() {
	[ -r /proc/net/ipv6_route ] || return 1
	while read -r _ _ _ _ _ _ _ _ _flags _name; do
		[ "$_name" = "$_interface" ] && [ $((0x$_flags & 0x40000)) != 0 ] && return 0
	done </proc/net/ipv6_route
	return 1
}

# Records the address made by the kernel; fails if the router does not allow one.
note_slaac() {
	pause 3 # the route appears just before the address
	_tries=0
	while is_tentative "$_interface" && [ "$_tries" -lt 30 ]; do
		pause 10
		_tries=$((_tries + 1))
	done
	_slaac=
	for _word in $("$_bb" ip -6 -o addr show dev "$_interface" scope global); do
		case "$_word" in *:*/64) _slaac=${_slaac:-$_word} ;; esac
	done
	echo "$_slaac" >"$_net/slaac.$_interface"
	[ -n "$_slaac" ] || return 1
	write_own_name
}

note_helper "$_helper" $$ # the starting process may have been killed before doing so
case $_helper in
dhcp4.*) keep_dhcp4 ;;
dhcp6.*) keep_dhcp6 ;;
esac
"$_bb" rm -f "$_net/keep.$_helper" "$_helpers/$$"
