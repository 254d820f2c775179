# Build from the repository's root:  docker build -f deploy/docker/controlplane.Dockerfile -t gossamer-controlplane .
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mesh ./mesh
COPY controlplane ./controlplane
COPY agent ./agent
RUN python -m venv /opt/gossamer \
 && /opt/gossamer/bin/pip install --no-cache-dir '.[controlplane,cli]'

FROM python:3.13-slim
COPY --from=build /opt/gossamer /opt/gossamer
RUN useradd --system --uid 7000 --home-dir /var/lib/gossamer --create-home gossamer \
 && install -d -o gossamer -g gossamer -m 0700 /var/lib/gossamer/state /var/lib/gossamer/etcd
ENV PATH=/opt/gossamer/bin:$PATH PYTHONUNBUFFERED=1
USER gossamer
VOLUME ["/var/lib/gossamer"]
EXPOSE 8080 18000 18001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["gossamer-controlplane", "--state-dir", "/var/lib/gossamer/state"]
