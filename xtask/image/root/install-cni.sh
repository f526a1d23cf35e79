#!/bin/sh
# As flannel-cni's script of this name: installs the plugins and the configuration that is in
# CNI_NETWORK_CONFIG, then stays.
set -e
cp -f /flannel /usr/lib/cni/* /host/opt/cni/bin/
conf=/host/etc/cni/net.d/${CNI_CONF_NAME:-10-flannel.conflist}
if [ -n "$CNI_NETWORK_CONFIG" ]; then
    printf '%s\n' "$CNI_NETWORK_CONFIG" > "$conf.tmp"
    mv -f "$conf.tmp" "$conf"
fi
while [ "$SLEEP" != false ]; do sleep 3600; done
