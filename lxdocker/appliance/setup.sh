#!/bin/sh
# shellcheck shell=dash
# setup.sh STEP ...: what is done in an appliance to make it one, with what Debian has. Each step can be repeated.
#
#   packages DIR PACKAGE…   installs Debian packages: from DIR, if there are any, else from the mirror
#   python                  prints the version of Python, and the machine and libc that its libraries are for
#   unpack ARCHIVE          installs lxdocker from what lxdocker.appliance.bundle makes
#   deb FILE DIR            installs lxdocker's own package
#   key DIR NAME            makes the key and certificate for LXD in DIR, prints the certificate
#   identity                keeps the machine-id for the appliance's next container, or prints `changed`: it has another
#   calendar CALENDAR CRON  fails where neither systemd nor cron, for which CRON says the same, keeps the calendar
#   start CALENDAR DELAY CRON SECONDS
#                           starts the timer and the server: by systemd, or where that does not run by cron, with
#                           CRON in place of CALENDAR (empty if cron can't keep that), and SECONDS in place of DELAY
#   stop                    the opposite
#   facts                   prints what `lxdocker appliance status` shows, as KEY=VALUE
#   log LINES               prints what sync and serve have said
set -eu
export DEBIAN_FRONTEND=noninteractive

cron=/etc/cron.d/lxdocker
timed=/usr/local/sbin/lxdocker-timer
last=/run/lxdocker-sync.last
logs=/var/log/lxdocker.log
serving=/run/lxdocker-serve.pid

has_systemd() { [ -d /run/systemd/system ]; }

has_default_route() {
	tab=$(printf '\t')
	grep -qs "^[^$tab]*${tab}00000000$tab" /proc/net/route ||
		grep -qsE '^0{32} 00 0{32} 00 [0-9a-f]*[1-9a-f]' /proc/net/ipv6_route
}

is_installed() { # PACKAGE
	case $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) in *'ok installed') ;; *) return 1 ;; esac
}

has_debs() { # DIR
	[ -n "$(find "$1" -name '*.deb' 2>/dev/null | head -n 1)" ]
}

