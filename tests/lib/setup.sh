# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by tests/run and tests/demo: packages, build folders, and steps whose progress is shown.
# Every step does nothing, quickly, when its result is there already.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$TOP/tests/versions"
CACHE=${DBCARE_TESTS_CACHE:-/var/cache/dbcare-tests}
BUILD=$TOP/build
BUILD_ASAN=$TOP/build-asan
export CARE_BUILD_CACHE=${CARE_BUILD_CACHE:-$CACHE/build}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
# A machine may have other interpreters and compilers first in PATH; Debian's are meant.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
PYTHON=/usr/bin/python3

die() {
	echo "error: $*" >&2
	exit 1
}

[ "$(id -u)" = 0 ] || die "must run as root (other processes' memory is read and written)"
mkdir -p "$CACHE" || die "cannot make $CACHE"
LOGS=$(mktemp -d "${TMPDIR:-/tmp}/dbcare-logs.XXXXXX")

# step TEXT COMMAND...: runs COMMAND with its output in a log; shows TEXT, how long it has taken and
# what the log says now; on failure shows the end of the log.
step() {
	local text=$1 log begin=$SECONDS pid status last shown=0
	shift
	log=$LOGS/$(echo "$text" | tr -c 'A-Za-z0-9\n' _).log
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [ -t 1 ]; then
			last=$(tail -n 1 "$log" | tr -d '\r\t\033' | cut -c 1-60)
			printf '\r\033[K  %s … %d s  %s' "$text" $((SECONDS - begin)) "$last"
		elif [ $((SECONDS - begin - shown)) -ge 20 ]; then
			shown=$((SECONDS - begin))
			last=$(tail -n 1 "$log" | tr -d '\r\t\033' | cut -c 1-80)
			echo "  $text … $shown s  $last"
		fi
	done
	status=0
	wait "$pid" || status=$?
	[ -t 1 ] && printf '\r\033[K'
	if [ $status != 0 ]; then
		echo "  $text: failed after $((SECONDS - begin)) s; the end of its output:"
		tail -n 40 "$log" | sed 's/^/    /'
		return $status
	fi
	# What took no time was there already: not worth a line.
	[ $((SECONDS - begin)) -lt 2 ] || echo "  $text: $((SECONDS - begin)) s"
}

missing_packages() {
	sed 's/#.*//' "$TOP/tests/packages.txt" | tr -s ' \n' '\n' | sed '/^$/d' | sort -u >"$LOGS/wanted"
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
		sed -n 's/^installed //p' | sort -u >"$LOGS/installed"
	comm -23 "$LOGS/wanted" "$LOGS/installed"
}

# Own lists and sources: the host's apt configuration may lack deb-src and is left as it is.
APT_OWN=("-oDir::Etc::sourcelist=$CACHE/apt/sources.list" -oDir::Etc::sourceparts=/nonexistent
	"-oDir::State::lists=$CACHE/apt/lists" "-oDir::Cache::pkgcache=" "-oDir::Cache::srcpkgcache=")

own_apt_sources() {
	mkdir -p "$CACHE/apt/lists/partial"
	local key='signed-by=/usr/share/keyrings/debian-archive-keyring.gpg' kind
	for kind in deb deb-src; do
		echo "$kind [$key] http://deb.debian.org/debian bookworm main"
		echo "$kind [$key] http://deb.debian.org/debian bookworm-updates main"
		echo "$kind [$key] http://deb.debian.org/debian-security bookworm-security main"
	done >"$CACHE/apt/sources.list"
	apt-get "${APT_OWN[@]}" update
}

# No service of a package is started: the ports of the host are not ours to take. A policy that the
# host has stays; ours goes, also one that a killed run left behind.
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="# of DatabaseCare's tests, while they install packages"

install_packages() (
	if [ ! -e $POLICY ] || grep -qF "$POLICY_MARK" $POLICY; then
		trap 'rm -f $POLICY' EXIT
		printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >$POLICY && chmod 755 $POLICY
	fi
	apt-get "${APT_OWN[@]}" -y --no-install-recommends install "$@"
)

# True when all that Debian says mariadb needs to be compiled is installed.
mariadb_build_deps_there() {
	apt-get "${APT_OWN[@]}" -s -y --no-install-recommends build-dep "mariadb=$MARIADB_VERSION" \
		>"$LOGS/build-dep" 2>&1 && ! grep -q '^Inst' "$LOGS/build-dep"
}

install_mariadb_build_deps() {
	apt-get "${APT_OWN[@]}" -y --no-install-recommends build-dep "mariadb=$MARIADB_VERSION"
}

setup_packages() {
	local missing
	missing=$(missing_packages)
	if [ -n "$missing" ] || ! mariadb_build_deps_there; then
		step "package lists" own_apt_sources || die "apt-get update failed"
	fi
	if [ -n "$missing" ]; then
		step "installing $(echo "$missing" | wc -l) packages" install_packages $missing ||
			die "apt-get install failed"
	fi
	# Debian's npm does not fit beside a nodejs that brought its own.
	command -v npm >/dev/null || step "installing npm" install_packages nodejs npm ||
		die "apt-get install npm failed"
	mariadb_build_deps_there ||
		step "installing what MariaDB needs to be compiled" install_mariadb_build_deps ||
		die "apt-get build-dep mariadb failed"
}

# setup_build DIR OPTION...
setup_build() {
	local dir=$1
	shift
	if [ ! -f "$dir/build.ninja" ]; then
		step "configuring $(basename "$dir")" meson setup "$dir" "$TOP" "$@" || return 1
	fi
	# Options of an older folder follow; meson writes nothing when they are the same.
	step "checking options of $(basename "$dir")" meson configure "$dir" "$@" || return 1
	step "building $(basename "$dir")" ninja -C "$dir"
}

setup_builds() {
	setup_build "$BUILD" -Dwerror=true || die "the build failed"
}

setup_asan() {
	setup_build "$BUILD_ASAN" -Dwerror=true -Db_sanitize=address,undefined
}
