# shellcheck shell=dash disable=SC2154
# Volumes, as under Docker: an empty volume receives the image's files at its mount point.

# Marks a volume that is being filled, until all files are on disk. A volume with this file is incomplete, and its
# contents can be deleted, since it was empty before. The file is removed before any application starts.
_filling=.lxdocker-filling
# Several instances may share a volume. The one that creates this FIFO may fill the volume; others wait. It keeps the
# FIFO open, and so is known to exist even while it is frozen.
_claim=.lxdocker-claim
_stale_seconds=5 # the mark and the claim are stale if not touched for so long, and not open

# make_volumes FOLDER...: called by /lxd-image. As under Docker, a declared volume is created even if the image lacks
# the folder.
make_volumes() {
	for _volume; do
		[ -d "$_volume" ] || "$_bb" mkdir -p "$_volume" 2>/dev/null || say "no folder for the volume $_volume"
	done
}

# $_disks lists the mount points of LXD volumes, one per line, and never folders of the host, regardless of their owner.
# Upper paths come first: filling one of them may create the folder of the next.
fill_volumes() {
	[ "$_fill_volumes" = true ] && [ -n "${_disks-}" ] || return 0
	_volumes=$(while IFS= read -r _path; do [ -z "$_path" ] || "$_bb" realpath "/$_path"; done 2>/dev/null <<-DISKS | "$_bb" sort -u
		$_disks
	DISKS
	)
	"$_bb" mkdir -p /dev/.lxd-volume
	while IFS= read -r _volume; do
		# LXD's own mounts hide no files of the image.
		case "$_volume/" in // | /dev/* | /proc/* | /sys/*) continue ;; esac
		[ -d "$_volume" ] || continue
		is_writable_mount "$_volume" || continue
		# A bind mount, which excludes mounts below.
		"$_bb" mount -o bind "$_volume" /dev/.lxd-volume 2>/dev/null || continue
		fill_volume "$_volume" || die "the volume at $_volume can't be filled with the image's files: $_why" 125
		release /dev/.lxd-volume
	done <<-VOLUMES
		$_volumes
	VOLUMES
	"$_bb" rmdir /dev/.lxd-volume 2>/dev/null
	: # what can't be removed hurts nobody
}

# release PLACE: unmounts at once, even if processes that were killed have not ended yet.
release() { "$_bb" umount -l "$1"; }

