#!/bin/bash
# A service that says when it starts and takes a moment to end.
trap 'echo "service: ending"; sleep 1; echo "service: ended"; exit 0' TERM
echo "service: pid $$, started by $(cat "/proc/$PPID/comm")"
while :; do
    sleep 3600 &
    wait $!
done
