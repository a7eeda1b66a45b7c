#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2034
# (SC2034: read by the sourced parts.)
# Run for every event of the kernel's: configures an interface that was added to the running instance, and lets go of
# one that was removed.
[ "${SUBSYSTEM-}" = net ] && [ -n "${INTERFACE-}" ] || exit 0
case ${ACTION-} in add | move | remove) ;; *) exit 0 ;; esac
_bb=/busybox-lxd
_lib=/lxd-lib
say() { printf 'lxdocker: %s\n' "$*" >/dev/console; }
die() { exit "${2:-1}"; }
# shellcheck source=/dev/null
. "$_lib/environment.sh"
# shellcheck source=/dev/null
. "$_lib/network.sh"
if [ "$ACTION" = remove ]; then
	# What it leaves would keep asking for an interface that is no more.
	[ ! -e "/dev/.lxd-udhcpc.$INTERFACE" ] || "$_bb" kill "$("$_bb" cat "/dev/.lxd-udhcpc.$INTERFACE")" 2>/dev/null
	exit 0
fi
# LXD adds an interface under a passing name and renames it at once: the name that stays has an event too.
[ "$ACTION" = move ] || "$_bb" usleep 300000
is_ethernet "$INTERFACE" || exit 0
[ ! -e "/dev/.lxd-udhcpc.$INTERFACE" ] || "$_bb" kill "$("$_bb" cat "/dev/.lxd-udhcpc.$INTERFACE")" 2>/dev/null
read_instance_settings /lxd-instance
configure_interface "$INTERFACE" >/dev/console 2>&1 &
