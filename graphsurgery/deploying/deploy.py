"""deploy: the files by which another program serves a model folder."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.deploying import service
from graphsurgery.deploying.facts import Facts, make_name, read_facts
from graphsurgery.deploying.service import Placement
from graphsurgery.deploying.tensorrt import make_script
from graphsurgery.deploying.triton import make_config
from graphsurgery.embedding.embedder import check_choice
from graphsurgery.errors import OutputExistsError, RequestError, SurroundingsError, require_value
from graphsurgery.model.atomic import replace_file
from graphsurgery.model.model import Model

TRITON, KSERVE, RAY, DOCKER, SYSTEMD, TENSORRT = TARGETS = ("triton", "kserve", "ray", "docker", "systemd", "tensorrt")
"""The programs that files are written for."""
MAX_BATCH, QUEUE = 32, 512
PROCESSORS, REPLICAS = 2, 1
PROGRAM = "/opt/graphsurgery/bin/graphsurgery"
VERSION = "1"
"""The folder of a model's first version in a repository of Triton."""
SCRIPT = "build-engine.sh"
ONLY_ONNX = (
    "TensorRT reads ONNX's own operators, and this file uses those of {}: bake or pool it without `optimize` and `quantize`"
)


@dataclass(frozen=True)
class Deployment:
    """The files that `deploy` wrote."""

    target: str
    """The program that the files are for, one of `TARGETS`."""
    folder: Path
    """The folder of the files."""
    files: tuple[str, ...]
    """The files, relative to it."""
    steps: tuple[str, ...]
    """The commands that are left to the user."""
    facts: Facts
    """The name, the interface and the sizes of the model, as the files state them."""
    warnings: tuple[str, ...] = ()
    """What may be wrong with the folder or its file."""

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target, "folder": str(self.folder), "files": list(self.files), "steps": list(self.steps),
            "name": self.facts.name, "model": self.facts.file, "interface": self.facts.interface.to_json(),
            "longest": self.facts.longest, "warnings": list(self.warnings),
        }  # fmt: skip


@check_argument_types(folder='give the folder that `graphsurgery bake` made: deploy("my-model-baked", "triton")')
def deploy(
    folder: str | os.PathLike[str],
    target: str,
    *,
    output: str | os.PathLike[str] | None = None,
    name: str | None = None,
    file: str | None = None,
    place: str | None = None,
    image: str | None = None,
    storage: str | None = None,
    program: str = PROGRAM,
    processors: int = PROCESSORS,
    replicas: int = REPLICAS,
    max_batch: int = MAX_BATCH,
    longest: int | None = None,
    with_model: bool = False,
    force: bool = False,
) -> Deployment:
    """Write the files by which another program serves a model folder, from the interface of its ONNX file.

    Args:
        folder: a folder that `bake` made.
        target: ``triton`` (config.pbtxt), ``kserve`` (an InferenceService of the whole service, and one of Triton), ``ray`` (a
            program for Ray Serve), ``docker`` (a Dockerfile), ``systemd`` (a unit) or ``tensorrt`` (a trtexec command).
        output: the folder to write to. Default: beside ``folder``, with the target in its name.
        name: how the model is called there. Default: the folder's name, in small letters.
        file: the ONNX file, if the folder has several.
        place: where the folder lies on the machine that serves it. Default: where it lies here.
        image: the image that KServe runs.
        storage: the URI of the model repository that KServe hands to Triton.
        program: the `graphsurgery` program on that machine, for systemd.
        processors: the processors of one service, for KServe and Ray.
        replicas: how many services run, for KServe and Ray.
        max_batch: the most rows of one run, for Triton and TensorRT.
        longest: the most tokens of a text, for TensorRT. Default: what the folder says.
        with_model: copy the ONNX file to where Triton looks for it.
        force: replace files that exist.

    Raises:
        RequestError: a number is below 1, the target is unknown, or a name cannot be written for the target.
        OutputExistsError: one of the files exists.
        FolderError, ModelError: the folder has no ONNX file, or it cannot be read.
        UnsupportedModelError: the interface is not declared, or holds what the target does not take.
        SurroundingsError: the files cannot be written.
    """
    check_choice("target", target, TARGETS)
    given = {"processors": processors, "replicas": replicas, "max_batch": max_batch, "longest": longest}
    _check_numbers(given)
    if with_model and target not in (TRITON, KSERVE):
        raise RequestError(f"with_model is for triton and kserve, and the target is {target}", "leave it out")
    if name is not None and name != make_name(name):
        raise RequestError(f"{name!r} is no name that all of these programs take", f"give --name {make_name(name)}")
    source = Path(os.fspath(folder))
    facts, model = read_facts(source, file, name)
    facts = facts if longest is None else replace(facts, longest=longest)
    placement = Placement(
        place or str(source.absolute()), image or f"registry.example.com/{facts.name}:latest",
        storage or f"pvc://models/{facts.name}", program, processors, replicas,
    )  # fmt: skip
    _check_texts({
        "place": placement.place, "image": placement.image, "storage": placement.storage, "program": program,
        "file": facts.file,
    })  # fmt: skip
    contents, steps = _WRITERS[target](facts, placement, max_batch)
    goal = source.absolute().with_name(f"{source.absolute().name}-{target}") if output is None else Path(os.fspath(output))
    parts = _place_model(facts, model) if target in (TRITON, KSERVE) else {}
    _write(goal, contents, parts if with_model else {}, force=force)
    if not with_model:
        copied = [shlex.join(["install", "-D", "-m", "644", str(one), place]) for place, one in parts.items()]
        steps = copied + steps
    warnings = [ONLY_ONNX.format(" and ".join(facts.domains))] if target == TENSORRT and facts.domains else []
    return Deployment(target, goal, (*contents, *(parts if with_model else ())), tuple(steps), facts, tuple(warnings))


