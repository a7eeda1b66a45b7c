# shellcheck shell=dash disable=SC2154
# Validates addresses, and normalizes their notation.

is_address_with_prefix() {
	_prefix=${1#*/}
	case "$_prefix" in "$1" | '' | *[!0-9]* | ????*) return 1 ;; esac
	if is_ipv4 "${1%%/*}"; then [ "$_prefix" -le 32 ]; else is_ipv6 "${1%%/*}" && [ "$_prefix" -le 128 ]; fi
}

is_gateway_for() {
	case "$1" in
	*:*) is_ipv6 "$2" ;;
	*) is_ipv4 "$2" ;;
	esac
}

is_ipv4() {
	case "$1" in '' | *[!0-9.]* | .* | *. | *..*) return 1 ;; esac
	_ifs=$IFS
	IFS=.
	# shellcheck disable=SC2086 # its four numbers
	set -- $1
	IFS=$_ifs
	[ $# -eq 4 ] || return 1
	for _number; do
		case "$_number" in ????* | 0?*) return 1 ;; esac
		[ "$_number" -le 255 ] || return 1
	done
}

is_ipv6() {
	_groups=0
	case "$1" in
	*[!0-9A-Fa-f:.]* | *:::* | *::*::* | *.*:*) return 1 ;;
	*::) ;;
	*:) return 1 ;;
	::*) ;;
	:*) return 1 ;;
	esac
	_text=$1
	case "$1" in *:*) ;; *) return 1 ;; esac
	_ifs=$IFS
	IFS=:
	# shellcheck disable=SC2086 # its groups
	set -- $1
	IFS=$_ifs
	for _number; do
		case "$_number" in
		'') continue ;;
		*.*)
			is_ipv4 "$_number" || return 1
			_groups=$((_groups + 1))
			;;
		?????*) return 1 ;;
		esac
		_groups=$((_groups + 1))
	done
	case "$_text" in *::*) [ "$_groups" -le 7 ] ;; *) [ "$_groups" -eq 8 ] ;; esac
}

# Sets short to the usual short form of an IPv6 address. $1: all eight groups, or already short.
shorten_ipv6() {
	_short=
	case "$1" in *::* | *.*) _short=$1 && return ;; esac
	_ifs=$IFS
	IFS=:
	# shellcheck disable=SC2086 # its groups
	set -- $1
	IFS=$_ifs
	for _number; do
		while :; do case "$_number" in 0?*) _number=${_number#0} ;; *) break ;; esac done
		_short="$_short:$_number"
	done
	_short=$_short:
	for _zeros in 0:0:0:0:0:0:0:0 0:0:0:0:0:0:0 0:0:0:0:0:0 0:0:0:0:0 0:0:0:0 0:0:0 0:0; do
		case "$_short" in
		*":$_zeros:"*)
			_short="${_short%%":$_zeros:"*}::${_short#*":$_zeros:"}"
			_short=${_short#:}
			case "$_short" in *[!:]:) _short=${_short%:} ;; esac
			case "$_short" in [!:]* | ::*) ;; *) _short=:$_short ;; esac
			return
			;;
		esac
	done
	_short=${_short#:}
	_short=${_short%:}
}
