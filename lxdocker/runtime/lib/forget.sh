# shellcheck shell=dash disable=SC3045
# (SC3045: busybox's read has -d.)
# The environment of a runtime program, from LXD's `environment.*` or lxc exec, is
# meant for the application and stays readable in /proc. It is removed from this shell, so that it sets none of the
# shell's variables and reaches none of its child processes.
while IFS= read -r -d '' _entry; do
	case "${_entry%%=*}" in
	'' | [0-9]* | *[!A-Za-z0-9_]* | _stopping) ;;
	*) unset -v "${_entry%%=*}" ;;
	esac
done <"/proc/$$/environ"