def _check_numbers(numbers: Mapping[str, int | None]) -> None:
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise RequestError(f"{option} is {number}", f"give 1 or more, or leave {option} out")


def _check_texts(texts: Mapping[str, str]) -> None:
    """Raise RequestError for what would end a line of a configuration, and begin another one."""
    for option, text in texts.items():
        if not text.isprintable():
            raise RequestError(f"{option} is {text!r}, which holds a line break or another control character", "leave it out")
    if not texts["place"].startswith("/"):
        raise RequestError(f"place is {texts['place']!r}, which is not absolute", "give the whole path, from the root on")


Written = tuple[dict[str, str], list[str]]
"""The contents of files by their names, and the commands that are left to the user."""


def _write_triton(facts: Facts, placement: Placement, max_batch: int) -> Written:
    file = Path(facts.file).name
    config = make_config(facts, file, max_batch, QUEUE)
    return {f"{facts.name}/config.pbtxt": config}, ["tritonserver --model-repository=."]


def _write_kserve(facts: Facts, placement: Placement, max_batch: int) -> Written:
    repository, _ = _write_triton(facts, placement, max_batch)
    whole, triton = "inference-service.yaml", "inference-service-triton.yaml"
    contents = {
        whole: service.make_inference_service(facts, placement), triton: service.make_triton_service(facts, placement),
        **repository,
    }  # fmt: skip
    return contents, [f"kubectl apply -f {whole}", f"kubectl apply -f {triton}"]


def _write_ray(facts: Facts, placement: Placement, _: int) -> Written:
    program = service.name_ray_program(facts)
    contents = {program: service.make_ray_program(facts, placement), "serve.yaml": service.make_ray_config(facts, placement)}
    return contents, [f"serve run {Path(program).stem}:app"]


def _write_docker(facts: Facts, placement: Placement, _: int) -> Written:
    build = shlex.join(["docker", "build", "-f", "Dockerfile", "-t", facts.name, placement.place])
    port = service.PORT
    return {"Dockerfile": service.make_dockerfile(facts)}, [build, f"docker run -p 127.0.0.1:{port}:{port} {facts.name}"]


def _write_systemd(facts: Facts, placement: Placement, _: int) -> Written:
    unit = f"{facts.name}.service"
    return {unit: service.make_unit(facts, placement)}, [
        f"cp {unit} /etc/systemd/system/",
        f"systemctl enable --now {facts.name}",
    ]


def _write_tensorrt(facts: Facts, placement: Placement, max_batch: int) -> Written:
    return {SCRIPT: make_script(facts, placement.place, max_batch)}, [f"sh {SCRIPT}"]


_WRITERS: Mapping[str, Callable[[Facts, Placement, int], Written]] = {
    TRITON: _write_triton, KSERVE: _write_kserve, RAY: _write_ray, DOCKER: _write_docker, SYSTEMD: _write_systemd,
    TENSORRT: _write_tensorrt,
}  # fmt: skip


def _place_model(facts: Facts, model: Model) -> dict[str, Path]:
    """Return where Triton looks for the model's files, and which they are here."""
    path = require_value(model.path, "the file's path")
    version = f"{facts.name}/{VERSION}"
    return {f"{version}/{path.name}": path} | {f"{version}/{place}": one.path for place, one in model.files.items()}


def _write(folder: Path, contents: Mapping[str, str], copies: Mapping[str, Path], *, force: bool) -> None:
    """Write all files, or none if one of them exists and ``force`` is not set."""
    there = next((folder / one for one in (*contents, *copies) if os.path.lexists(folder / one)), None)
    if there is not None and not force:
        raise OutputExistsError(f"{there} exists already", "choose another place with -o, or replace it with --force")
    try:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(folder / name, content.encode())
        for name, source in copies.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
    except OSError as error:
        raise SurroundingsError(f"cannot write to {folder}: {error.strerror}", "choose another place with -o") from error
