#!/busybox-lxd sh
# shellcheck shell=dash
# udhcpc runs its script by the kernel, which needs an interpreter: the image may have none, so name LXD's.
exec /busybox-lxd sh /lxd-udhcpc-default.script.real "$@"
