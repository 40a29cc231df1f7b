"""Programs that run `graphsurgery serve`: Docker, systemd, Kubernetes with KServe, and Ray Serve."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from graphsurgery.deploying.facts import Facts
from graphsurgery.version import __version__

PORT = 8080
DRAIN = 30
"""The seconds in which the service answers what is in flight when it is told to end: the default of `serve`."""
SPARE = 5
"""The seconds that a supervisor waits beyond that, before it kills the service."""
IMAGE_PLACE = "/model"
"""Where the folder lies in the image."""
MEBIBYTE = 1 << 20
PLAIN_WORD = re.compile(r"[\w./-]+")
OWN_MEMORY = 256
"""The mebibytes that the service needs beside the model: Python, ONNX Runtime, requests, and the default cache's first part."""


@dataclass(frozen=True)
class Placement:
    """Where a folder is served."""

    place: str
    """The path of the model folder on the machine that serves it."""
    image: str
    """The container image that holds the folder."""
    storage: str
    """The URI of the model repository that KServe hands to Triton."""
    program: str
    """The path of the `graphsurgery` program."""
    processors: int
    """The processors that one service gets."""
    replicas: int
    """How many services there are."""


def make_dockerfile(facts: Facts) -> str:
    """Return a Dockerfile whose context is the model folder. The service does not run as root, and gets SIGTERM itself."""
    return f"""\
# An image that serves {facts.name}. Build it with the model folder as its context:
#   docker build -f Dockerfile -t {facts.name} FOLDER
FROM python:3.13-slim
RUN pip install --no-cache-dir "graphsurgery[serve]=={__version__}"
RUN useradd --system --uid 10001 --create-home server
ENV GRAPHSURGERY_CACHE=/home/server/cache PYTHONUNBUFFERED=1
COPY . {IMAGE_PLACE}
USER server
EXPOSE {PORT}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s CMD ["python", "-c", \\
  "from urllib.request import urlopen; urlopen('http://127.0.0.1:{PORT}/health', timeout=3)"]
ENTRYPOINT ["graphsurgery"]
CMD ["serve", "{IMAGE_PLACE}", "--host", "0.0.0.0", "--port", "{PORT}", "--json-logs"]
"""


def make_unit(facts: Facts, placement: Placement) -> str:
    """Return a systemd unit: a user of its own, nothing to write but its cache, and a new start after a failure."""
    return f"""\
# Copy this to /etc/systemd/system/{facts.name}.service, then: systemctl enable --now {facts.name}
# An API key goes into /etc/graphsurgery/{facts.name}.env, which only root can read: GRAPHSURGERY_API_KEY=...
[Unit]
Description=Embeddings of {facts.name} (graphsurgery serve)
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={_quote_word(placement.program)} serve {_quote_word(placement.place)} --host 127.0.0.1 --port {PORT} --json-logs
EnvironmentFile=-/etc/graphsurgery/{facts.name}.env
Environment=GRAPHSURGERY_CACHE=%C/{facts.name}
CacheDirectory={facts.name}
Restart=on-failure
RestartSec=2
TimeoutStopSec={DRAIN + SPARE}
DynamicUser=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=read-only
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

[Install]
WantedBy=multi-user.target
"""


def make_inference_service(facts: Facts, placement: Placement) -> str:
    """Return KServe's InferenceService that runs the image: texts in, vectors out."""
    memory = math.ceil(2 * facts.size / MEBIBYTE) + OWN_MEMORY
    return f"""\
# Texts in, vectors out: the image of the Dockerfile that `graphsurgery deploy --for docker` writes.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_quote(facts.name)}
spec:
  predictor:
    minReplicas: {placement.replicas}
    terminationGracePeriodSeconds: {DRAIN + SPARE}
    containers:
      - name: kserve-container
        image: {_quote(placement.image)}
        args: ["serve", "{IMAGE_PLACE}", "--host", "0.0.0.0", "--port", "{PORT}", "--json-logs"]
        ports:
          - containerPort: {PORT}
            protocol: TCP
        resources:
          requests:
            cpu: "{placement.processors}"
            memory: "{memory}Mi"
          limits:
            cpu: "{placement.processors}"
            memory: "{2 * memory}Mi"
        readinessProbe:
          httpGet:
            path: /ready
            port: {PORT}
        livenessProbe:
          httpGet:
            path: /health
            port: {PORT}
          initialDelaySeconds: 30
"""


def make_triton_service(facts: Facts, placement: Placement) -> str:
    """Return KServe's InferenceService that hands the ONNX file to Triton: token ids in, vectors out."""
    return f"""\
# Token ids in, vectors out: Triton runs the ONNX file, and clients tokenise. storageUri holds {facts.name}/config.pbtxt and
# {facts.name}/1/ with the file.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {_quote(f"{facts.name[:56]}-triton")}
spec:
  predictor:
    minReplicas: {placement.replicas}
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: {_quote(placement.storage)}
      resources:
        requests:
          cpu: "{placement.processors}"
"""


def make_ray_program(facts: Facts, placement: Placement) -> str:
    """Return a program that Ray Serve deploys: the whole service, several times."""
    return f'''\
"""{facts.name} on Ray Serve: `serve run {_name_module(facts)}:app`, with every route of `graphsurgery serve`."""

from graphsurgery.serving.ray_serve import make_deployment

app = make_deployment(
    {_quote(placement.place)},
    name={_quote(facts.name)},
    replicas={placement.replicas},
    processors={placement.processors},
)
'''


def make_ray_config(facts: Facts, placement: Placement) -> str:
    """Return the configuration by which `serve deploy` gives a running Ray cluster the program."""
    return f"""\
# serve deploy serve.yaml, in the folder of {_name_module(facts)}.py, or with working_dir in a runtime_env
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {PORT}
applications:
  - name: {_quote(facts.name)}
    route_prefix: /
    import_path: "{_name_module(facts)}:app"
    deployments:
      - name: {_quote(facts.name)}
        num_replicas: {placement.replicas}
"""


def name_ray_program(facts: Facts) -> str:
    """Return the name of the file of `make_ray_program`."""
    return f"{_name_module(facts)}.py"


def _name_module(facts: Facts) -> str:
    return f"{facts.name.replace('-', '_')}_service"


def _quote(text: str) -> str:
    """Return a string that YAML, JSON and Python read alike."""
    return json.dumps(text, ensure_ascii=False)


def _quote_word(text: str) -> str:
    """Return a word of a command line in a systemd unit."""
    if PLAIN_WORD.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
