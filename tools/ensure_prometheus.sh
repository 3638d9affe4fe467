#!/bin/sh
# The tests scrape the example with a real Prometheus: make sure that one is there, or say exactly what to run.
set -eu
if command -v prometheus >/dev/null 2>&1; then exit 0; fi

update='apt-get update'
install='apt-get install --yes --no-install-recommends prometheus'
if ! command -v apt-get >/dev/null 2>&1; then
    echo 'The tests need the `prometheus` program (2.30 or newer) on PATH, and this machine has no apt-get to bring it.' \
        'Unpack a release of prometheus.io/download and put its directory on PATH.' >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    root=''
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    root='sudo -n'
else
    echo "The tests need the \`prometheus\` program, and installing it needs root. Run:" \
        "sudo $update && sudo $install" >&2
    exit 1
fi

echo "Installing Debian's package prometheus, which the tests scrape with."
if ! { $root $update -qq && $root env DEBIAN_FRONTEND=noninteractive $install -qq; } </dev/null >/dev/null; then
    echo "Installing it failed, see above. Run: ${root:+sudo }$update && ${root:+sudo }$install" >&2
    exit 1
fi

# The package starts a daemon on port 9090. It was not there before, so put it to rest again; forbidding the start
# beforehand would take a machine-wide policy-rc.d, which is not ours to write.
if [ -d /run/systemd/system ]; then
    $root systemctl disable --now --quiet prometheus.service || true
elif [ -x /etc/init.d/prometheus ]; then
    $root /etc/init.d/prometheus stop >/dev/null 2>&1 || true
fi
command -v prometheus >/dev/null || { echo "After '$install' there is still no prometheus on PATH." >&2; exit 1; }
