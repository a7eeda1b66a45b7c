#!/busybox-lxd sh
# shellcheck shell=dash
# udhcpc executes its script directly, so the script needs a #! line with an interpreter. The image may have none, so
# this names the injected busybox.
exec /busybox-lxd sh /lxd-udhcpc-default.script.real "$@"
