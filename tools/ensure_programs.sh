#!/bin/sh
# The tests work with real programs, of Debian's packages: make sure that they are there, or say exactly what to run.
set -eu

# One line a program: its name on PATH; another name that will do, or `-`; Debian's package; the daemon that comes
# with it, or `-`; what the tests do with it.
programs() {
    cat <<'LINES'
prometheus - prometheus prometheus scrape a service and evaluate the shipped rules
promtool - prometheus prometheus check the shipped rules
prometheus-alertmanager alertmanager prometheus-alertmanager prometheus-alertmanager route alerts
amtool - prometheus-alertmanager prometheus-alertmanager check how alerts are routed
chromium - chromium - look at the pages
LINES
}

there() { command -v "$1" >/dev/null 2>&1; }

missing() {
    programs | while read -r name other package daemon use; do
        there "$name" || there "$other" || echo "$name $other $package $daemon $use"
    done
}

installed() { there dpkg-query && dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# A sentence for each program of those lines.
name_them() {
    while read -r name _other package _daemon use; do
        echo "The tests need the program \`$name\` on PATH, of Debian's package $package, to $use." >&2
    done
}

lines=$(missing)
if [ -z "$lines" ]; then exit 0; fi
packages=$(echo "$lines" | cut -d' ' -f3 | sort -u | tr '\n' ' ')
daemons=$(echo "$lines" | cut -d' ' -f3,4 | sort -u | while read -r package daemon; do
    # One of a package that was there before is not ours to stop.
    [ "$daemon" = - ] || installed "$package" || echo "$daemon"
done)

update='apt-get update'
install="apt-get install --yes --no-install-recommends ${packages% }"
if ! there apt-get; then
    echo "$lines" | name_them
    echo 'This machine has no apt-get to bring them. Releases of the first ones are at prometheus.io/download;' \
        'unpack them and put their directories on PATH.' >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    root=''
elif there sudo && sudo -n true 2>/dev/null; then
    root='sudo -n'
else
    echo "$lines" | name_them
    echo "Installing needs root. Run: sudo $update && sudo $install" >&2
    exit 1
fi

echo "Installing what the tests need of Debian's packages: ${packages% }."
failed=''
{ $root $update -qq && $root env DEBIAN_FRONTEND=noninteractive $install -qq; } </dev/null >/dev/null || failed=yes

# The packages start daemons, on ports 9090 and 9093. They were not there before, so put them to rest again; forbidding
# the start beforehand would take a machine-wide policy-rc.d, which is not ours to write.
for daemon in $daemons; do
    if [ -d /run/systemd/system ]; then
        $root systemctl disable --now --quiet "$daemon.service" 2>/dev/null || true
    elif there service; then
        $root service "$daemon" stop >/dev/null 2>&1 || true
    fi
done

lines=$(missing)
if [ -n "$lines" ]; then
    echo "$lines" | name_them
    run="${root:+sudo }$update && ${root:+sudo }$install"
    echo "${failed:+Installing failed, see above. }They are still not there. Run: $run" >&2
    exit 1
fi
