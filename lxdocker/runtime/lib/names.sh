# shellcheck shell=dash disable=SC2154
# The instance's own name in /etc/hosts. As under Docker, it resolves to the instance's address, so that a program that
# looks up its host name announces an address that others can reach.

# The line above the one managed by lxdocker. Images built before this mark existed have only the template's line.
_hosts_mark="# the instance's own name: lxdocker keeps the next line"

# Called after every address change. The name may have changed, too: LXD writes its templates when an instance is
# created or copied, but not when it is imported under another name. Several processes may run this at once, so it
# repeats until the file includes all changes.
write_own_name() {
	own_address
	own_hostname
	_written=
	{ read -r _written <"$_net/own"; } 2>/dev/null
	while [ "$_written" != "$_own $_hostname" ]; do
		_written="$_own $_hostname"
		put_own_name
		{ echo "$_written" >"$_net/own"; } 2>/dev/null
		own_address
		own_hostname
	done
}

# Starts no process, since it runs at each start.
own_hostname() {
	_hostname=
	read -r _hostname </proc/sys/kernel/hostname
}

# Sets own to the first interface's address, IPv4 before IPv6, or to a loopback address if there is none.
own_address() {
	for _file in "$_net"/address4.eth0 "$_net"/address6.eth0 "$_net"/slaac.eth0 \
		"$_net"/address4.* "$_net"/address6.* "$_net"/slaac.*; do
		_own=
		[ -s "$_file" ] && read -r _own _ <"$_file"
		_own=${_own%%/*}
		case "$_own" in '' | *[!0-9A-Fa-f.:]*) ;; *) return ;; esac
	done
	_own=127.0.1.1
}

# Changes only that line, and only if necessary; nothing if the user has added another line for this name, or has
# mounted the file.
put_own_name() {
	[ -f /etc/hosts ] && [ ! -L /etc/hosts ] && [ -n "$_hostname" ] || return
	_new=/etc/.hosts.lxd.$$
	# Keeps owner and mode.
	"$_bb" cp -p /etc/hosts "$_new" 2>/dev/null || return
	# Prints the old name; status 1 if there is nothing to change.
	# shellcheck disable=SC2016 # awk's own
	if _old=$("$_bb" awk -v own="$_own" -v name="$_hostname" -v mark="$_hosts_mark" -v new="$_new" '
		function short(text) { sub(/\..*/, "", text); return text }
		function is_named(line,    words, count, at) {
			sub(/#.*/, "", line)
			count = split(line, words)
			for (at = 2; at <= count; at++) if (words[at] == name) return 1
			return 0
		}
		{ lines[NR] = $0 }
		$0 == mark { at = NR + 1 }
		/^127\.0\.1\.1\t[A-Za-z0-9-]+$/ && !template { template = NR }
		END {
			if (at && lines[at] !~ /^[0-9A-Fa-f.:]+[ \t]+[^ \t#]/) { lines[at - 1] = ""; gone = at - 1; at = 0 }
			else if (at) gone = at - 1
			else at = template
			wanted = own "\t" name (short(name) == name ? "" : " " short(name))
			if (at) {
				count = split(lines[at], words)
				old = words[2]
				# Names added to the line by the user stay.
				for (word = 3; word <= count; word++)
					if (words[word] != short(old) && words[word] != name) wanted = wanted " " words[word]
			}
			print old
			for (line = 1; line <= NR; line++) if (line != at && line != gone && is_named(lines[line])) theirs = 1
			if (theirs ? !at && !gone : gone && at && lines[at] == wanted) exit 1
			if (!at) at = NR + 1
			for (line = 1; line <= NR || line == at; line++) {
				if (line == gone) continue
				if (line != at) print lines[line] >new
				else if (!theirs) print mark "\n" wanted >new
			}
			close(new)
		}' /etc/hosts 2>/dev/null); then
		put_hostname
		"$_bb" mv -f "$_new" /etc/hosts 2>/dev/null
	fi
	[ ! -e "$_new" ] || "$_bb" rm -f "$_new" 2>/dev/null
}

# Updates /etc/hostname if it has the same old name.
put_hostname() {
	_said=
	[ -n "$_old" ] && [ "$_old" != "$_hostname" ] && [ ! -L /etc/hostname ] && [ -r /etc/hostname ] || return 0
	read -r _said </etc/hostname
	[ "$_said" = "$_old" ] || return 0
	_newer=/etc/.hostname.lxd.$$
	{
		"$_bb" cp -p /etc/hostname "$_newer" && echo "$_hostname" >"$_newer" && "$_bb" mv -f "$_newer" /etc/hostname
	} 2>/dev/null || "$_bb" rm -f "$_newer" 2>/dev/null
}
