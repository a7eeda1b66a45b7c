# shellcheck shell=dash
# packages.sh INSTALL… -- REMOVE…: installs and removes packages by the image's own package manager, and removes its lists,
# caches and logs. Run in the image (see run.pl), by lxdocker's busybox.
set -eu
bb=/busybox-lxd
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

has() { command -v "$1" >/dev/null 2>&1; }

if has apt-get; then manager=apt; elif has apk; then manager=apk
elif has dnf; then manager=dnf; elif has microdnf; then manager=microdnf
else
	echo "the image has no package manager that lxdocker knows (apt, apk, dnf)" >&2
	exit 1
fi

install() {
	case $manager in
	apt)
		apt-get -q update
		apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold install "$@"
		;;
	apk) apk add --no-cache "$@" ;;
	dnf) dnf -y --setopt=install_weak_deps=False install "$@" ;;
	microdnf) microdnf -y --setopt=install_weak_deps=0 install "$@" ;;
	esac
}

remove() {
	case $manager in
	apt) apt-get -q -y --purge --autoremove remove "$@" ;;
	apk) apk del --no-cache "$@" ;;
	dnf) dnf -y remove "$@" ;;
	microdnf) microdnf -y remove "$@" ;;
	esac
}

# What is different each time, or only of use to the package manager.
clean() {
	case $manager in
	apt)
		apt-get -q clean
		"$bb" rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/apt/* \
			/var/log/dpkg.log /var/log/alternatives.log /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache
		;;
	apk) "$bb" rm -rf /var/cache/apk/* /var/log/apk.log ;;
	*)
		"$manager" -q clean all
		"$bb" rm -rf /var/cache/dnf /var/cache/yum /var/cache/libdnf5 /var/log/dnf* /var/log/hawkey.log /var/log/yum.log \
			/var/lib/dnf/history* /var/cache/ldconfig/aux-cache
		;;
	esac
}

# The names of options come before those of packages.
wanted=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	wanted="$wanted $1"
	shift
done
shift
# shellcheck disable=SC2086 # a list; the schema allows no blanks or patterns in a name
[ -z "$wanted" ] || install $wanted
[ $# = 0 ] || remove "$@"
clean
