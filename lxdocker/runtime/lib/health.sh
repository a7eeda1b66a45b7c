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
		_output=$(with_health_command "$_bb" timeout -s KILL "$_health_timeout" /lxd-gosu "$_user" 2>&1 </dev/null)
		_status=$?
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
		write_health "$_state" "failures: $_failures" "last status: $_status" "$("$_bb" printf '%s' "$_output" | "$_bb" head -c 4096)"
		if [ "$_state" = unhealthy ] && [ "$_restart_unhealthy" = true ]; then
			: >/dev/.lxd-unhealthy
			end_app "$1"
			return
		fi
	done
}
