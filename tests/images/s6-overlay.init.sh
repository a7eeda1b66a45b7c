#!/bin/bash
# What /init, preinit, stage0 and rc.init of s6-overlay 3 do, in the same order.
set -e

fatal() {
    echo "s6-overlay: fatal: $*" >&2
    exit 100
}

# Where whoever started it waits to be told, there is something to be read first: a file too many would stop it here.
if read -r _ 2>/dev/null <&3; then exec 3<&-; fi

[ $$ = 1 ] || fatal "can only run as pid 1"

[ "$(stat -c %u /run)" = 0 ] || fatal "/run belongs to $(stat -c %u /run)"
[ "$(readlink -f /var/run)" = /run ] || fatal "/var/run does not lead to /run"
rm -rf /run/s6 /run/service
mkdir -p /run/s6/container_environment

while IFS= read -r -d '' variable; do
    printf %s "${variable#*=}" >"/run/s6/container_environment/${variable%%=*}"
done </proc/self/environ
echo 0 >/run/s6/exitcode
# Programs are run from there.
cp -a /etc/s6-overlay/service /run/service

(
    for script in /etc/cont-init.d/*; do "$script"; done
    cp -a /etc/services.d/* /run/service
    s6-svscanctl -a /run/service
    if (($#)); then
        status=0
        /command/with-contenv "$@" || status=$?
        echo "$status" >/run/s6/exitcode
        kill -TERM 1
    fi
) &

exec env -i "PATH=$PATH" s6-svscan /run/service
