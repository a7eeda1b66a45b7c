# Turns /lxd-instance (NAME=VALUE, both url-encoded) into shell assignments, every value single-quoted.
# entrypoint and cmd are JSON lists of strings; they become functions that append the words to a command.
# A typo must not keep an instance from starting: it is said, and the image's setting stays. Only a command that can't be
# read is an error (_settings_error), since no other one would be right.

BEGIN {
	for (i = 0; i < 256; i++) {
		byte[sprintf("%02X", i)] = sprintf("%c", i)
		number[sprintf("%02X", i)] = i
	}
	quote = sprintf("%c", 39)
	settings = "cmd dns entrypoint fill_volumes network prelaunch restart restart_unhealthy stop_grace umask"
	# Those of a spec that are decided when the image is built.
	built_in = " aliases disable_supervisor environment extends files healthcheck image labels layers packages ports properties run stop_signal templates tmpfs user variables volumes working_dir "
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

# Fit for a message: on one line, and not too long.
function shown(text) {
	gsub(/[[:cntrl:]]/, "?", text)
	return length(text) > 100 ? substr(text, 1, 100) "..." : text
}

function say(text) { print "say " quoted(text) }

# Prints the assignment if the value is usable, else says what would be.
function assign(name, value, is_usable, usable) {
	if (is_usable) print "_" name "=" quoted(value)
	else say("user.lxdocker." name ": " quote shown(value) quote " is not " usable "; the setting of the image stays")
}

# How many letters have to be changed, added, removed or swapped with their neighbour to get from one word to the other.
function distance(from, to,    row, column, cost, best, cells) {
	for (row = 0; row <= length(from); row++) cells[row, 0] = row
	for (column = 0; column <= length(to); column++) cells[0, column] = column
	for (row = 1; row <= length(from); row++)
		for (column = 1; column <= length(to); column++) {
			cost = substr(from, row, 1) != substr(to, column, 1)
			best = cells[row - 1, column - 1] + cost
			if (cells[row - 1, column] + 1 < best) best = cells[row - 1, column] + 1
			if (cells[row, column - 1] + 1 < best) best = cells[row, column - 1] + 1
			if (row > 1 && column > 1 && substr(from, row - 1, 2) == substr(to, column, 1) substr(to, column - 1, 1) && cells[row - 2, column - 2] + 1 < best)
				best = cells[row - 2, column - 2] + 1
			cells[row, column] = best
		}
	return cells[length(from), length(to)]
}

# Names the setting that was probably meant by an unknown key.
function say_unknown(key,    own, count, names, at, apart, nearest, meant) {
	own = substr(key, length("user.lxdocker") + 2)
	if (key ~ /^user\.lxdocker\./ && index(built_in, " " own " ")) {
		say(key " has no effect: only the image" quote "s spec has " own)
		return
	}
	count = split(settings " init_script", names, " ")
	nearest = length(own) < 6 ? 2 : 3 # more apart, they are different words
	for (at = 1; at <= count; at++) {
		apart = length(own) <= 30 ? distance(tolower(own), names[at]) : nearest
		if (apart < nearest) {
			nearest = apart
			meant = "user.lxdocker" (names[at] == "init_script" ? "_" : ".") names[at]
		}
	}
	if (meant != "") say("unknown setting " shown(key) " is ignored; did you mean " meant "?")
	else say("unknown setting " shown(key) " is ignored; user.lxdocker. has " settings)
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
	if (name == "user.lxdocker_init_script") next
	key = name
	if (!sub(/^user\.lxdocker\./, "", name)) {
		if (key ~ /^user\.lxdocker/) say_unknown(key)
		next
	}
	if (name == "entrypoint" || name == "cmd") {
		if (json_list(value))
			printf "_instance_has_%s=yes\nwith_instance_%s() { \"$@\"%s; }\n", name, name, words
		else
			print "_settings_error=" quoted("user.lxdocker." name " is not a JSON list of strings: " value)
	} else if (name == "stop_grace")
		assign(name, value, value ~ /^[0-9]+$/ && length(value) < 6, "a number of seconds, such as 30")
	else if (name == "restart" && value == "unless-stopped")
		assign(name, value, 0, "a policy here (always is the same: LXD stops an instance only on request)")
	else if (name == "restart")
		assign(name, value, value ~ /^(no|always|on-failure|on-failure:[0-9]+)$/, "no, on-failure, on-failure:N or always")
	else if (name == "prelaunch")
		assign(name, value, value ~ /^(optional|required)$/, "optional or required")
	else if (name == "restart_unhealthy" || name == "fill_volumes")
		assign(name, value, value ~ /^(true|false)$/, "true or false")
	else if (name == "umask")
		assign(name, value, value ~ /^0?[0-7][0-7][0-7]$/, "an octal umask, 000 to 0777")
	else if (name == "network" || name == "dns")
		print "_" name "=" quoted(value)
	else
		say_unknown(key)
}
