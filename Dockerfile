# The image, for whoever has a container engine; `cargo xtask image` makes a smaller one without.
# Both read xtask/image/contents and take the files below xtask/image/root.
#
#   cargo xtask build --release
#   docker build -t localhost/twill .
#
# The programs must be built against a C library that is no newer than this Debian's.
FROM debian:bookworm-slim

COPY xtask/image/contents /tmp/contents
RUN apt-get update -q && \
    sed -n 's/^package //p' /tmp/contents | \
        DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -q --no-install-recommends && \
    rm -rf /var/lib/apt/lists/*

COPY target/release/twilld target/release/twillctl /usr/bin/
COPY target/release/flannel /flannel
COPY xtask/image/root/opt/ /opt/
COPY xtask/image/root/usr/ /usr/
COPY xtask/image/root/install-cni.sh /

RUN mkdir -p /etc/kube-flannel /etc/cni/net.d /opt/cni/bin /run/flannel /run/twill /var/lib/twill && \
    sed -n 's/^link //p' /tmp/contents | while read -r path target; do \
        ln -sfn "$target" "$path"; \
    done && \
    rm /tmp/contents

ENTRYPOINT ["/opt/bin/entrypoint"]
