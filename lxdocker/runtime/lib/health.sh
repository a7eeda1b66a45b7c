# shellcheck shell=dash disable=SC2016,SC2154,SC3045
# (SC2016: attempt() expands them. SC3045: busybox's read has -t.)
# The image's HEALTHCHECK. Its state is kept in /dev/.lxd-health, which /lxd-health prints.

_checker= # PID of the checking process

start_health() {
	case $_health in yes) ;; *) return 0 ;; esac
	watch_health "$_app" </dev/null >&"$_console" 2>&1 &
	_checker=$!
}

# Restarts the checker if somebody killed it.
look_after_health() {
	case $_checker:$_app in :* | *:) return 0 ;; esac
	read_start "$_checker"
	case $_start in ?*) return 0 ;; esac
	# It has ended by itself after it found the application unhealthy.
	case $(echo /dev/.lxd-unhealth[y]) in *y) return 0 ;; esac
	start_health
}

end_health() {
	set -- "$_checker"
	_checker=
	[ -z "$1" ] || kill -KILL "$1" 2>/dev/null
}

write_health() {
	printf '%s\n' "$@" >/dev/.lxd-health.new
	attempt '"$_bb" mv /dev/.lxd-health.new /dev/.lxd-health'
}

# Checks until it is killed. $1: the application's PID.
watch_health() {
	trap '' TERM HUP INT QUIT USR1 USR2
	note_own_pid
	_failures=0
	_state=starting
	read_seconds
	_began=$_seconds
	write_health starting
	while :; do
		# As under Docker, the start period has its own interval, and failures do not count.
		_pause=$_health_interval
		! is_starting || _pause=$_health_start_interval
		rest "$_pause"
		# Where no process can be started, see supervise.sh.
		attempt check_health || _status=125 _said="can't start a process"
		if [ "$_status" -eq 0 ]; then
			_failures=0
			_state=healthy
		elif ! is_starting; then
			_failures=$((_failures + 1))
			if [ "$_failures" -ge "$_health_retries" ]; then
				[ "$_state" = unhealthy ] || say "the application is unhealthy: $_failures checks failed, the last with status $_status"
				_state=unhealthy
			fi
		fi
		write_health "$_state" "failures: $_failures" "last status: $_status" "$_said"
		if [ "$_state" = unhealthy ] && [ "$_restart_unhealthy" = true ]; then
			: >/dev/.lxd-unhealthy
			attempt 'end_app "$1"' "$1"
			return
		fi
	done
}

is_starting() {
	read_seconds
	[ "$_state" = starting ] && [ $((_seconds - _began)) -lt "$_health_start_period" ]
}

# Sleeps without a process, which would outlive this one if it was killed.
rest() {
	[ -p /dev/.lxd-hold ] || "$_bb" mkfifo -m 600 /dev/.lxd-hold
	read -r -t "$1" _ <>/dev/.lxd-hold
}

# Sets _status and _said. The check runs in its own session, so that all its processes can be killed. Its output is read
# to the end, but only the beginning is kept. Processes that it leaves behind may hold the pipe open, but do not block
# this function.
check_health() {
	"$_bb" rm -f /dev/.lxd-health.pipe
	"$_bb" mkfifo -m 600 /dev/.lxd-health.pipe
	{
		"$_bb" head -c 4096
		"$_bb" cat >/dev/null
	} </dev/.lxd-health.pipe >/dev/.lxd-health.out &
	_reader=$!
	(
		trap - TERM HUP INT QUIT USR1 USR2
		_session="$_bb setsid $_bb timeout -s KILL $_health_timeout"
		with_health_command become_checked
	) >/dev/.lxd-health.pipe 2>&1 </dev/null 3>&- 4<&- &
	_check=$!
	wait "$_check"
	_status=$?
	"$_bb" kill -KILL "-$_check" 2>/dev/null
	_tries=0
	while [ -e "/proc/$_reader/fd/0" ] && [ "$_tries" -lt 5 ]; do
		"$_bb" usleep 20000
		_tries=$((_tries + 1))
	done
	kill -KILL "$_reader" 2>/dev/null
	wait "$_reader" 2>/dev/null # or the shell would remember it for ever
	_said=$("$_bb" head -c 4096 /dev/.lxd-health.out)
	"$_bb" rm -f /dev/.lxd-health.out /dev/.lxd-health.pipe
}

# A check that can't run counts as failed, and reports why.
become_checked() {
	# shellcheck disable=SC2329  # become may call it
	say() { printf '%s\n' "$*"; }
	become "$@"
}
