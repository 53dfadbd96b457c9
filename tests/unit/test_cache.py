"""What the store holds is told by kind, and cleaning removes what was asked for and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ortforge.errors import StoreError, UsageError
from ortforge.store import RUN_LOCK, Store
from ortforge.store.cache import clean, usage
from ortforge.store.ledger import StepRecord

DAY = timedelta(days=1)


def put(store: Store, content: bytes) -> str:
    with store.objects.scratch() as scratch:
        (scratch / "made").mkdir()
        (scratch / "made" / "model.onnx").write_bytes(content)
        return store.objects.put(scratch / "made")


def record(store: Store, kind: str, identity: str, *, status: str = "ok", age: timedelta = timedelta()) -> None:
    started = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    store.ledger.record(
        "run", StepRecord(f"{kind}-{identity}", kind, kind, status, identity, {"n": 1}, started=started)
    )


def unused_for(store: Store, digest: str, age: timedelta) -> None:
    path = store.root / "objects" / digest[:2] / digest[2:]
    os.utime(path, (time.time() - age.total_seconds(),) * 2)


def environment(store: Store, name: str, age: timedelta = timedelta()) -> Path:
    folder = store.envs / name
    (folder / "venv" / "lib").mkdir(parents=True)
    (folder / "venv" / "lib" / "big.so").write_bytes(bytes(5000))
    (folder / "venv" / "lib64").symlink_to("lib")
    (folder / "environment.json").write_bytes(b"{}")
    store.envs.joinpath(f"{name}.lock").touch()
    for path in (folder / "environment.json", folder / "venv", folder):
        os.utime(path, (time.time() - age.total_seconds(),) * 2)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fetched model, a transform made of it, a measured time, an environment, and an object nobody recorded."""
    store = Store(tmp_path / "store")
    for kind, content in (("fetch", b"f" * 1000), ("transform", b"t" * 300)):
        record(store, kind, put(store, content))
    record(store, "time", "a digest of samples")
    record(store, "provision", "an environment's identity")
    record(store, "transform", "", status="crashed")
    unused_for(store, put(store, b"orphan"), 2 * timedelta(hours=1))
    environment(store, "0123")
    yield store
    store.close()


def kinds(store: Store) -> dict[str, tuple[int, int]]:
    """For each kind the number of objects and of results."""
    return {row.kind: (row.objects, row.results) for row in usage(store)}


def test_usage_tells_objects_bytes_and_last_use_by_kind(store: Store) -> None:
    rows = {row.kind: row for row in usage(store)}
    assert kinds(store) == {
        "fetch": (1, 1),
        "transform": (1, 2),
        "time": (0, 1),
        "provision": (0, 1),
        "environment": (1, 0),
        "unreferenced": (1, 0),
        "ledger": (0, 0),
    }
    assert rows["fetch"].bytes == 1000
    assert 5000 <= rows["environment"].bytes < 5100
    assert rows["ledger"].bytes > 4096
    age = datetime.now(UTC) - datetime.fromisoformat(rows["unreferenced"].last_used)
    assert timedelta(hours=1.9) < age < timedelta(hours=2.1)


def test_using_an_object_is_seen(store: Store) -> None:
    digest = next(iter(store.objects))
    unused_for(store, digest, 30 * DAY)
    Store(store.root).objects.get(digest)
    assert time.time() - store.objects.last_used(digest) < 60


def test_asked_for_nothing_it_removes_only_what_no_result_needs(store: Store) -> None:
    recent = put(store, b"recorded in a moment by a run")
    freed = clean(store)
    assert [(row.kind, row.objects, row.bytes) for row in freed] == [("unreferenced", 1, 6)]
    assert store.objects.has(recent)
    assert kinds(store)["unreferenced"] == (1, 0)
    assert kinds(store)["transform"] == (1, 2)


def test_a_kind_goes_with_its_results_so_that_it_is_made_again(store: Store) -> None:
    freed = clean(store, kinds=["transform", "time"])
    assert {row.kind: (row.objects, row.results) for row in freed} == {"transform": (1, 2), "time": (0, 1)}
    assert "transform" not in kinds(store)
    assert kinds(store)["fetch"] == (1, 1)
    assert kinds(store)["unreferenced"] == (1, 0)