packages() { # DIR PACKAGE…
	dir=$1
	shift
	has_systemd || set -- "$@" cron
	for package; do
		shift
		is_installed "$package" || set -- "$@" "$package"
	done
	[ $# -gt 0 ] || return 0
	if has_debs "$dir"; then
		from_folder "$dir"/*.deb
		return
	fi
	i=0
	until has_default_route; do
		i=$((i + 1))
		[ "$i" -le 60 ] || { echo 'no default route after 60 s' >&2; exit 69; }
		sleep 1
	done
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends "$@" >&2
}

from_folder() { # FILE…
	apt-get -qq install -y --no-install-recommends "$@" >&2
}

deb() { # FILE DIR
	if has_debs "$2"; then
		from_folder "$1" "$2"/*.deb
	else
		apt-get -qq update
		apt-get -qq install -y --no-install-recommends "$1" >&2
	fi
}

unpack() { # ARCHIVE
	rm -rf /opt/lxdocker
	mkdir -p /opt/lxdocker /usr/local/bin
	tar -xzf "$1" -C /opt/lxdocker --no-same-owner
	rm "$1"
	python3 -m compileall -q /opt/lxdocker/lib || :
	ln -sf /opt/lxdocker/bin/lxdocker /usr/local/bin/lxdocker
}

key() { # DIR NAME
	umask 077
	mkdir -p "$1"
	if [ ! -s "$1/client.crt" ] || [ ! -s "$1/client.key" ]; then
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384 -nodes -days 3650 \
			-subj "/O=lxdocker/CN=$2" -keyout "$1/client.key" -out "$1/client.crt.new" 2>/dev/null
		mv "$1/client.crt.new" "$1/client.crt"
	fi
	cat "$1/client.crt"
}

# Images belong to a folder of specs on a machine.
identity() {
	kept=/var/lib/lxdocker/machine-id
	if [ -s "$kept" ]; then
		cmp -s "$kept" /etc/machine-id || { cat "$kept" >/etc/machine-id; echo changed; }
	elif [ -s /etc/machine-id ]; then
		cat /etc/machine-id >"$kept.new"
		mv "$kept.new" "$kept"
	fi
}

drop_in() { # UNIT LINE…
	folder=/etc/systemd/system/$1.d
	shift
	mkdir -p "$folder"
	printf '%s\n' '# Written by lxdocker appliance.' "$@" >"$folder/appliance.conf"
}

# The container is a sandbox itself, and may not allow the units another one.
relax() {
	if systemd-run --quiet --wait --collect -p ProtectSystem=strict -p PrivateTmp=yes -p PrivateDevices=yes \
		-p ProtectControlGroups=yes -p ProtectKernelTunables=yes true; then
		return
	fi
	for unit in lxdocker-sync.service lxdocker-serve.service; do
		drop_in "$unit" '[Service]' ProtectSystem=no ProtectHome=no PrivateTmp=no PrivateDevices=no PrivateUsers=no \
			ProtectControlGroups=no ProtectKernelTunables=no ProtectKernelModules=no ProtectKernelLogs=no \
			ProtectProc=default ProtectHostname=no ProtectClock=no
	done
}

# The configuration, which may hold a login.
let_server_read() {
	chgrp lxdocker-serve /etc/lxdocker/config.yaml
	chmod 640 /etc/lxdocker/config.yaml
}

calendar() { # CALENDAR CRON
	[ -n "$2" ] || has_systemd || { echo "this base has no systemd, and cron can't keep the calendar $1" >&2; exit 78; }
}

start() { # CALENDAR DELAY CRON SECONDS
	if has_systemd; then
		lxdocker units --install >/dev/null
		systemd-sysusers /etc/sysusers.d/lxdocker.conf
		systemd-tmpfiles --create /etc/tmpfiles.d/lxdocker.conf
		drop_in lxdocker-sync.timer '[Timer]' OnCalendar= "OnCalendar=$1" "RandomizedDelaySec=$2" AccuracySec=1s
		let_server_read
		systemctl daemon-reload
		relax
		systemctl daemon-reload
		systemctl --quiet enable lxdocker-sync.timer lxdocker-serve.service
		systemctl restart lxdocker-serve.service
		systemctl start lxdocker-sync.timer
	else
		start_by_cron "$@"
	fi
}

start_by_cron() { # CALENDAR DELAY CRON SECONDS
	mkdir -p /etc/cron.d /usr/local/sbin /var/lib/lxdocker/tree /var/lib/lxdocker/tls
	grep -q "^lxdocker-serve:" /etc/passwd ||
		useradd --system --home-dir /var/lib/lxdocker/tls --shell /usr/sbin/nologin lxdocker-serve
	chmod 700 /var/lib/lxdocker/tls
	chown -R lxdocker-serve: /var/lib/lxdocker/tls
	let_server_read
	cat >"$timed" <<-TEXT
		#!/bin/sh
		# lxdocker-timer sync|serve: what cron runs. A sync after a random delay; the server, unless it runs.
		case \$1 in
		sync)
		    sleep "\$((\$(od -An -N4 -tu4 /dev/urandom) % $(($4 + 1))))"
		    date +%s >$last
		    exec lxdocker sync -q >>$logs 2>&1
		    ;;
		serve)
		    exec 9>>$serving.lock
		    flock -n 9 || exit 0
		    XDG_DATA_HOME=/var/lib LXDOCKER_TREE=/var/lib/lxdocker/tree LXDOCKER_TLS_DIR=/var/lib/lxdocker/tls \\
		        /usr/bin/setpriv --reuid lxdocker-serve --regid lxdocker-serve --clear-groups \\
		        --inh-caps=+net_bind_service --ambient-caps=+net_bind_service -- lxdocker serve >>$logs 2>&1 &
		    echo \$! >$serving
		    wait
		    ;;
		esac
	TEXT
	chmod 755 "$timed"
	{
		echo 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
		echo "$3 root $timed sync"
		echo "* * * * * root $timed serve"
	} >"$cron"
	run_cron
	stop_server
	setsid "$timed" serve </dev/null >/dev/null 2>&1 &
}

# Without an init of Debian's, the package does not start it.
run_cron() {
	i=0
	until pidof cron crond >/dev/null; do
		i=$((i + 1))
		[ "$i" != 1 ] || service cron start >/dev/null 2>&1 || :
		[ "$i" -le 50 ] || { echo 'cron does not run, and nothing here starts it' >&2; exit 69; }
		sleep 0.1
	done
}

# The lock tells whether it runs: the file with its PID may be from before a restart.
serves() { [ -e "$serving.lock" ] && ! flock -n "$serving.lock" true; }

stop_server() {
	i=0
	while serves && [ "$i" -le 100 ]; do
		kill "$(cat "$serving")" 2>/dev/null || :
		i=$((i + 1))
		sleep 0.1
	done
}

stop() {
	if has_systemd; then
		systemctl --quiet disable --now lxdocker-sync.timer lxdocker-serve.service || :
	else
		rm -f "$cron"
		stop_server
	fi
}

facts() {
	echo "version=$(lxdocker --version 2>/dev/null | head -n 1)"
	if has_systemd; then
		echo "timer=systemd"
		systemctl show --timestamp=unix lxdocker-sync.timer -p ActiveState -p LastTriggerUSec -p NextElapseUSecRealtime |
			while IFS='=' read -r key value; do
				# Some versions of systemd write the next run in words all the same.
				case $value in '' | @* | [a-z]*) ;; *) value=@$(date -d "$value" +%s) ;; esac
				echo "timer.$key=$value"
			done
		systemctl show lxdocker-sync.service -p ActiveState -p Result | sed 's/^/sync./'
		systemctl show lxdocker-serve.service -p ActiveState | sed 's/^/serve./'
		return
	fi
	echo "timer=cron"
	if [ -e "$cron" ]; then echo timer.ActiveState=active; else echo timer.ActiveState=inactive; fi
	if [ -e "$last" ]; then echo "timer.LastTriggerUSec=@$(cat "$last")"; fi
	if serves; then echo serve.ActiveState=active; else echo serve.ActiveState=failed; fi
}

log() { # LINES
	if has_systemd; then
		journalctl --quiet --no-pager --lines "$1" --unit lxdocker-sync --unit lxdocker-serve
	else
		tail -n "$1" "$logs"
	fi
}

step=$1
shift
case $step in
packages) packages "$@" ;;
python)
	python3 -c 'import platform, sys
print("%d.%d %s-%s" % (*sys.version_info[:2], platform.machine(), platform.libc_ver()[0] or "libc"))'
	;;
unpack) unpack "$@" ;;
deb) deb "$@" ;;
key) key "$@" ;;
identity) identity ;;
calendar) calendar "$@" ;;
start) start "$@" ;;
stop) stop ;;
facts) facts ;;
log) log "$@" ;;
esac
