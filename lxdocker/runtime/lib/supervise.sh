# shellcheck shell=dash disable=SC2016,SC2030,SC2031,SC2064,SC2154,SC2172,SC3043,SC3045
# (SC2016: attempt() expands them. SC2030, SC2031: the application's process has values of its own. SC2064: the traps
# expand their values now. SC2172: busybox has no names for real-time signals. SC3043, SC3045: it has `local`, and its
# read has -d and -t.)
# Runs the command as a child of PID 1: signals, stopping, restarting, and reporting why it ended.

# As Docker: from a tenth of a second, doubled each time up to a minute, and reset after ten seconds of running.
_first_delay=1    # tenths of a second
_longest_delay=600
_stable_seconds=10
_window_seconds=12 # during which SIGWINCH is taken for the kernel's

# Sets _seconds to the time since the host's start.
read_seconds() {
	read -r _seconds _ </proc/uptime
	_seconds=${_seconds%%.*}
}

# ---- without a process to spare

# Under limits.processes, the application may leave none for PID 1, whose shell would end with a failed fork, and the
# instance with it.

# attempt CODE ARGUMENT...: runs the code, and fails if it could not start a process, which only `command eval` survives.
# A subshell of the code that failed in the same way ends here, or it would go on as its parent.
attempt() {
	local _incomplete=yes _code=$1
	shift
	command eval "$_code
		_incomplete="
	case $_incomplete in '') return 0 ;; esac
	read -r _self _ </proc/self/stat
	case $_self in "$_own_pid") return 1 ;; esac
	exit 2
}

note_own_pid() { read -r _own_pid _ </proc/self/stat; }

# Waits for up to a second without starting a process. Signals end only a single read.
hold_on() {
	read_seconds
	_held=$_seconds
	while [ "$_seconds" -eq "$_held" ]; do
		read -r -t 0.2 _ <>/dev/.lxd-hold
		read_seconds
	done
} 2>/dev/null

# ---- signals

# A trap must not depend on exit statuses: if a second signal arrives in a trap, busybox's shell then replaces the status
# of the command just run by the one from before the first trap. So neither `&&`, `||`, `if` nor `while` is used there,
# only `case` and `for`, on values.

# Signals from LXD. If PID 1 blocks SIGRTMIN+3 (37), as systemd does, liblxc sends that instead of SIGPWR; any process
# blocks it briefly during a fork. SIGINT requests a reboot.
hear_lxd() {
	trap "$1 poweroff" PWR 37
	trap "$1 reboot" INT
}

# All other signals are forwarded to the application, as if it were PID 1.
hear_others() {
	for _signal in HUP:1 QUIT:3 TRAP:5 ABRT:6 USR1:10 USR2:12 ALRM:14 TERM:15 CONT:18 TSTP:20 URG:23 VTALRM:26 PROF:27 IO:29; do
		trap "pass_on ${_signal#*:}" "${_signal%:*}"
	done
	for _signal in 34 35 36 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64; do
		trap "pass_on $_signal" "$_signal"
	done
	trap 'attempt on_window_change' WINCH
	trap look_after_helpers CHLD
}

# Like the kernel for PID 1, drops signals without a handler, even SIGTERM.
pass_on() {
	case $_app in '') return 0 ;; esac
	_caught=
	IFS= read -r -d '' _caught <"/proc/$_app/status" # all of it
	_caught=${_caught##*SigCgt:?}
	_caught=${_caught%%[!0-9a-f]*}
	case $(((0x${_caught:-0} >> ($1 - 1)) & 1)) in 1) kill "-$1" "$_app" ;; esac
} 2>/dev/null

# The kernel also sends SIGWINCH, perhaps twice, when the window of a console viewer changes; some applications take it
# as a request to shut down. On a busy host the second one can be handled seconds after the first.
on_window_change() {
	check_ended
	case $_has_ended in yes) return 0 ;; esac
	read_seconds
	_arrived=$_seconds
	_before=$_window
	_window=$("$_bb" stty size </dev/console 2>/dev/null)
	read_seconds
	case $_window in "$_before") ;; *) _resized=$_seconds ;; esac
	case $((_arrived - _resized < _window_seconds)) in 0) pass_on 28 ;; esac
}

# ---- children