def test_an_object_that_another_kind_made_too_stays(store: Store) -> None:
    model = next(digest for digest in store.objects if store.objects.bytes(digest) == 1000)
    record(store, "transform", model)  # a pass that changed nothing gives the model it was given
    clean(store, kinds=["transform"])
    assert store.objects.has(model)
    assert store.ledger.done(f"fetch-{model}") is not None
    assert store.ledger.done(f"transform-{model}") is None


def test_age_counts_from_the_last_use(store: Store) -> None:
    old = next(digest for digest in store.objects if store.objects.bytes(digest) == 300)
    unused_for(store, old, 40 * DAY)
    environment(store, "4567", age=50 * DAY)
    freed = clean(store, older_than=30 * DAY)
    assert {row.kind: row.objects for row in freed if row.objects} == {"transform": 1, "environment": 1}
    assert not store.objects.has(old)
    assert store.ledger.done(f"transform-{old}") is None
    assert kinds(store)["fetch"] == (1, 1)
    assert not (store.envs / "4567").exists()
    assert (store.envs / "0123").exists()


def test_age_and_kind_together_remove_what_both_ask_for(store: Store) -> None:
    record(store, "time", "older samples", age=40 * DAY)
    freed = clean(store, older_than=30 * DAY, kinds=["time", "fetch"])
    assert [(row.kind, row.objects, row.results) for row in freed] == [("time", 0, 1)]
    assert store.ledger.done("time-a digest of samples") is not None


def test_an_old_attempt_whose_object_is_in_use_stays(store: Store) -> None:
    digest = put(store, b"made long ago, used today")
    record(store, "fetch", digest, age=400 * DAY)
    assert clean(store, older_than=30 * DAY, kinds=["fetch"]) == []
    assert store.ledger.done(f"fetch-{digest}") is not None


def test_environments_go_and_are_provisioned_again(store: Store) -> None:
    freed = {row.kind: row for row in clean(store, kinds=["environment"])}
    assert freed["environment"].objects == 1
    assert freed["provision"].results == 1
    assert not (store.envs / "0123").exists()
    assert kinds(store)["fetch"] == (1, 1)


def test_everything_goes_but_the_reports_of_runs(store: Store) -> None:
    run = store.ledger.start_run(matrix="matrix.toml")
    store.ledger.finish_run(run, exit_code=0, report={"schema": 1})
    clean(store, everything=True)
    assert kinds(store) == {"ledger": (0, 0)}
    assert list(store.objects) == []
    found = store.ledger.run(run)
    assert found is not None and found.report == {"schema": 1}


@pytest.mark.parametrize(
    "asked", [{}, {"everything": True}, {"kinds": ["transform", "environment"]}, {"older_than": DAY}]
)
def test_a_dry_run_says_what_a_real_one_does_and_removes_nothing(store: Store, asked: dict[str, object]) -> None:
    unused_for(store, next(digest for digest in store.objects if store.objects.bytes(digest) == 300), 9 * DAY)
    before = kinds(store)
    said = clean(store, dry_run=True, **asked)  # type: ignore[arg-type]
    assert kinds(store) == before
    assert clean(store, **asked) == said  # type: ignore[arg-type]
    assert said


def test_an_unknown_kind_is_named_with_the_nearest(store: Store) -> None:
    with pytest.raises(UsageError, match="nothing of kind 'transfrom'") as caught:
        clean(store, kinds=["transfrom"])
    assert "'transform'" in caught.value.meant


def test_nothing_is_removed_under_a_run(store: Store) -> None:
    with Store(store.root).lock(RUN_LOCK, shared=True), pytest.raises(StoreError, match="in use"):
        clean(store, everything=True)
    assert len(list(store.objects)) == 3


def test_a_damaged_object_is_in_nobodys_way(store: Store) -> None:
    digest = next(iter(store.objects))
    path = store.root / "objects" / digest[:2] / digest[2:]
    path.chmod(0o755)
    (path / "link").symlink_to("/etc/passwd")
    assert sum(row.objects for row in usage(store)) == 4
    clean(store, everything=True)
    assert list(store.objects) == []
    assert Path("/etc/passwd").exists()


def test_forgotten_rows_give_their_space_back(store: Store) -> None:
    for number in range(50):
        store.ledger.record("run", StepRecord(str(number), "t", "time", "ok", "i", {"x": "y" * 100_000}))
    before = {row.kind: row.bytes for row in usage(store)}["ledger"]
    clean(store, kinds=["time"])
    assert {row.kind: row.bytes for row in usage(store)}["ledger"] < before / 10
