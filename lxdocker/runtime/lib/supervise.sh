# shellcheck shell=dash disable=SC2154
# Running the command as a child of PID 1: signals, stopping, starting again, and saying why it ended.

# Docker's: from a tenth of a second, doubled each time, to a minute; as new after ten seconds of running.
_first_delay=1    # tenths of a second
_longest_delay=600
_stable_seconds=10

uptime_seconds() { "$_bb" cut -d. -f1 /proc/uptime; }

supervise() {
	_stopping=
	_app=
	_killer=
	_restarts=0
	_delay=$_first_delay
	# What `lxc stop` sends, and busybox's halt and poweroff.
	trap 'on_stop poweroff' PWR USR1 USR2
	# What a reboot from inside sends, and liblxc's own.
	trap 'on_stop reboot' TERM INT
	# The console is PID 1's terminal: without this, a Ctrl-C of someone who looks at it would be a reboot, and a
	# Ctrl-S would hold up whatever the application prints.
	"$_bb" stty -isig -ixon </dev/console 2>/dev/null
	while :; do
		run_app "$@"
		_ending="$1 $(say_status "$_status") after $_lasted s"
		[ -z "$_stopping" ] || break
		should_restart || break
		if [ "$_lasted" -ge "$_stable_seconds" ]; then
			_delay=$_first_delay
			_restarts=0
		fi
		_restarts=$((_restarts + 1))
		say "$_ending; starting it again in $((_delay / 10)).$((_delay % 10)) s (restart $_restarts)"
		pause "$((_delay / 10)).$((_delay % 10))"
		[ -z "$_stopping" ] || break
		_delay=$((_delay * 2))
		[ "$_delay" -le "$_longest_delay" ] || _delay=$_longest_delay
	done
	say "$_ending"
	if [ "$_stopping" = reboot ]; then
		"$_bb" sync
		"$_bb" reboot -f
		"$_bb" sleep 5 # it does not come back, unless the kernel refuses
	fi
	exit "$_status"
}

# A shell has one number for both; what is above 192 can't have been a signal.
say_status() {
	if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then
		_name=$(kill -l $(($1 - 128)) 2>/dev/null)
		case "$_name" in [A-Z]*) _name=" ($_name)" ;; *) _name= ;; esac
		printf '%s' "was ended by signal $(($1 - 128))$_name"
	else
		printf '%s' "ended with status $1"
	fi
}

# Runs the command once, to its real end. Sets status and lasted.
run_app() {
	_began=$(uptime_seconds)
	_interrupted=
	"$_bb" rm -f /dev/.lxd-unhealthy
	# Job control needs a terminal. With it, the shell starts the command in a process group of its own and leaves
	# SIGINT and SIGQUIT as they were; without, POSIX has it ignore both in the command.
	exec 0<>/dev/console 2>&1
	set -m
	# The first of a pipeline leads its process group, so that the second is free to lead a session of its own. In the
	# console's session the kernel would stop it in the background as soon as it asks something of its terminal.
	: | (
		trap - PWR USR1 USR2 TERM INT
		exec </dev/null
		_session="$_bb setsid"
		become "$@"
	) &
	_app=$!
	set +m
	exec </dev/null
	_checker=
	if [ "$_health" = yes ]; then
		watch_health "$_app" &
		_checker=$!
	fi
	# It may have been asked to stop just before there was anything to stop.
	[ -z "$_stopping" ] || on_stop "$_stopping"
	wait "$_app" 2>/dev/null # where the shell would name the signal, in its own words
	_status=$?
	# A trapped signal ends `wait` early: wait again until the command really has ended.
	while [ -n "$_interrupted" ]; do
		_interrupted=
		wait "$_app" 2>/dev/null
		_again=$?
		# 127: the wait before had its end already.
		[ "$_again" -eq 127 ] || _status=$_again
	done
	_lasted=$(($(uptime_seconds) - _began))
	# What it left of its own process group; the rest of the instance (a shell that someone is using) stays.
	"$_bb" kill -KILL "-$_app" 2>/dev/null
	_app=
	[ -z "$_checker" ] || "$_bb" kill "$_checker" 2>/dev/null
	[ -z "$_killer" ] || "$_bb" kill "$_killer" 2>/dev/null
	_killer=
}

on_stop() {
	_interrupted=1
	_stopping=$1
	# Once is enough: some applications take a second signal for impatience and leave everything as it is.
	[ -n "$_app" ] && [ -z "$_killer" ] || return
	say "stopping with SIG$_stop_signal, and SIGKILL after $_stop_grace s"
	end_app "$_app" &
	_killer=$!
}

# Asks the application to end, and insists when the grace period is over.
end_app() {
	"$_bb" kill -s "$_stop_signal" "$1" 2>/dev/null
	"$_bb" sleep "$_stop_grace"
	say "it did not end within $_stop_grace s; killing it"
	"$_bb" kill -KILL "-$1" 2>/dev/null || "$_bb" kill -KILL "$1" 2>/dev/null
}

should_restart() {
	[ ! -e /dev/.lxd-unhealthy ] || return 0
	case $_restart in
	always) return 0 ;;
	on-failure) [ "$_status" -ne 0 ] ;;
	on-failure:*) [ "$_status" -ne 0 ] && [ "$_restarts" -lt "${_restart#on-failure:}" ] ;;
	*) return 1 ;;
	esac
}

# Sleeps, unless a signal asks to stop.
pause() {
	"$_bb" sleep "$1" &
	wait $!
}
