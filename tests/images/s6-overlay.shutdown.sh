#!/bin/bash
# What s6-svscan runs for SIGPWR and others, as it does what s6-linux-init-shutdownd does: services end in order, then
# everything does, whoever started it.
echo "s6-overlay: shutting down"
for service in /run/service/*/; do s6-svc -wD -T 5000 -d "$service"; done
kill -TERM -1
s6-svscanctl -t /run/service
