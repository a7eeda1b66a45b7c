#!/busybox-lxd sh
# shellcheck shell=dash
# Run for every event of the kernel's: configures an interface that was added to the running instance.
[ "${SUBSYSTEM-}" = net ] && [ "${ACTION-}" = add ] && [ -n "${INTERFACE-}" ] || exit 0
_bb=/busybox-lxd
_lib=/lxd-lib
say() { printf 'lxdocker: %s\n' "$*" >/dev/console; }
# shellcheck source=/dev/null
. "$_lib/environment.sh"
# shellcheck source=/dev/null
. "$_lib/network.sh"
die() { exit "${2:-1}"; }
read_instance_settings /lxd-instance
# LXD names and moves an interface in several steps, each with an event; the last name is the one that stays.
[ -e "/sys/class/net/$INTERFACE" ] && is_ethernet "$INTERFACE" || exit 0
[ ! -e "/dev/.lxd-udhcpc.$INTERFACE" ] || exit 0
configure_interface "$INTERFACE" >/dev/console 2>&1 &
