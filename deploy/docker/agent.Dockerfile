# Build from the repository's root:  docker build -f deploy/docker/agent.Dockerfile -t gossamer-agent .
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mesh ./mesh
COPY controlplane ./controlplane
COPY agent ./agent
# The base install is all that an agent needs.
RUN python -m venv /opt/gossamer \
 && /opt/gossamer/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/gossamer /opt/gossamer
RUN useradd --system --uid 7001 --home-dir /var/lib/gossamer-agent --create-home gossamer
ENV PATH=/opt/gossamer/bin:$PATH PYTHONUNBUFFERED=1
USER gossamer
VOLUME ["/var/lib/gossamer-agent"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:15000/ready', timeout=2)"]
ENTRYPOINT ["gossamer-agent", "--config", "/etc/gossamer/agent.toml", "--state-dir", "/var/lib/gossamer-agent"]
