"""Plugins come from real distributions on sys.path; whatever they do wrong is a row, and everything else works on."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ortforge
from ortforge import plugin_manager
from ortforge.api import CheckContext, Device
from ortforge.errors import PluginError
from ortforge.plugin_manager import PluginRow, Plugins, third_party_commands

Install = Callable[..., Path]

BACKEND = """
from ortforge.api import Backend

def ortforge_backends():
    return [Backend(name="{name}", ep="EdgeExecutionProvider", summary="an accelerator")]
"""


def row_of(plugins: Plugins, name: str, distribution: str = "") -> PluginRow:
    found = [row for row in plugins.rows() if row.name == name and row.distribution.startswith(distribution)]
    assert len(found) == 1, plugins.rows()
    return found[0]


def test_every_first_party_module_loads_and_registers() -> None:
    plugins = Plugins(third_party=False)
    assert {row.status for row in plugins.rows()} == {"loaded"}
    assert {"cpu", "openvino", "cuda"} <= set(plugins.backends)
    assert {"path", "package", "https", "hf"} == set(plugins.models)
    assert plugins.owner("backends", "cpu") == ("backends.cpu", "ortforge", ortforge.__version__)


def test_loading_first_party_plugins_imports_nothing_heavy() -> None:
    program = (
        "import sys; from ortforge.plugin_manager import Plugins; Plugins(third_party=False).rows();"
        "print(sorted({'numpy','onnx','onnxruntime','pydantic','packaging','rich','asyncio','urllib.request'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_third_party_plugin_adds_a_backend_without_any_marker(install_plugin: Install) -> None:
    install_plugin("ortforge-edge", BACKEND.format(name="edge"), version="2.1")
    plugins = Plugins(environ={})
    assert plugins.backends["edge"].ep == "EdgeExecutionProvider"
    assert plugins.owner("backends", "edge") == ("ortforge-edge", "ortforge-edge", "2.1")
    assert row_of(plugins, "ortforge-edge").hooks == ("ortforge_backends",)


def test_an_object_can_be_a_plugin_and_a_marker_can_name_the_hook(
    install_plugin: Install, tmp_path: Path, linux_cpu: Device
) -> None:
    install_plugin(
        "ortforge-object",
        """
        from ortforge.api import Check, CheckOutcome, hookimpl

        class Plugin:
            def __init__(self):
                self.answer = CheckOutcome("ok", "all is well")

            @hookimpl(specname="ortforge_checks", tryfirst=True)
            def my_checks(self):
                yield Check("well", "says that all is well", lambda context: self.answer)

        plugin = Plugin()
        """,
        entry="object = ortforge_object:plugin",
    )
    plugins = Plugins(environ={})
    context = CheckContext(store=tmp_path, device=linux_cpu, uv=None, uv_environ={})
    assert plugins.checks["well"].run(context).message == "all is well"


BROKEN = {
    "an import error": ("import does_not_exist_anywhere", "ModuleNotFoundError: No module named"),
    "a syntax error": ("def (:", "SyntaxError"),
    "sys.exit at import": ("import sys; sys.exit('good bye')", "SystemExit: good bye"),
    "an exception that is no Exception": ("class Odd(BaseException): pass\nraise Odd", "Odd"),
    "a wrong signature": ("def ortforge_backends(config): return []", "config"),
    "a plugin API of the future": ("ORTFORGE_PLUGIN_API = 99", "update ortforge"),
    "a plugin API of the past": ("ORTFORGE_PLUGIN_API = 0", "update the plugin"),
    "a plugin API that is no number": ("ORTFORGE_PLUGIN_API = 'one'", "must be a number"),
    "a wrapper around a hook": (
        "from ortforge.api import hookimpl\n@hookimpl(wrapper=True)\ndef ortforge_backends():\n    return (yield)",
        "wraps a hook",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_a_row_and_the_rest_works(what: str, install_plugin: Install) -> None:
    source, error = BROKEN[what]
    install_plugin("ortforge-broken", source)
    install_plugin("ortforge-sound", BACKEND.format(name="sound"))
    plugins = Plugins(environ={})
    row = row_of(plugins, "ortforge-broken")
    assert row.status == "failed"
    assert error in row.error
    assert {"cpu", "sound"} <= set(plugins.backends)


PARTIAL = {
    "returns a number": ("def ortforge_backends(): return 7", "an int"),
    "returns a string": ("def ortforge_backends(): return 'edge'", "a str"),
    "gives the wrong type": ("def ortforge_backends(): return ['edge']", "it gave a str where a Backend belongs"),
    "fails halfway": (
        "def ortforge_backends():\n    yield from ()\n    raise RuntimeError('no licence')",
        "no licence",
    ),
    "exits in a hook": ("def ortforge_backends(): raise SystemExit(3)", "SystemExit: 3"),
    "has a hook that does not exist": ("def ortforge_backend(): return []", "perhaps ortforge_backends was meant"),
    "has a hook that is no function": ("ortforge_backends = []", "a list, not a function"),
    "has a name with a space": (BACKEND.format(name="two words"), "'two words' is no name"),
    "has a bad version specifier": (
        "from ortforge.api import Backend\n"
        "def ortforge_backends(): return [Backend('edge', 'E', '', versions='1.24 or so')]",
        "no version specifier",
    ),
}


@pytest.mark.parametrize("what", PARTIAL)
def test_a_hook_that_cannot_be_used_is_said_and_other_hooks_are_kept(what: str, install_plugin: Install) -> None:
    source, error = PARTIAL[what]
    good = "from ortforge.api import Command\ndef ortforge_commands(): return [Command('good', '', 'm:f')]\n"
    install_plugin("ortforge-partial", good + source)
    plugins = Plugins(environ={})
    row = row_of(plugins, "ortforge-partial")
    assert row.status == "partial"
    assert error in row.error
    assert "good" in plugins.commands
    assert "cpu" in plugins.backends


def test_first_party_names_win_and_the_other_one_is_named(install_plugin: Install) -> None:
    install_plugin("ortforge-usurper", BACKEND.format(name="cuda"))
    plugins = Plugins(environ={})
    assert plugins.backends["cuda"].ep == "CUDAExecutionProvider"
    assert "'cuda' is taken by the plugin backends.cuda" in row_of(plugins, "ortforge-usurper").error


def test_two_plugins_with_one_name_are_two_rows(install_plugin: Install) -> None:
    install_plugin("ortforge-a", BACKEND.format(name="from-a"), entry="edge = ortforge_a")
    install_plugin("ortforge-b", BACKEND.format(name="from-b"), entry="edge = ortforge_b")
    plugins = Plugins(environ={})
    assert row_of(plugins, "edge", "ortforge-a").status == "loaded"
    second = row_of(plugins, "edge", "ortforge-b")
    assert (second.status, second.error) == ("failed", "its name is taken by the plugin of ortforge-a 1.0")
    assert "from-a" in plugins.backends
    assert "from-b" not in plugins.backends


def test_blocking_by_option_variable_and_altogether(install_plugin: Install) -> None:
    imported = install_plugin("ortforge-edge", "raise SystemExit('must not be imported')")
    by_option = Plugins(blocked=["no:ortforge-edge", "backends.cuda"], environ={})
    assert row_of(by_option, "ortforge-edge").status == "blocked"
    assert "cuda" not in by_option.backends
    by_variable = Plugins(environ={"ORTFORGE_DISABLE_PLUGINS": "ortforge-edge, backends.*"})
    assert row_of(by_variable, "ortforge-edge").status == "blocked"
    assert not by_variable.backends
    assert all(row.distribution == "ortforge" for row in Plugins(third_party=False, environ={}).rows())
    assert imported.stem not in sys.modules


def test_blocking_a_name_that_nobody_has_is_said() -> None:
    row = row_of(Plugins(blocked=["backends.cdua"], third_party=False), "backends.cdua")
    assert (row.status, row.error) == ("unknown", "no plugin has this name; perhaps backends.cuda was meant")


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    backends = Plugins(third_party=False).backends
    with pytest.raises(PluginError) as caught:
        backends["openvnio"]
    assert "'openvino'" in caught.value.meant
    assert "ortforge plugins list" in caught.value.todo
    assert backends.get("openvnio") is None
    with pytest.raises(PluginError, match="no scheme for models called 'pth'"):
        Plugins(third_party=False).models["pth"]
    with pytest.raises(PluginError):
        Plugins(third_party=False).owner("passes", "no-such-pass")


@pytest.mark.parametrize(
    ("body", "reason"),
    [("raise OSError('no driver')", "OSError: no driver"), ("return True", "it answered with a bool")],
)
def test_a_backend_that_fails_when_asked_is_unavailable(
    body: str, reason: str, install_plugin: Install, linux_cpu: Device
) -> None:
    install_plugin(
        "ortforge-shaky",
        "from ortforge.api import Backend\n"
        f"def ask(device): {body}\n"
        "def ortforge_backends(): yield Backend('shaky', 'ShakyExecutionProvider', '', availability=ask)",
    )
    answer = Plugins(environ={}).backends["shaky"].availability(linux_cpu)
    assert not answer.usable
    assert answer.reason == f"the plugin ortforge-shaky could not say whether shaky runs here: {reason}"


def test_registration_hooks_are_called_once(install_plugin: Install) -> None:
    install_plugin(
        "ortforge-counting",
        """
        calls = []

        def ortforge_reports():
            calls.append(1)
            return ()
        """,
    )
    plugins = Plugins(environ={})
    calls = sys.modules["ortforge_counting"].calls
    assert calls == []
    for _ in range(2):
        assert plugins.reports is plugins.reports
        plugins.rows()
    assert calls == [1]


def test_what_a_plugin_prints_stays_out_of_standard_output(
    install_plugin: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install_plugin("ortforge-chatty", "print('hello')\ndef ortforge_checks():\n    print('again')\n    return ()")
    Plugins(environ={}).rows()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "hello\nagain\n"


def test_a_failing_notification_is_a_warning_once_and_others_are_told(
    install_plugin: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install_plugin("ortforge-failing", "def ortforge_cell_judged(cell): raise SystemExit(cell['id'])")
    install_plugin(
        "ortforge-listening",
        """
        heard = []

        def ortforge_cell_judged(run_id, cell):
            heard.append((run_id, cell["id"]))
        """,
    )
    plugins = Plugins(environ={})
    with caplog.at_level(logging.WARNING):
        plugins.notify("ortforge_cell_judged", run_id="r1", cell={"id": "a"})
        plugins.notify("ortforge_cell_judged", run_id="r1", cell={"id": "a"})
    assert sys.modules["ortforge_listening"].heard == [("r1", "a"), ("r1", "a")]
    assert [record.getMessage() for record in caplog.records] == [
        "plugin ortforge-failing failed in ortforge_cell_judged: SystemExit: a"
    ]
    assert row_of(plugins, "ortforge-failing").error == "ortforge_cell_judged: SystemExit: a"


def test_an_optional_hook_of_a_later_version_is_no_error(install_plugin: Install) -> None:
    install_plugin(
        "ortforge-newer",
        """
        from ortforge.api import hookimpl

        @hookimpl(optionalhook=True)
        def ortforge_something_of_the_future():
            return ()
        """,
    )
    assert row_of(Plugins(environ={}), "ortforge-newer").status == "loaded"


def test_third_party_verbs_load_first_party_plugins_for_nobody(
    install_plugin: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(package: str) -> list[str]:
        raise AssertionError(f"looked for plugins in {package}")

    monkeypatch.setattr(plugin_manager, "_module_names", never)
    assert third_party_commands(environ={}) == ()
    install_plugin(
        "ortforge-verb",
        "from ortforge.api import Command\ndef ortforge_commands(): yield Command('deploy', 'ship it', 'm:main')",
    )
    assert [command.name for command in third_party_commands(environ={})] == ["deploy"]


def test_adding_a_first_party_plugin_is_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "house"
    (package / "backends").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "backends" / "__init__.py").touch()
    (package / "backends" / "edge.py").write_text(BACKEND.format(name="edge"), encoding="utf-8")
    (package / "backends" / "_helper.py").write_text("raise RuntimeError('a helper is no plugin')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = Plugins(package="house", third_party=False)
    assert [row.name for row in plugins.rows()] == ["backends.edge"]
    assert list(plugins.backends) == ["edge"]


@pytest.mark.parametrize("content", [b"[ortforge]\nthis is no entry\n", b"\xff\xfe", b"[ortforge]\nodd = two words\n"])
def test_unreadable_entry_points_of_one_distribution_hide_no_other(content: bytes, install_plugin: Install) -> None:
    site = install_plugin("ortforge-odd").parent
    (site / "ortforge_odd-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    install_plugin("ortforge-sound", BACKEND.format(name="sound"))
    plugins = Plugins(environ={})
    assert "sound" in plugins.backends
    odd = [row for row in plugins.rows() if row.distribution == "ortforge-odd"]
    assert [row.status for row in odd] == ["failed"]
    assert "entry point" in odd[0].error
