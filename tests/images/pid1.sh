#!/bin/bash
# Prints `pid1: {"pid": …, "hostname": …, "cwd": …, "user": …, "args": […], "env": {…}}`, then waits for the signals
# that tell an init to end, and says which one it got: `pid1: got TERM, bye`.

json() { # STRING
    local s=$1
    s=${s//\\/\\\\}
    s=${s//\"/\\\"}
    s=${s//$'\n'/\\n}
    s=${s//$'\t'/\\t}
    printf '"%s"' "$s"
}

report() {
    local sep='' variable
    printf 'pid1: {"pid": %d, "hostname": ' $$
    json "$(cat /proc/sys/kernel/hostname)"
    printf ', "cwd": '
    json "$PWD"
    printf ', "user": '
    json "$(id -u):$(id -g)"
    printf ', "args": ['
    for arg; do
        printf '%s' "$sep"
        json "$arg"
        sep=', '
    done
    printf '], "env": {'
    sep=''
    # Not `env`: a shell adds variables of its own.
    while IFS= read -r -d '' variable; do
        printf '%s' "$sep"
        json "${variable%%=*}"
        printf ': '
        json "${variable#*=}"
        sep=', '
    done </proc/$$/environ
    printf '}}\n'
}

for signal in TERM PWR RTMIN+3 QUIT INT; do
    # shellcheck disable=SC2064  # the name is wanted now
    trap "echo 'pid1: got $signal, bye'; exit 0" "$signal"
done

report "$@"
if [ $$ -ne 1 ]; then
    echo "pid1: error: must be PID 1, not $$"
    exit 3
fi
while :; do
    sleep 3600 &
    wait $!
done