# Called whenever a child ends. Restarts the runtime's own processes if they were killed. While it is at work, and while
# nothing may be started, further ends are only noted; it then looks again. A helper that ends at once each time must not
# keep it busy for ever: after ten rounds, it continues at the end of a child that sleeps for a while.
look_after_helpers() {
	_unseen=yes
	case $_looking in ?*) return 0 ;; esac # already running, or not now
	for _round in 1 2 3 4 5 6 7 8 9 10; do
		_looking=yes
		check_ended
		case $_has_ended in yes)
			_looking=
			return 0
			;;
		esac
		_unseen=
		attempt 'look_after_logger; look_after_health; ensure_network_helpers >&"$_console" 2>&1'
		_looking=
		# What ends from here on calls this function once more.
		case $_unseen in '') return 0 ;; esac
	done
	attempt '"$_bb" sleep 0.5 >/dev/null 2>&1 &'
}

# Whether the process that PID 1 waits for has ended, and its status is not known yet. Until then, a trap must not start
# anything, because the shell would lose the status.
has_ended() { [ -n "$_waits_for" ] && ! kill -0 "$_waits_for" 2>/dev/null; }

# The same for traps: sets _has_ended. It need not be reaped yet.
check_ended() {
	_has_ended=
	case $_waits_for in '') return 0 ;; esac
	read_start "$_waits_for"
	case $_start in '') _has_ended=yes ;; esac
}

# await PID: waits for the real end of a child; sets _ended to its status. A trapped signal ends `wait` early with 128
# plus its number, which is also the status of a child killed by it.
await() {
	_waits_for=$1
	while :; do
		wait "$1" 2<&4
		_ended=$?
		[ "$_ended" -gt 128 ] || break
		! has_ended || {
			settle "$1"
			break
		}
	done
	_waits_for=
}

# The shell keeps the status and returns it on every call. The usual interruption is the end of another child.
settle() {
	_same=0
	while [ "$_same" -lt 5 ]; do
		wait "$1" 2<&4
		_again=$?
		if [ "$_again" -ne "$_ended" ]; then
			_same=0 _ended=$_again
		elif [ "$_again" -ne 145 ]; then # 128 and SIGCHLD
			return
		fi
		_same=$((_same + 1))
	done
}

# Kills the application's remaining processes in all sessions, so that a restart is a fresh start. Processes older than
# the application (PID 1's preparations may have started them on purpose), shells of lxc exec and the runtime's own
# stay. Sets _looked to whether they could be looked for.
end_rest_of_app() {
	_looked='' _sweep=0
	while [ "$_sweep" -lt 20 ]; do
		_rest=$("$_bb" cat /proc/[0-9]*/status 2>/dev/null | "$_bb" awk \
			-v older="$_older" -v helpers="$(echo "$_helpers"/*)" -f "$_lib/rest_of_app.awk") && [ -z "$_rest" ] && _looked=yes &&
			return
		# shellcheck disable=SC2086 # process ids
		[ -z "$_rest" ] || {
			_looked=yes
			kill -KILL $_rest 2>/dev/null
		}
		"$_bb" usleep 10000
		_sweep=$((_sweep + 1))
	done
}

# Where the application's remaining processes leave none to look for them: shells of lxc exec end, too, and PID 1's
# helpers are started again. Those that have ended count until they are reaped, which `jobs` does.
end_all() {
	kill -KILL -1 2>/dev/null
	for _ in 1 2 3; do
		hold_on
		jobs
	done >/dev/null 2>&1
	look_after_helpers
}

# ---- the application

supervise() {
	_app='' _killer='' _restarts=0 _resized=-$_window_seconds _delay=$_first_delay
	_window=$("$_bb" stty size </dev/console 2>/dev/null)
	_older=$(echo /proc/[0-9]*)
	_looking=
	note_own_pid
	"$_bb" mkfifo -m 600 /dev/.lxd-hold
	hear_others
	hear_lxd on_stop
	# The console is PID 1's terminal: without this, Ctrl-C there would cause a reboot, and Ctrl-S would block the
	# application's output.
	"$_bb" stty -isig -ixon </dev/console 2>/dev/null
	while :; do
		run_app "$@"
		_ending="$1 $(say_status "$_status") after $_lasted s"
		[ -z "$_stopping" ] || break
		should_restart || break
		if [ "$_lasted" -ge "$_stable_seconds" ]; then
			_delay=$_first_delay
		fi
		_restarts=$((_restarts + 1))
		say "$_ending; starting it again in $((_delay / 10)).$((_delay % 10)) s (restart $_restarts)"
		pause "$((_delay / 10)).$((_delay % 10))"
		[ -z "$_stopping" ] || break
		_delay=$((_delay * 2))
		[ "$_delay" -le "$_longest_delay" ] || _delay=$_longest_delay
	done
	end "$_status" "$_ending"
}

