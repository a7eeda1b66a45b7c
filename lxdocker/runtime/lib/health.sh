# shellcheck shell=dash disable=SC2154
# The image's HEALTHCHECK. Its state is in /dev/.lxd-health, which /lxd-health prints.

write_health() {
	printf '%s\n' "$@" >/dev/.lxd-health.new
	"$_bb" mv /dev/.lxd-health.new /dev/.lxd-health
}

# Checks until it is ended. $1: the application's process id.
watch_health() {
	_failures=0
	_state=starting
	_began=$(uptime_seconds)
	write_health starting
	while :; do
		"$_bb" sleep "$_health_interval"
		# A session of its own, so that nothing of the check outlives it; and no pipe, which what it has started could
		# hold open for ever.
		with_health_command exec "$_bb" setsid "$_bb" timeout -s KILL "$_health_timeout" /lxd-gosu "$_user" \
			>/dev/.lxd-health.out 2>&1 </dev/null &
		_check=$!
		wait "$_check"
		_status=$?
		"$_bb" kill -KILL "-$_check" 2>/dev/null
		_output=$("$_bb" head -c 4096 /dev/.lxd-health.out)
		"$_bb" rm -f /dev/.lxd-health.out
		if [ "$_status" -eq 0 ]; then
			_failures=0
			_state=healthy
		elif [ "$_state" = starting ] && [ $(($(uptime_seconds) - _began)) -lt "$_health_start_period" ]; then
			: # not counted while the application may still be starting
		else
			_failures=$((_failures + 1))
			if [ "$_failures" -ge "$_health_retries" ]; then
				[ "$_state" = unhealthy ] || say "the application is unhealthy: $_failures checks failed, the last with status $_status"
				_state=unhealthy
			fi
		fi
		write_health "$_state" "failures: $_failures" "last status: $_status" "$_output"
		if [ "$_state" = unhealthy ] && [ "$_restart_unhealthy" = true ]; then
			: >/dev/.lxd-unhealthy
			end_app "$1"
			return
		fi
	done
}