# uncover PATH: sets $_source to the path of the image's files hidden by mounts at PATH. Fails with the reason in $_why.
uncover() {
	"$_bb" mkdir -p /dev/.lxd-root
	_kept=0
	_source=/dev/.lxd-root$1
	"$_bb" mount -o bind / /dev/.lxd-root 2>/dev/null && return
	# LXD's AppArmor profile may deny that bind mount. Instead, the mounts at PATH, above it and below those are
	# unmounted temporarily. Moving them would require a root that is not shared.
	_top=
	_rest=${1#/}/
	while [ -n "$_rest" ] && [ -z "$(deepest_mount "$_top" only)" ]; do
		_top=$_top/${_rest%%/*}
		_rest=${_rest#*/}
	done
	while _place=$(deepest_mount "$_top") && [ -n "$_place" ]; do
		_kept=$((_kept + 1))
		if [ -d "$_place" ]; then "$_bb" mkdir "/dev/.lxd-kept.$_kept"; else : >"/dev/.lxd-kept.$_kept"; fi
		_why=$("$_bb" mount -o bind "$_place" "/dev/.lxd-kept.$_kept" 2>&1 && release "$_place" 2>&1) || return 1
		eval "_kept_$_kept=\$_place"
	done
	_source=$1
}

# deepest_mount TOP [only]: prints the deepest mount point at or below TOP, or only at TOP. Nothing is mounted on it.
deepest_mount() {
	list_mounts | {
		_deepest=
		while IFS=' ' read -r _ _path; do
			case "$_path" in
			"$1") ;;
			"$1"/*) [ $# -eq 1 ] || continue ;;
			*) continue ;;
			esac
			[ "${#_path}" -lt "${#_deepest}" ] || _deepest=$_path
		done
		printf '%s' "$_deepest"
	}
}

# Restores the mounts.
cover() {
	release /dev/.lxd-root 2>/dev/null
	"$_bb" rmdir /dev/.lxd-root
	while [ "$_kept" -gt 0 ]; do
		eval "_place=\$_kept_$_kept"
		_why=$("$_bb" mount -o bind "/dev/.lxd-kept.$_kept" "$_place" 2>&1) || return 1
		# Removes only the empty mount point, never its contents.
		release "/dev/.lxd-kept.$_kept"
		"$_bb" rmdir "/dev/.lxd-kept.$_kept" 2>/dev/null || "$_bb" rm -f "/dev/.lxd-kept.$_kept"
		_kept=$((_kept - 1))
	done
}

# Prints options and path of each mount, with the path unescaped (see proc(5)).
list_mounts() {
	# shellcheck disable=SC2016 # awk's own
	"$_bb" awk '{
		options = $6 "," $NF
		rest = $5
		path = ""
		while ((at = match(rest, /\\[0-7][0-7][0-7]/))) {
			code = substr(rest, at + 1, 1) * 64 + substr(rest, at + 2, 1) * 8 + substr(rest, at + 3, 1)
			path = path substr(rest, 1, at - 1) sprintf("%c", code)
			rest = substr(rest, at + 4)
		}
		print options " " path rest
	}' /proc/self/mountinfo
}

# Of several mounts, the last one is visible.
is_writable_mount() {
	_options=$(list_mounts | while IFS=' ' read -r _options _path; do
		[ "$_path" != "$1" ] || echo "$_options"
	done | "$_bb" tail -n 1)
	case ",$_options," in ,, | *,ro,*) return 1 ;; esac
}

# fill_volume PATH: fills the volume, which is mounted at /dev/.lxd-volume. Fails with the reason in $_why.
fill_volume() {
	claim_volume "$1" || return 0
	_anew=
	if is_unfinished; then
		say "the volume at $1 was only partly filled; starting over"
		_anew=yes
		empty_volume
	elif ! _why=$( (set -C && umask 077 && : >"/dev/.lxd-volume/$_filling") 2>&1); then
		"$_bb" rm -f "/dev/.lxd-volume/$_claim"
		exec 9>&-
		return 1
	fi
	# For instances on other hosts, and with images that know of no claim.
	# shellcheck disable=SC2016 # for the shell inside
	"$_bb" setsid "$_bb" sh -c 'while "$0" touch -c "$1"; do "$0" sleep 1; done' "$_bb" "/dev/.lxd-volume/$_filling" &
	_alive=$!
	_why=
	_failed=
	{ uncover "$1" && copy_into_volume "$1" && cover && "$_bb" sync -f /dev/.lxd-volume; } || _failed=yes
	"$_bb" kill -KILL "-$_alive" 2>/dev/null
	wait "$_alive" 2>/dev/null
	[ -z "$_failed" ] || empty_volume
	# In this order: a claim that is left could be taken for a file of the application's.
	"$_bb" rm -f "/dev/.lxd-volume/$_claim"
	"$_bb" rm -f "/dev/.lxd-volume/$_filling"
	exec 9>&-
	[ -z "$_failed" ] || return 1
	[ -z "$_age" ] || "$_bb" touch -d "@$_age" /dev/.lxd-volume
	# If the mark came back after a power failure, the next start would delete what the application has written.
	"$_bb" sync -f /dev/.lxd-volume
}

# claim_volume PATH: returns when the volume is this instance's to fill, or fails if there is nothing to fill.
claim_volume() {
	_waited=0
	_seen=
	_told=
	while is_unfinished || is_empty_volume "$1"; do
		# Left by another instance, or by the previous start of this one.
		_signs=$("$_bb" stat -c '%i %Y %n' "/dev/.lxd-volume/$_filling" "/dev/.lxd-volume/$_claim" 2>/dev/null)
		if [ -n "$_signs" ] && [ "$_waited" -lt "$_stale_seconds" ]; then
			_waited=$((_waited + 1))
			[ "$_signs" = "$_seen" ] || _waited=0
			_seen=$_signs
			if is_claim_open; then
				_waited=0
				[ -n "$_told" ] || say "waiting for another instance, which is filling the volume at $1"
				_told=yes
				"$_bb" sleep 1
			fi
			continue
		fi
		[ -z "$_signs" ] || "$_bb" rm -f "/dev/.lxd-volume/$_claim"
		if "$_bb" mkfifo -m 600 "/dev/.lxd-volume/$_claim" 2>/dev/null; then
			exec 9<>"/dev/.lxd-volume/$_claim"
			# At the same time, another instance may have taken the old claim for stale, and removed this one instead.
			[ -z "$_seen" ] || "$_bb" sleep 1
			# Another instance may have filled it in between.
			# Opening it makes a file if it was removed before.
			if [ -p /proc/self/fd/9 ] && is_own_claim && { is_unfinished || is_empty_volume "$1"; }; then return; fi
			! is_own_claim || "$_bb" rm -f "/dev/.lxd-volume/$_claim"
			exec 9>&-
		elif [ ! -e "/dev/.lxd-volume/$_claim" ] || [ -d "/dev/.lxd-volume/$_claim" ]; then
			say "the volume at $1 stays as it is: the instance may not write there"
			return 1
		fi
		_waited=0
	done
	# Left by an instance that was killed when it saw that another one had filled the volume.
	[ ! -e "/dev/.lxd-volume/$_claim" ] || is_claim_open || "$_bb" rm -f "/dev/.lxd-volume/$_claim" 2>/dev/null
	return 1
}

# Whether a living instance of this host has the claim: otherwise, opening the FIFO takes for ever. Takes up to a second.
is_claim_open() {
	if [ -L "/dev/.lxd-volume/$_claim" ] || [ ! -p "/dev/.lxd-volume/$_claim" ]; then
		"$_bb" sleep 1
		return 1
	fi
	# For reading, which makes no file if it is removed now.
	# shellcheck disable=SC2016 # for the shell inside
	"$_bb" timeout -s KILL 1 "$_bb" sh -c ': <"$0"' "/dev/.lxd-volume/$_claim" 2>/dev/null
}

is_own_claim() {
	[ "$("$_bb" stat -Lc %i /proc/self/fd/9)" = "$("$_bb" stat -c %i "/dev/.lxd-volume/$_claim" 2>/dev/null)" ]
}

# Whether the marker exists and only root can have created it.
is_unfinished() {
	[ ! -L "/dev/.lxd-volume/$_filling" ] && [ -f "/dev/.lxd-volume/$_filling" ] &&
		[ "$("$_bb" stat -c '%u %a %h' "/dev/.lxd-volume/$_filling")" = "0 600 1" ]
}

# Whether the volume is empty, except for the filesystem's own files and the mount points that LXD created below PATH.
is_empty_volume() {
	# shellcheck disable=SC2016 # awk's own
	{
		list_mounts
		echo
		"$_bb" find /dev/.lxd-volume -mindepth 1 -path /dev/.lxd-volume/lost+found -prune -o -print
	} 2>/dev/null | _path=$1 _claim=$_claim "$_bb" awk '
		BEGIN { volume = "/dev/.lxd-volume"; path = ENVIRON["_path"] }
		$0 == "" && !found { found = 1; next }
		!found {
			sub(/^[^ ]* /, "")
			if (index($0, path "/") != 1) next
			rest = volume substr($0, length(path) + 1)
			while (rest != volume && rest != "") { leads[rest] = 1; sub(/\/[^\/]*$/, "", rest) }
			next
		}
		$0 != volume "/" ENVIRON["_claim"] && !($0 in leads) { full = 1; exit }
		END { exit full }'
}

# Mount points can't be removed, and stay.
empty_volume() {
	"$_bb" find /dev/.lxd-volume -mindepth 1 -maxdepth 1 ! -name lost+found ! -name "$_filling" \
		! -name "$_claim" -exec "$_bb" rm -rf {} + 2>/dev/null
	:
}

# Copies from $_source. Sets $_age to the folder's modification time.
copy_into_volume() {
	_age=
	# LXD makes volumes root's, with mode 711. Another owner was chosen by somebody, unless this is begun again.
	_owner=0:0 _mode=711
	[ -n "$_anew" ] || _owner=$("$_bb" stat -c '%u:%g' /dev/.lxd-volume) _mode=$("$_bb" stat -c %a /dev/.lxd-volume)
	# If a link leads there, the image has no folder of its own at this path.
	if [ ! -d "$_source" ] || [ "$("$_bb" realpath "$_source")" != "$_source" ]; then
		[ -z "$_anew" ] || "$_bb" chown 0:0 /dev/.lxd-volume
		case "$_owner $_mode" in '0:0 '* | *' 711') "$_bb" chmod 755 /dev/.lxd-volume ;; esac
		return
	fi
	_age=$("$_bb" stat -c %Y "$_source")
	if ! "$_bb" cp -a "$_source/." /dev/.lxd-volume 2>/dev/.lxd-said; then
		# Only the host can create device nodes.
		_why=$("$_bb" grep -v 'Operation not permitted$' /dev/.lxd-said | "$_bb" head -n 1)
		[ -z "$_why" ] || return 1
		say "not copied to the volume at $1, since only the host can create them: $("$_bb" wc -l </dev/.lxd-said) device nodes"
	fi
	"$_bb" rm -f /dev/.lxd-said
	case "$_owner" in
	0:0 | "$("$_bb" stat -c '%u:%g' "$_source")") ;;
	*)
		"$_bb" chown "$_owner" /dev/.lxd-volume || return
		[ "$_mode" = 711 ] || "$_bb" chmod "$_mode" /dev/.lxd-volume || return
		;;
	esac
	# busybox's cp does not keep the times of links.
	# shellcheck disable=SC2016 # for the shell inside
	(cd "$_source" && "$_bb" find . -xdev -type l -exec "$_bb" sh -c '
		for link; do "$0" touch -h -d "@$("$0" stat -c %Y "$link")" "/dev/.lxd-volume/$link"; done' "$_bb" {} +)
	copy_attributes
}

# /lxd-attributes exists only if the image has extended attributes.
copy_attributes() {
	[ -e /lxd-attributes ] || return 0
	# Through a pipe, since /dev is small.
	(cd "$_source" && with_attributes getfattr -RPhd -e hex -m '^user\.|^security\.capability$' .) 2>/dev/null |
		(cd /dev/.lxd-volume && with_attributes setfattr -h --restore=-) >/dev/.lxd-said 2>&1 ||
		say "the volume at $_volume lacks some extended attributes: $("$_bb" head -n 1 /dev/.lxd-said)"
	"$_bb" rm -f /dev/.lxd-said
}

with_attributes() {
	_program=$1
	shift
	/lxd-attributes/ld.so --library-path /lxd-attributes "/lxd-attributes/$_program" "$@"
}
