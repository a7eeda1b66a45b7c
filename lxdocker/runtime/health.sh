#!/busybox-lxd sh
# shellcheck shell=dash
# lxc exec NAME -- /lxd-health: prints the state of the image's health check. Exit status: 0 healthy, 1 unhealthy,
# 2 starting, 3 the image has no health check.
bb=/busybox-lxd
if [ ! -r /dev/.lxd-health ]; then
	# The instance may have just started, before the application.
	if "$bb" grep -qx _health=yes /lxd-image; then
		echo starting
		exit 2
	fi
	echo none
	exit 3
fi
"$bb" cat /dev/.lxd-health
read -r state </dev/.lxd-health
case $state in
healthy) exit 0 ;;
starting) exit 2 ;;
*) exit 1 ;;
esac
