"""source: a reference to ONNX Runtime's source becomes one deterministic tar of the tree in the store."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ortforge.api import Fetched, SourceResolver, Task, TaskOutcome
from ortforge.build.source import store_tree, unpack
from ortforge.engine.work import Work
from ortforge.errors import BuildError, ConfigurationError, FetchError, OrtforgeError
from ortforge.runtime.fetch import Fetcher
from ortforge.store.hashing import digest_json

_IMAGE_S = 1800.0
_LABEL = "ortforge.source"


def _nobody(text: str) -> None:
    """Hear what is said where nobody watches."""


@dataclass(slots=True)
class SourceFetcher(Fetcher):
    """The :class:`~ortforge.api.SourceContext` that ortforge gives to resolvers of source trees.

    :param version: what the target says the source is. :param say: hears how far it is.
    :param label: of its containers: only one fetching of that label runs at a time.
    """

    version: str = ""
    label: str = ""
    say: Callable[[str], None] = field(default=_nobody)
    _made: int = field(default=0, init=False)

    def unpack(self, archive: Path) -> Path:
        """Unpack a tar or zip archive into a new folder below ``workdir`` and return the tree's top folder.

        :raises FetchError: it is damaged, or an entry would leave the folder.
        """
        self.say(f"unpacking {archive.name}")
        return unpack(archive, self._folder("tree"))

    def in_image(self, image: str, argv: Sequence[str]) -> Path:
        """Run a program in a toolchain's base image, with network, and return what it left in ``/out``.

        It is root in there, without any of root's capabilities.

        :raises EnvironmentLacksError: no container engine answers. :raises FetchError: the program failed.
        """
        from ortforge.build.toolchain import base_of, ensure_base
        from ortforge.container import ContainerSpec, connect

        engine = connect()
        if self.label:
            engine.sweep(_LABEL, self.label)  # left by a killed ortforge
        base = ensure_base(engine, base_of(image, self.base), self.say).id
        out = self._folder("out")
        spec = ContainerSpec(image=base, user="0:0", network=True, memory=2 << 30, labels={_LABEL: self.label})
        with engine.open(spec) as container:
            ran = container.run(argv, on_line=self.say, timeout_s=_IMAGE_S)
            if ran.code != 0:
                raise _failed(argv, image, ran.code, ran.tail)
            try:
                container.get("/out", out)
            except BuildError as error:
                raise FetchError(f"What {argv[0]} left in /out cannot be taken: {error.what}") from error
        found = out / "out"
        return found if found.is_dir() else out

    def _folder(self, name: str) -> Path:
        self._made += 1
        return self.workdir / f"{name}-{self._made}"


def run(task: Task, work: Work) -> TaskOutcome:
    """Bring the tree, check that it is the version that the target says, and put it into the store."""
    resolver = work.plugins.sources[task.parameters["scheme"]]
    reference = task.context["reference"]
    with work.store.objects.scratch() as scratch:
        workdir = scratch / "fetch"
        workdir.mkdir()
        context = SourceFetcher(
            workdir=workdir,
            base=Path(task.context["base"]),
            sha256=task.parameters["sha256"],
            version=task.parameters["version"],
            say=work.say,
            label=digest_json([task.store, task.key])[:16],
        )
        work.say(f"fetching {resolver.scheme}:{reference}")
        with work.store.lock(f"source-{context.label}"):
            fetched = _fetch(resolver, reference, context)
        tree = fetched.path if fetched.path.is_dir() else context.unpack(fetched.path)
        work.say("packing the tree")
        index = store_tree(tree, scratch / "source", version=context.version)
        shutil.rmtree(workdir, ignore_errors=True)  # a tree has 0.4 GB: it need not lie here while it is put away
        facts = {"reference": f"{resolver.scheme}:{reference}", **index, **fetched.facts}
        return TaskOutcome("ok", work.store.objects.put(scratch / "source"), facts)


def _fetch(resolver: SourceResolver, reference: str, context: SourceFetcher) -> Fetched:
    """Ask the resolver; whatever goes wrong in it is an error that names it."""
    if resolver.sha256_required and not context.sha256:
        raise ConfigurationError(
            f"{resolver.scheme}:{reference} needs a sha256: what lies there can change.",
            todo='Add sha256 = "…" to the target in matrix.toml.',
        )
    try:
        fetched = resolver.fetch(reference, context)
        there = fetched.path.exists()
    except OrtforgeError:
        raise
    except Exception as error:
        raise FetchError(
            f"{resolver.scheme}:{reference} could not be fetched: {type(error).__name__}: {error}",
            todo="`ortforge plugins list` says which plugin resolves it.",
        ) from error
    if not there:
        raise FetchError(f"{resolver.scheme}:{reference} was fetched, and {fetched.path.name} is not there.")
    return fetched


def _failed(argv: Sequence[str], image: str, code: int, tail: Sequence[str]) -> FetchError:
    """Say why a program in an image failed, with its last words."""
    text = "\n".join(tail)
    meant = todo = ""
    if re.search(
        r"resolv|could not connect|cannot initiate|unreachable|timed? ?out|refused|proxy", text, re.IGNORECASE
    ):
        meant = "The container has no way to the network."
        todo = "See that it has one ('docker run --rm IMAGE apt-get update'), or give the source as archive:FILE."
    elif re.search(r"404|does not have a Release file", text):
        meant = "There is no such suite on the mirror."
        todo = "Correct the name of the suite."
    last = "\n".join(tail[-12:])
    return FetchError(f"{argv[0]} in the image {image} ended with exit code {code}:\n{last}", meant=meant, todo=todo)
