# shellcheck shell=dash
# log_output.sh FOLDER: copies stdin to stdout and to FOLDER/current, which becomes FOLDER/previous once it is large.
# Ends at the end of stdin. The application's output may have any length and content, so it is not read in lines; each
# block is copied at once.
trap '' HUP INT QUIT TERM USR1 USR2 ALRM # ignores signals sent to all processes
bb=/busybox-lxd
folder=$1
limit=1048576
case $folder in /dev/*) limit=65536 ;; esac
blocks=$((limit / 4096)) # so that neither file exceeds twice the limit
pipe=$folder/.pipe

cd "$folder" || exit
"$bb" rm -f "$pipe"
"$bb" mkfifo -m 600 "$pipe" || exec "$bb" cat
# A shell would redirect a background process's stdin to /dev/null.
exec 4<&0
"$bb" tee "$pipe" <&4 4<&- &
exec <"$pipe" 4<&- >/dev/null
"$bb" rm -f "$pipe"
while :; do
	# dd writes every block that it reads, however short, and reports their number.
	said=$("$bb" dd bs=4096 count="$blocks" 2>&1 >>current) ||
		# The disk is full: makes room for new output, or for the next start.
		{ : >previous && : >current && said=$("$bb" dd bs=4096 count="$blocks" 2>&1 >>current); } ||
		said=$("$bb" dd bs=4096 count="$blocks" 2>&1 >/dev/null)
	full=${said%%+*} partial=${said#*+}
	[ "$((full + ${partial%% *}))" -eq "$blocks" ] || exit 0
	[ "$("$bb" stat -c %s current)" -lt "$limit" ] || "$bb" mv current previous
done
