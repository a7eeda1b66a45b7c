# Turns /lxd-instance (NAME=VALUE, both url-encoded) into shell assignments, every value single-quoted.
# entrypoint and cmd are JSON lists of strings; they become functions that append the words to a command.

BEGIN {
	for (i = 0; i < 256; i++) {
		byte[sprintf("%02X", i)] = sprintf("%c", i)
		number[sprintf("%02X", i)] = i
	}
	quote = sprintf("%c", 39)
}

# Not with gsub: the meaning of a backslash in its replacement differs between awks, and between busybox versions.
function quoted(text,    parts, count, at, out) {
	count = split(text, parts, quote)
	out = parts[1]
	for (at = 2; at <= count; at++) out = out quote "\\" quote quote parts[at]
	return quote out quote
}

function urldecoded(text,    out, at) {
	gsub(/\+/, " ", text)
	out = ""
	while ((at = index(text, "%"))) {
		out = out substr(text, 1, at - 1) byte[toupper(substr(text, at + 1, 2))]
		text = substr(text, at + 3)
	}
	return out text
}

function utf8(code) {
	if (code < 128) return sprintf("%c", code)
	if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
	if (code < 65536) return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
	return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, 128 + int(code / 64) % 64, 128 + code % 64)
}

function hex4(text) {
	text = toupper(text)
	if (text !~ /^[0-9A-F][0-9A-F][0-9A-F][0-9A-F]$/) return -1
	return number[substr(text, 1, 2)] * 256 + number[substr(text, 3, 2)]
}

# RFC 8259, as far as a list of strings goes. Sets `words` to them, quoted; returns whether it was one.
function json_list(text,    word, c, code, low) {
	words = ""
	if (text !~ /^[ \t\n\r]*\[/) return 0
	sub(/^[ \t\n\r]*\[[ \t\n\r]*/, "", text)
	if (text ~ /^\][ \t\n\r]*$/) return 1
	while (substr(text, 1, 1) == "\"") {
		text = substr(text, 2)
		word = ""
		while ((c = substr(text, 1, 1)) != "\"") {
			if (c == "") return 0
			if (c != "\\") {
				word = word c
				text = substr(text, 2)
				continue
			}
			c = substr(text, 2, 1)
			text = substr(text, 3)
			if (c == "n") word = word "\n"
			else if (c == "t") word = word "\t"
			else if (c == "r") word = word "\r"
			else if (c == "b") word = word "\b"
			else if (c == "f") word = word "\f"
			else if (c == "\"" || c == "\\" || c == "/") word = word c
			else if (c == "u") {
				code = hex4(substr(text, 1, 4))
				text = substr(text, 5)
				if (code >= 55296 && code < 56320 && substr(text, 1, 2) == "\\u") {
					low = hex4(substr(text, 3, 4))
					text = substr(text, 7)
					if (low < 56320 || low > 57343) return 0
					code = 65536 + (code - 55296) * 1024 + (low - 56320)
				}
				if (code < 1) return 0
				word = word utf8(code)
			} else return 0
		}
		words = words " " quoted(word)
		text = substr(text, 2)
		sub(/^[ \t\n\r]*/, "", text)
		if (text ~ /^\][ \t\n\r]*$/) return 1
		if (substr(text, 1, 1) != ",") return 0
		sub(/^,[ \t\n\r]*/, "", text)
	}
	return 0
}

{
	at = index($0, "=")
	name = urldecoded(substr($0, 1, at - 1))
	value = urldecoded(substr($0, at + 1))
	if (value == "") next
	# Added by the template itself.
	if (name ~ /^(disks|sysctls|raw_sysctls)$/) {
		print "_" name "=" quoted(value)
		next
	}
	if (!sub(/^user\.lxdocker\./, "", name)) next
	if (name == "entrypoint" || name == "cmd") {
		if (json_list(value))
			printf "_instance_has_%s=yes\nwith_instance_%s() { \"$@\"%s; }\n", name, name, words
		else
			print "_settings_error=" quoted("user.lxdocker." name " is not a JSON list of strings: " value)
	} else if (name == "stop_grace" && value !~ /^[0-9]+$/)
		print "_settings_error=" quoted("user.lxdocker.stop_grace is not a number of seconds: " value)
	else if (name == "restart" && value !~ /^(no|always|on-failure|on-failure:[0-9]+)$/)
		print "_settings_error=" quoted("user.lxdocker.restart is not no, on-failure, on-failure:N or always: " value)
	else if (name == "prelaunch" && value !~ /^(optional|required)$/)
		print "_settings_error=" quoted("user.lxdocker.prelaunch is not optional or required: " value)
	else if (name == "restart_unhealthy" && value !~ /^(true|false)$/)
		print "_settings_error=" quoted("user.lxdocker.restart_unhealthy is not true or false: " value)
	else if (name == "fill_volumes" && value !~ /^(true|false)$/)
		print "_settings_error=" quoted("user.lxdocker.fill_volumes is not true or false: " value)
	else if (name == "umask" && value !~ /^0?[0-7][0-7][0-7]$/)
		print "_settings_error=" quoted("user.lxdocker.umask is not an octal umask, 000 to 0777: " value)
	else if (name ~ /^(stop_grace|restart|prelaunch|restart_unhealthy|fill_volumes|umask|network|dns)$/)
		print "_" name "=" quoted(value)
	else
		print "say " quoted("user.lxdocker." name " is not a setting that this image knows; ignored")
}
