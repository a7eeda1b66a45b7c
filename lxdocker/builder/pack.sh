#!/bin/busybox sh
# shellcheck shell=dash
# pack.sh INJECT ROOTFS EPOCH RUNTIME COMMAND…: puts the runtime, the tar file RUNTIME, into the root filesystem by the
# script INJECT (see inject.sh), and runs COMMAND, which packs it. Exit status 70 where the first of them fails.
set -eu
inject=$1 rootfs=$2 epoch=$3 runtime=$4
shift 4
/bin/busybox sh -c "$inject" inject "$rootfs" "$epoch" <"$runtime" || {
	[ $? -ne 137 ] || echo "it was killed" >&2
	exit 70
}
exec "$@"
