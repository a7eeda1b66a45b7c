#!/bin/busybox sh
# shellcheck shell=dash
# To be sourced. note ran|failed COMMAND…: notes in the file $ran what a script of a build has run, or which command's
# message is the reason that it fails, for build.sh to tell.
# quoted WORD…: prints the words as a shell reads them back, in one line where none has a newline. Without starting any
# program, which in a builder takes as long as much of a build.
quoted() {
	line=
	for word; do
		case $word in
		'' | *[!A-Za-z0-9_@%+=:,./-]*)
			rest=$word word=
			while :; do
				case $rest in
				*\'*) word="$word${rest%%\'*}'\\''" rest=${rest#*\'} ;;
				*) break ;;
				esac
			done
			word="'$word$rest'"
			;;
		esac
		line="$line${line:+ }$word"
	done
	printf '%s\n' "$line"
}

# shellcheck disable=SC2154 # build.sh exports it
note() {
	noted=$1
	shift
	echo "$noted $(quoted "$@")" >>"$ran"
}
