# shellcheck shell=dash disable=SC2154
# The application's output. It is written to a pipe, as under Docker without a terminal, and log_output.sh copies it to
# the console and to a log that survives restarts. The pipe is also the stdout and stderr of PID 1: as under Docker, any
# process may write to /proc/1/fd/1, and the application does not notice if log_output.sh is killed and restarted.

_output=/dev/.lxd-output
_log=/.lxd-log
_logged= # whether there is a log
_logger= # PID of log_output.sh
# While PID 1 waits, its stderr is this: the shell can't write its own messages about signals there, but others can open
# it for writing, once it is the pipe.
exec 4</dev/null

# Only for a supervised application: if the application is PID 1, everything ends with it, including data in the pipe.
start_log() {
	if [ -L "$_log" ] || [ ! -d "$_log" ]; then
		"$_bb" rm -rf "$_log" 2>/dev/null
		"$_bb" mkdir -m 700 "$_log" 2>/dev/null || {
			# The root is read-only. /dev has little room.
			_log=/dev/.lxd-log
			"$_bb" mkdir -m 700 "$_log"
		}
	fi
	_logged=yes
	say_to_log "started at $("$_bb" date -u +%Y-%m-%dT%H:%M:%SZ)"
	[ -z "$_unlogged" ] || { printf '%s\n' "$_unlogged" >>"$_log/current"; } 2>/dev/null
	"$_bb" mkfifo -m 600 "$_output"
	# As Docker's daemon does for its pipes, so that any user of the application can open /dev/stdout by name.
	[ "$_uid" = 0 ] || "$_bb" chown "$_uid" "$_output"
	# shellcheck disable=SC2094 # a FIFO
	exec 3>&1 1<>"$_output" 2>&1 4<"$_output"
	_console=3
	read_seconds
	start_logger
}

start_logger() {
	# PID 1 has opened the pipe, not the new process: if the application ended first, nobody would have it open, and its
	# last output would be lost.
	"$_bb" setsid "$_bb" env -i "$_bb" sh "$_lib/log_output.sh" "$_log" <&4 >/dev/console 2>&1 3>&- 4<&- &
	_logger=$!
	_logger_began=$_seconds
	: >"$_helpers/$_logger"
}

look_after_logger() {
	case $_logger in '') return 0 ;; esac
	read_start "$_logger"
	case $_start in ?*) return 0 ;; esac
	# Remaining processes of the old logger must not read part of the output.
	kill -KILL "-$_logger" 2>/dev/null
	# It ends at once if it can't start a process.
	read_seconds
	case $_seconds in "$_logger_began") hold_on ;; esac
	start_logger
}

say_to_log() { printf 'lxdocker: %s\n' "$*" >>"$_log/current"; } 2>/dev/null

# Waits until all output of the application is written, but not long for processes that still hold the pipe: shells of lxc
# exec, say. On a busy host, a logger that was just started needs a while.
end_log() {
	exec >&3 2>&3 3>&- 4</dev/null
	_console=1
	_tries=0
	# An ended process keeps its PID until it is reaped, but no open files.
	while [ -e "/proc/$_logger/fd/0" ] && [ "$_tries" -lt 200 ]; do
		"$_bb" usleep 20000
		_tries=$((_tries + 1))
	done
	_logger=
}

# An application that is PID 1 gets the console itself, as with `docker run --tty`: a terminal that belongs to its user,
# with a TERM and a size.
own_console() {
	_output=/dev/console
	_terminal=TERM=xterm
	[ "$_uid" = 0 ] || "$_bb" chown "$_uid" "$_output"
	"$_bb" chmod 620 "$_output"
	case "$("$_bb" stty size <"$_output" 2>/dev/null)" in '0 0' | '') "$_bb" stty rows 24 cols 80 <"$_output" ;; esac
}
