#!/bin/bash
# What: cnitool 1.3.0 `gc` (libcni's GCNetworkList without arguments) and CNI 1.1.
# Expected: the specification 1.1 lets the runtime hand a plugin, for GC, the list
#   `cni.dev/valid-attachments` of what still lives; cnitool's source says that without arguments
#   "all network interface should be GC'ed".
# Seen: the plugin is called with `GC` and no list at all: neither that key nor the older
#   `cni.dev/attachments`, and not an empty list either. A plugin that takes "no list" for "nothing
#   lives" would detach every pod; one that demands the list makes `cnitool gc` fail.
# What Twill does: without a list no container is taken for gone.
# Needs: Go with its module proxy. Everything happens in a folder that is removed.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export GOBIN=$work/bin GOPATH=$work/go GOFLAGS=-buildvcs=false
go install github.com/containernetworking/cni/cnitool@v1.3.0

cat > "$work/bin/recorder" <<'PLUGIN'
#!/bin/bash
text=$(cat)
if [ "$CNI_COMMAND" = VERSION ]; then
    echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}'
else
    printf '%s %s\n' "$CNI_COMMAND" "$text" >> "$RECORD"
fi
PLUGIN
chmod +x "$work/bin/recorder"
mkdir "$work/net.d"
cat > "$work/net.d/10-record.conflist" <<'CONFIG'
{"cniVersion": "1.1.0", "name": "record", "plugins": [{"type": "recorder"}]}
CONFIG

RECORD=$work/record CNI_PATH=$work/bin NETCONFPATH=$work/net.d \
    "$work/bin/cnitool" gc record /run/netns/none
echo "the plugin was called with: $(cat "$work/record")"
grep -q '^GC ' "$work/record" || { echo "changed: no GC any more"; exit 1; }
if grep -q 'attachments' "$work/record"; then
    echo "changed: the list is there now"
    exit 1
fi
echo "as stated: cnitool 1.3.0 hands a plugin GC without a list of what lives"
