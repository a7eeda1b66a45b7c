# shellcheck shell=bash
# Shared by the scripts beside this file. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# State must survive between runs; the cache may be deleted at any time.
state=${LXDOCKER_TEST_STATE:-/var/lib/lxdocker-dev}
cache=${LXDOCKER_TEST_CACHE:-/var/cache/lxdocker-dev}
# shellcheck disable=SC2034  # used by the scripts that source this
readonly root state cache

# dnsmasq, nft and losetup are in folders missing from the PATH of cron and some CI runners.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# If stdin were closed, the first opened file would become the stdin of everything started later.
{ : <&0; } 2>/dev/null || exec </dev/null
umask 022

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

need_root() {
    [ "$(id -u)" -eq 0 ] || die "this needs root: sudo $0"
}

usage() { # the comment at the top of the script is its help
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit
}

misuse() {
    say "$*"
    (usage) >&2
    exit 2
}

# One script at a time per NAME; the lock is released when the script ends, for whatever reason. Daemons must be started
# with 9>&-, or they would keep the lock.
lock() { # NAME
    mkdir -p /run/lock
    exec 9>"/run/lock/lxdocker-dev-$1.lock"
    flock -n 9 || { say "waiting for another run ..."; flock -w 900 9 || die "another run holds the lock '$1'"; }
}

unlock() { exec 9>&-; }

# Installs missing Debian packages.
apt_install() { # PACKAGE...
    local missing=() package
    for package; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *"ok installed" ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    need_root
    command -v apt-get >/dev/null || die "missing: ${missing[*]} (only Debian's apt-get is known here; install them yourself)"
    say "installing ${missing[*]}"
    (
        # Some of these packages contain a daemon, which must not start on the user's machine.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        install=(apt-get -qq -o DPkg::Lock::Timeout=600 install --no-install-recommends "${missing[@]}")
        # The package lists of a fresh or long unused machine are empty or stale.
        "${install[@]}" || { apt-get -qq -o DPkg::Lock::Timeout=600 update && "${install[@]}"; }
    ) </dev/null 9>&- >&2 || die "could not install ${missing[*]}; see above"
}

# This machine's own LXD.
install_lxd() {
    # Debian's lxc command would hide the snap's, and the user's next `lxc list` would ask the wrong daemon.
    if [ ! -x /usr/bin/lxd ] && [ -d /var/snap/lxd ]; then
        die "LXD is here as a snap, and Debian's lxd package would get in its way: run this on another machine or in a VM" \
            "(or, if you do not mind: apt-get install lxd, and use /snap/bin/lxc for the snap's)"
    fi
    apt_install lxd lxd-client
    [ -x /usr/bin/lxd ] || die "the package lxd has no /usr/bin/lxd here: this needs Debian 12 or newer"
}

# Run-time requirements of any LXD on a machine without systemd.
install_lxd_tools() {
    # btrfs-progs: LXD offers the btrfs driver only if the package is installed when the daemon starts.
    apt_install dnsmasq-base nftables iptables iproute2 uidmap squashfs-tools attr rsync xz-utils btrfs-progs psmisc procps
}

# The Python to use: $PYTHON, or the system's, or another one if that is too old.
find_python() {
    local python
    if [ -n "${PYTHON:-}" ]; then
        is_suitable "$PYTHON" || die "PYTHON=$PYTHON: not a Python of version 3.11 or later with venv; name another, or none"
        printf '%s\n' "$PYTHON"
        return
    fi
    # Python is missing, or lacks the parts needed for a virtual environment.
    if [ "$(id -u)" -eq 0 ] && ! is_suitable /usr/bin/python3; then apt_install python3 python3-venv; fi
    for python in /usr/bin/python3 python3; do
        if is_suitable "$python"; then
            printf '%s\n' "$python"
            return
        fi
    done
    die "no Python of version 3.11 or later with venv here: apt-get install python3 python3-venv, or name one in PYTHON"
}

is_suitable() { # PYTHON
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Creates a virtual environment with the checkout installed as editable. Prints its directory.
venv() { # DIR [EXTRAS, such as [test]]
    local dir=$1 extras=${2:-} python want
    (
        lock "venv-$(printf %s "$dir" | sha256sum | cut -c1-8)"
        python=$(find_python)
        # A hash of everything that determines the contents: recreated when it changes, reused otherwise.
        want=$("$python" -VV; cat "$root/pyproject.toml"; echo "$root $extras")
        if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$want" ] || ! "$dir/bin/python" -c '' 2>/dev/null; then
            say "installing the checkout in $dir"
            rm -rf "$dir"
            mkdir -p "$(dirname "$dir")"
            "$python" -m venv "$dir" >&2
            "$dir/bin/pip" install -qq --disable-pip-version-check -e "$root$extras" </dev/null 9>&- >&2
            printf '%s\n' "$want" >"$dir/stamp"
        fi
    ) || die "could not install the checkout in $dir; see above"
    printf '%s\n' "$dir"
}

free_port() {
    perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'
}

# Retries a command for SECONDS until it succeeds.
wait_for() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# PIDs of processes whose command line matches the glob PATTERN (all arguments, separated by spaces).
# Not pgrep -f, which would interpret a directory name as a regular expression.
pids_of() { # PATTERN
    local file arguments
    for file in /proc/[0-9]*/cmdline; do
        { mapfile -d '' -t arguments <"$file"; } 2>/dev/null || continue
        # shellcheck disable=SC2053  # a pattern is wanted
        [[ "${arguments[*]}" == $1 ]] && file=${file#/proc/} && printf '%s\n' "${file%/cmdline}"
    done
    return 0
}

# Ends processes by PID: with SIGTERM, and after SECONDS with SIGKILL.
end_pids() { # SECONDS PID...
    local seconds=$1 pid
    shift
    for pid; do kill "$pid" 2>/dev/null || true; done
    for pid; do
        wait_for "$seconds" gone "$pid" || { kill -KILL "$pid" 2>/dev/null && wait_for 5 gone "$pid"; } || true
    done
}

gone() { # PID: ended, or a zombie
    [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}