# end STATUS LAST-WORDS: stops the instance, or reboots it.
end() {
	_reboot=
	[ "$_stopping" != reboot ] || _reboot=yes
	_looking=never
	[ -z "$_logger" ] || attempt end_log
	[ -z "${2-}" ] || say "$2"
	if [ -n "$_reboot" ]; then
		"$_bb" sync
		"$_bb" reboot -f
		"$_bb" sleep 5 # only reached if the kernel refuses
	fi
	release_network
	exit "$1"
}

# A shell uses one number for both; above 192, it can't be a signal.
say_status() {
	if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then
		_name=$(kill -l $(($1 - 128)) 2>/dev/null)
		case "$_name" in [A-Z]*) _name=" ($_name)" ;; *) _name= ;; esac
		printf '%s' "was ended by signal $(($1 - 128))$_name"
	else
		printf '%s' "ended with status $1"
	fi
}

# Runs the command once, to its real end. Sets _status and _lasted.
run_app() {
	read_seconds
	_began=$_seconds
	"$_bb" rm -f /dev/.lxd-unhealthy
	# Job control needs a terminal. With it, the shell starts the command in its own process group and leaves SIGINT and
	# SIGQUIT unchanged; without it, POSIX requires the shell to ignore both in the command.
	exec 0<>/dev/console
	_looking=yes # a helper must not be started in such a group
	set -m 2>&"$_console"
	# The first process of a pipeline leads the process group, so that the second can become a session leader. In the
	# console's session, the kernel would stop it as a background process as soon as it uses its terminal.
	: | (
		exec </dev/null >"$_output" 2>&1 3>&- 4<&-
		_console=1 _logged='' _logger='' _session="$_bb setsid"
		become "$@"
	) &
	_app=$!
	set +m
	exec </dev/null
	_waits_for=$_app
	_looking=
	attempt start_health
	# One may have been killed while none could be started.
	look_after_helpers
	# A stop may have been requested just before the application started.
	[ -z "$_stopping" ] || on_stop "$_stopping"
	await "$_app"
	_status=$_ended
	read_seconds
	_lasted=$((_seconds - _began))
	_app=
	look_after_helpers
	end_health
	[ -z "$_killer" ] || kill -KILL "$_killer" 2>/dev/null
	_killer=
	attempt end_rest_of_app
	[ -n "$_looked" ] || end_all
}

on_stop() {
	_stopping=$1
	# Only one signal: some applications abort without cleaning up on a second one.
	case $_app:$_killer in :* | *:?*) return 0 ;; esac
	check_ended
	case $_has_ended in yes) return 0 ;; esac
	say "stopping with SIG$_stop_signal, and SIGKILL after $_stop_grace s"
	attempt 'end_app "$_app" >&"$_console" 2>&1 &
	_killer=$!'
	# Nobody will kill it after the grace period, but it can end by itself.
	case $_killer in '') kill -s "$_stop_signal" "$_app" ;; esac
}

# Sends the stop signal, and SIGKILL after the grace period.
end_app() {
	trap '' TERM HUP INT QUIT USR1 USR2
	await_program "$1"
	"$_bb" kill -s "$_stop_signal" "$1" 2>/dev/null
	"$_bb" sleep "$_stop_grace"
	say "it did not end within $_stop_grace s; killing it"
	"$_bb" kill -KILL "-$1" 2>/dev/null || "$_bb" kill -KILL "$1" 2>/dev/null
}

# Waits until the process runs the application; before that, the shell and gosu would drop some signals.
await_program() {
	_tries=0
	while [ "$_tries" -lt 100 ] && read_start "$1"; do
		_argv0= # briefly empty during execve
		IFS= read -r -d '' _argv0 <"/proc/$1/cmdline"
		case "$_argv0" in '' | /busybox-lxd | /lxd-gosu) "$_bb" usleep 10000 ;; *) return ;; esac
		_tries=$((_tries + 1))
	done
} 2>/dev/null

should_restart() {
	[ ! -e /dev/.lxd-unhealthy ] || return 0
	case $_restart in
	always) return 0 ;;
	on-failure) [ "$_status" -ne 0 ] ;;
	on-failure:0) [ "$_status" -ne 0 ] ;; # as under Docker
	on-failure:*) [ "$_status" -ne 0 ] && [ "$_restarts" -lt "${_restart#on-failure:}" ] ;;
	*) return 1 ;;
	esac
}

# Sleeps, unless a signal asks to stop.
pause() {
	attempt '"$_bb" sleep "$1" >/dev/null 2>&1 &
	_sleeper=$!' "$1" || {
		hold_on
		return 0
	}
	while [ -z "$_stopping" ] && kill -0 "$_sleeper" 2>/dev/null; do wait "$_sleeper" 2<&4; done
}
