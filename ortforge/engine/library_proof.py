"""Proof of a C++ build: a program that is compiled against its headers and linked with its library answers."""

from __future__ import annotations

from typing import Any, Final

from ortforge.build.request import BuildRequest
from ortforge.container import ContainerSpec, connect
from ortforge.engine.work import Work
from ortforge.errors import BuildError

__all__ = ["prove_libraries"]

_PROGRAM: Final = r"""
#include <stdio.h>
#include "onnxruntime_c_api.h"

int main(void) {
  const OrtApiBase* base = OrtGetApiBase();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == NULL) {
    printf("no API of version %d\n", ORT_API_VERSION);
    return 1;
  }
  char** providers = NULL;
  int count = 0;
  OrtEnv* environment = NULL;
  if (api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "proof", &environment) != NULL) return 2;
  if (api->GetAvailableProviders(&providers, &count) != NULL) return 3;
  printf("version %s\n", base->GetVersionString());
  for (int i = 0; i < count; i++) printf("provider %s\n", providers[i]);
  return 0;
}
"""

_PLACE: Final = "/tmp/proof"  # noqa: S108 - in a container of its own


def prove_libraries(request: BuildRequest, folder: str, facts: dict[str, Any], work: Work) -> dict[str, Any]:
    """Compile, link and run a small program in the toolchain image, where the library's own dependencies are.

    :param folder: digest of the package step's object. :param facts: its facts.
    :raises BuildError: it cannot be compiled, linked or run, or the library is another version or lacks an EP.
    """
    archive = work.store.objects.get(folder) / facts["artifact"]
    with connect().open(ContainerSpec(image=facts["image"], environment={"HOME": "/tmp"})) as container:  # noqa: S108
        container.put(archive, _PLACE)
        container.put_files({"main.c": _PROGRAM.encode()}, _PLACE)
        root = f"{_PLACE}/{archive.name.removesuffix('.tar.gz')}"

        def run(*argv: str) -> list[str]:
            done = container.run(list(argv), workdir=_PLACE)
            if done.code != 0:
                raise BuildError(
                    "\n".join([f"{argv[0]} failed (exit {done.code}) with the new library:", *done.tail[-10:]]),
                    meant="The library lacks what its headers promise, or needs a library that is not there.",
                )
            return [line for line in done.tail if line.strip()]

        header = run("find", root, "-name", "onnxruntime_c_api.h")[0].rpartition("/")[0]
        library = run("find", root, "-name", "libonnxruntime.so")[0].rpartition("/")[0]
        run("cc", "-o", "proof", "main.c", f"-I{header}", f"-L{library}", "-lonnxruntime", f"-Wl,-rpath,{library}")
        said = run("./proof")
    version = next((line.partition(" ")[2] for line in said if line.startswith("version ")), "")
    providers = [line.partition(" ")[2] for line in said if line.startswith("provider ")]
    if version != request.version:
        raise BuildError(f"The new library says that it is version {version or 'unknown'}, not {request.version}.")
    missing = [ep for ep in request.ep_names if ep not in providers]
    if missing:
        raise BuildError(f"The new library has no {', '.join(missing)}; it has {', '.join(providers)}.")
    return {
        "eps": {ep: {} for ep in providers},
        "lines": [f"a C program linked with it says version {version}, providers {', '.join(providers)}"],
    }
