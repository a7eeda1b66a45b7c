#!/busybox-lxd sh
# shellcheck shell=dash disable=SC2034,SC2154
# (SC2034: read by the sourced parts.)
# Runs for every kernel event: configures an interface that was added to the running instance, and cleans up after one
# that was removed.
[ "${SUBSYSTEM-}" = net ] && [ -n "${INTERFACE-}" ] || exit 0
case ${ACTION-} in add | move | remove) ;; *) exit 0 ;; esac
_bb=/busybox-lxd
_lib=/lxd-lib
exec >/dev/console 2>&1
say() { printf 'lxdocker: %s\n' "$*"; }
# shellcheck source=/dev/null
. "$_lib/network.sh"
# Its helpers would keep using an interface that is gone or was renamed.
[ "$ACTION" != remove ] || _gone=$INTERFACE
[ "$ACTION" != move ] || _gone=${DEVPATH_OLD##*/}
if [ -n "${_gone-}" ]; then
	forget_interface "$_gone"
	write_own_name
fi
[ "$ACTION" != remove ] || exit 0
# LXD adds an interface under a temporary name and renames it at once, which causes another event.
[ "$ACTION" = move ] || "$_bb" usleep 300000
is_ethernet "$INTERFACE" || exit 0
forget_interface "$INTERFACE"
read -r _knobs <"$_net/knobs"
_static=
[ ! -s "$_net/static" ] || _static=$("$_bb" cat "$_net/static")
_static=$_newline$_static
_addresses=$("$_bb" ip -o addr show dev "$INTERFACE")
configure_interface "$INTERFACE"
write_own_name
