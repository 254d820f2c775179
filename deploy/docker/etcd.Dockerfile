# etcd 3.5.16 from Debian 13 (production needs 3.5.6 or newer; see deploy/README.md).
FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends etcd-server etcd-client \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -m 0700 -o nobody -g nogroup /etcd-data
USER nobody
VOLUME ["/etcd-data"]
EXPOSE 2379 2380
ENTRYPOINT ["etcd"]
