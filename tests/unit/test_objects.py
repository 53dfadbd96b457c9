"""Objects survive kills, full disks, damage and company: what the store gives back is what was put into it."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ortforge
from ortforge.errors import StoreError
from ortforge.store import Store, default_root, open_store
from ortforge.store.atomic import publish, remove, write_bytes, write_json
from ortforge.store.hashing import digest_bytes, digest_tree
from ortforge.store.objects import CorruptObjectError, ObjectStore

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(ortforge.__file__).parents[1])}


def start(code: str, *arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a Python process that can import ortforge."""
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def make_folder(path: Path, *, content: bytes = b"weights") -> Path:
    (path / "data").mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"model")
    (path / "data" / "weights.bin").write_bytes(content)
    return path


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "store")


def test_a_folder_is_put_found_and_read_back(objects: ObjectStore, tmp_path: Path) -> None:
    digest = objects.put(make_folder(tmp_path / "made"))
    assert objects.has(digest)
    assert objects.get(digest) == tmp_path / "store" / "objects" / digest[:2] / digest[2:]
    assert (objects.get(digest) / "data" / "weights.bin").read_bytes() == b"weights"
    assert digest_tree(objects.get(digest)) == digest
    assert objects.bytes(digest) == len(b"model" + b"weights")
    assert list(objects) == [digest]
    assert not (tmp_path / "made").exists()  # the store took it


def test_a_file_can_be_an_object_and_stays_executable(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    digest = objects.put(tmp_path / "tool")
    assert stat.S_IMODE(objects.get(digest).stat().st_mode) == 0o555


def test_what_is_put_is_read_only(objects: ObjectStore, tmp_path: Path) -> None:
    path = objects.get(objects.put(make_folder(tmp_path / "made")))
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path / "data", path / "model.onnx")]
    assert modes == [0o555, 0o555, 0o444]


def test_putting_the_same_again_changes_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    first = objects.put(make_folder(tmp_path / "one"))
    inode = objects.get(first).stat().st_ino
    assert objects.put(make_folder(tmp_path / "two")) == first
    assert objects.get(first).stat().st_ino == inode
    assert not (tmp_path / "two").exists()


def test_keep_leaves_the_original_and_an_object_can_be_put_again_from_itself(
    objects: ObjectStore, tmp_path: Path
) -> None:
    source = make_folder(tmp_path / "mine")
    digest = objects.put(source, keep=True)
    assert digest_tree(source) == digest
    assert stat.S_IMODE((source / "model.onnx").stat().st_mode) & stat.S_IWUSR
    other = ObjectStore(tmp_path / "other store")
    assert other.put(objects.get(digest), keep=True) == digest
    assert objects.get(digest).exists()


def test_a_file_with_a_second_hard_link_is_copied_so_that_nobody_can_write_the_object(
    objects: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "cached.whl").write_bytes(b"wheel")
    (tmp_path / "link.whl").hardlink_to(tmp_path / "cached.whl")
    digest = objects.put(tmp_path / "link.whl")
    (tmp_path / "cached.whl").write_bytes(b"other")
    assert objects.get(digest).read_bytes() == b"wheel"


def test_an_object_from_another_filesystem_is_copied(objects: ObjectStore, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second filesystem that may be written")
    source = make_folder(memory / f"ortforge-test-{os.getpid()}")
    try:
        digest = objects.put(source)
        assert digest == digest_tree(source) == digest_tree(objects.get(digest))
    finally:
        shutil.rmtree(source)


def test_a_link_is_refused_and_the_original_stays(objects: ObjectStore, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "made")
    (source / "escape").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="symbolic link"):
        objects.put(source)
    assert (source / "model.onnx").exists()
    assert list(objects) == []


@pytest.mark.parametrize("damage", ["changed", "truncated", "removed", "added", "linked"])
def test_a_damaged_object_is_dropped_and_can_be_made_again(tmp_path: Path, damage: str) -> None:
    digest = ObjectStore(tmp_path / "store").put(make_folder(tmp_path / "made"))
    objects = ObjectStore(tmp_path / "store")  # as another process would: nothing is verified yet
    path = tmp_path / "store" / "objects" / digest[:2] / digest[2:]
    for place in (path, path / "data", path / "model.onnx"):
        place.chmod(0o755)
    if damage == "changed":
        (path / "model.onnx").write_bytes(b"modeL")
        (path / "model.onnx").chmod(0o444)
    elif damage == "truncated":
        os.truncate(path / "model.onnx", 2)
    elif damage == "removed":
        (path / "data" / "weights.bin").unlink()
    elif damage == "added":
        (path / "profile.json").write_bytes(b"{}")
    else:
        (path / "model.onnx").unlink()
        (path / "model.onnx").symlink_to("/etc/passwd")
    with pytest.raises(CorruptObjectError, match="is damaged, and was dropped") as caught:
        objects.get(digest)
    assert caught.value.digest == digest
    assert not objects.has(digest)
    assert objects.put(make_folder(tmp_path / "again")) == digest
    assert digest_tree(objects.get(digest)) == digest


def test_putting_mends_a_damaged_object(tmp_path: Path) -> None:
    digest = ObjectStore(tmp_path / "store").put(make_folder(tmp_path / "made"))
    model = tmp_path / "store" / "objects" / digest[:2] / digest[2:] / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(b"modeL")
    assert ObjectStore(tmp_path / "store").put(make_folder(tmp_path / "again")) == digest
    assert model.read_bytes() == b"model"


def test_an_absent_object_says_so(objects: ObjectStore) -> None:
    with pytest.raises(CorruptObjectError, match="is not in the store"):
        objects.get("0" * 40)
    assert not objects.has("0" * 40)
    assert objects.bytes("0" * 40) == 0
    assert not objects.drop("0" * 40)


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 40, "0" * 39, "0" * 40 + "\n"])
def test_only_digests_name_objects(objects: ObjectStore, name: str) -> None:
    assert not objects.has(name)
    with pytest.raises(StoreError, match="not the digest"):
        objects.get(name)


def test_a_dropped_object_is_gone(objects: ObjectStore, tmp_path: Path) -> None:
    digest = objects.put(make_folder(tmp_path / "made"))
    assert objects.drop(digest)
    assert not objects.has(digest)
    with pytest.raises(CorruptObjectError):
        objects.get(digest)


def test_a_corrupt_object_error_crosses_to_another_process_whole() -> None:
    error = CorruptObjectError("ab" * 20, "what", meant="meant", todo="todo")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.digest, str(copy)) == (error.digest, str(error))


def test_a_scratch_folder_goes_away_with_read_only_content(objects: ObjectStore) -> None:
    with objects.scratch() as scratch:
        made = make_folder(scratch / "made")
        for place in (made / "model.onnx", made / "data", made):
            place.chmod(0o555)
        assert scratch.stat().st_dev == objects.root.stat().st_dev
    assert not scratch.exists()


def test_left_overs_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    code = """
import sys, time
from pathlib import Path
from ortforge.store.objects import ObjectStore
with ObjectStore(Path(sys.argv[1])).scratch() as scratch:
    (scratch / "half").write_bytes(b"x")
    print(scratch, flush=True)
    time.sleep(60)
"""
    process = start(code, tmp_path)
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    with objects.scratch() as ours:
        ObjectStore(tmp_path)
        assert theirs.exists()
        process.kill()
        process.wait()
        ObjectStore(tmp_path)
        assert not theirs.exists()
        assert ours.exists()


def test_left_overs_of_other_hosts_are_swept_when_they_are_old(tmp_path: Path) -> None:
    objects = ObjectStore(tmp_path)
    for name, age in (("elsewhere.1-12-34-ab", 3600), ("elsewhere.1-12-35-cd", 30 * 24 * 3600)):
        (tmp_path / "tmp" / name).mkdir()
        os.utime(tmp_path / "tmp" / name, (time.time() - age, time.time() - age))
    objects.sweep()
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["elsewhere.1-12-34-ab"]


PUTTER = """
import random, sys
from pathlib import Path
from ortforge.store.objects import ObjectStore
seed, root = int(sys.argv[2]), Path(sys.argv[1])
objects, rng = ObjectStore(root), random.Random(seed)
print("ready", flush=True)
while True:
    with objects.scratch() as scratch:
        made = scratch / "made"
        (made / "data").mkdir(parents=True)
        for number in range(rng.randrange(1, 12)):
            (made / "data" / f"{number}.bin").write_bytes(rng.randbytes(rng.randrange(100_000)))
        print(objects.put(made), flush=True)
"""


def test_killed_in_the_middle_of_puts_the_store_holds_whole_objects_only(tmp_path: Path) -> None:
    root = tmp_path / "store"
    rng = random.Random(7)
    promised: list[str] = []
    for seed in range(10):
        process = start(PUTTER, root, seed)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        promised += [process.stdout.readline() for _ in range(rng.randrange(4))]
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
        promised += [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
        objects = ObjectStore(root)
        for digest in objects:
            assert digest_tree(objects.get(digest)) == digest
        assert list((root / "tmp").iterdir()) == []
    assert len(promised) >= 10
    for digest in promised:
        assert objects.has(digest.strip())


RACER = """
import sys, time
from pathlib import Path
from ortforge.store.objects import ObjectStore
objects, start = ObjectStore(Path(sys.argv[1])), float(sys.argv[2])
while time.time() < start: pass
for number in range(40):
    with objects.scratch() as scratch:
        made = scratch / "made"
        (made / "data").mkdir(parents=True)
        (made / "data" / "x.bin").write_bytes(str(number).encode() * 1000)
        folder = objects.put(made)
        (scratch / "file").write_bytes(str(number).encode())
        file = objects.put(scratch / "file")
    assert (objects.get(folder) / "data" / "x.bin").read_bytes() == str(number).encode() * 1000
    assert objects.get(file).read_bytes() == str(number).encode()
    print(folder, file)
"""


def test_two_processes_that_put_the_same_at_once_both_succeed(tmp_path: Path) -> None:
    begin = time.time() + 0.7
    processes = [start(RACER, tmp_path, begin) for _ in range(2)]
    outputs = [finish(process) for process in processes]
    assert outputs[0] == outputs[1]
    assert sorted(ObjectStore(tmp_path)) == sorted(outputs[0].split())
    assert list((tmp_path / "tmp").iterdir()) == []


def test_threads_put_and_get_the_same_objects(objects: ObjectStore, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(15):
                made = make_folder(tmp_path / f"{name}-{number}", content=b"%d" % number)
                assert (objects.get(objects.put(made)) / "data" / "weights.bin").read_bytes() == b"%d" % number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(objects)) == 15


# Disks that refuse.

SMALL_DISK = ("unshare", "--map-root-user", "--mount")


def on_small_disk(tmp_path: Path, options: str, code: str) -> str:
    """Run code with a tmpfs of its own at its first argument; only that process sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"['mount', '-t', 'tmpfs', '-o', {options!r}, 'tmpfs', sys.argv[1]]"
    prepare = f"import subprocess, sys\nsubprocess.run({mount}, check=True)\n"
    (tmp_path / "prepare.py").write_text(prepare + code)
    probe = f"mount -t tmpfs -o size=1m tmpfs '{disk}'"
    if subprocess.run([*SMALL_DISK, "sh", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk (unshare --mount is refused)")
    done = subprocess.run(
        [*SMALL_DISK, sys.executable, str(tmp_path / "prepare.py"), str(disk)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_full_disk_is_said_with_its_size_and_loses_nothing(tmp_path: Path) -> None:
    output = on_small_disk(
        tmp_path,
        "size=2m",
        """
import sys
from pathlib import Path
from ortforge.errors import StoreError
from ortforge.store import open_store
from ortforge.store.atomic import write_json
from ortforge.store.hashing import digest_tree
from ortforge.store.ledger import StepRecord

store = open_store(Path(sys.argv[1]))
run = store.ledger.start_run(matrix="m")
def put(size):
    made = Path(sys.argv[0]).with_name("made")
    made.mkdir(exist_ok=True)
    (made / "weights.bin").write_bytes(bytes(size))
    return store.objects.put(made)
kept = put(500_000)
store.ledger.record(run, StepRecord("k", "fetch:m", "fetch", "ok", kept))
try:
    put(3_000_000)
except StoreError as error:
    print(error)
else:
    sys.exit("3 MB fitted on a disk of 2 MB")
filler = open(Path(sys.argv[1]) / "filler", "wb", buffering=0)
try:
    while True: filler.write(bytes(4096))
except OSError: pass
def record(key, size):
    store.ledger.record(run, StepRecord(key, "s", "time", "ok", "i", {"x": "y" * size}))
for act in (lambda: write_json(Path(sys.argv[1]) / "report.json", ["x" * 10_000]),
            lambda: [record(str(number), 100_000) for number in range(100)]):
    try:
        act()
    except StoreError as error:
        print("---"); print(error)
    else:
        sys.exit("written to a full disk")
assert sorted(path.name for path in Path(sys.argv[1]).iterdir() if path.name.startswith(".")) == []
filler.close()
(Path(sys.argv[1]) / "filler").unlink()
assert digest_tree(store.objects.get(kept)) == kept and list(store.objects) == [kept]
assert store.ledger.done("k").identity == kept
record("later", 1000)
assert store.ledger.done("later") is not None
""",
    )
    for message in output.split("---\n"):
        assert message.startswith("The disk is full: ")
        assert "of 2.1 MB are free there now" in message
        assert "ortforge cache clean" in message
    assert "(3.0 MB) could not be written" in output
    assert str(tmp_path / "disk") in output


def test_a_read_only_disk_is_said(tmp_path: Path) -> None:
    output = on_small_disk(
        tmp_path,
        "ro",
        """
import sys
from pathlib import Path
from ortforge.errors import StoreError
from ortforge.store import open_store
from ortforge.store.atomic import write_bytes
for act in (lambda: open_store(Path(sys.argv[1])), lambda: write_bytes(Path(sys.argv[1]) / "x", b"")):
    try:
        act()
    except StoreError as error:
        print(error)
""",
    )
    assert output.count("read-only") >= 2
    assert output.count("--store DIR") == 2


def test_a_limit_on_file_size_is_said_and_leaves_no_half_file(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from ortforge.errors import StoreError
from ortforge.store.atomic import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]) / "x", bytes(5000))
except StoreError as error:
    print(error)
"""
    assert "larger than this process may write (ulimit -f)" in finish(start(code, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_else_is_said_with_what_to_do(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        who = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    else:
        who = ""
        tmp_path.chmod(0o555)
    # Everything is imported before the user changes, who may not be able to read the code.
    code = f"""
import sys
from pathlib import Path
import ortforge.store.ledger, encodings.idna, tempfile, platformdirs.unix
from ortforge.errors import StoreError
from ortforge.store import open_store
{who}
try:
    open_store(Path(sys.argv[1]) / "cache" / "ortforge")
except StoreError as error:
    print(error)
"""
    output = finish(start(code, tmp_path))
    tmp_path.chmod(0o755)
    assert f"The store {tmp_path / 'cache' / 'ortforge'} cannot be used: permission denied" in output
    assert "--store DIR, or ORTFORGE_STORE=DIR" in output


# Writing atomically.


def test_a_file_is_replaced_whole_and_keeps_no_temporary_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "index.json", {"b": 1, "a": "ü"})
    write_json(tmp_path / "index.json", {"b": 2, "a": "ü"})
    assert (tmp_path / "index.json").read_text("utf-8") == '{"b": 2, "a": "ü"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


def test_what_json_cannot_say_is_not_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "index.json", b"before")
    with pytest.raises(TypeError, match=r"value\['cosine'\] is nan"):
        write_json(tmp_path / "index.json", {"cosine": float("nan")})
    assert (tmp_path / "index.json").read_bytes() == b"before"


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its folder is not there"):
        write_bytes(tmp_path / "gone" / "x", b"")


def test_a_folder_is_published_once(tmp_path: Path) -> None:
    publish(make_folder(tmp_path / "a"), tmp_path / "final")
    with pytest.raises(FileExistsError):
        publish(make_folder(tmp_path / "b", content=b"later"), tmp_path / "final")
    assert (tmp_path / "final" / "data" / "weights.bin").read_bytes() == b"weights"
    assert (tmp_path / "b").exists()


def test_remove_follows_no_links_and_minds_nothing_that_is_gone(tmp_path: Path) -> None:
    kept = make_folder(tmp_path / "kept")
    gone = make_folder(tmp_path / "gone")
    (gone / "lib64").symlink_to(kept)
    (gone / "data").chmod(0o555)
    remove(gone)
    remove(gone)
    assert not gone.exists()
    assert (kept / "model.onnx").exists()


def test_other_operating_system_errors_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        write_bytes(tmp_path / ("x" * 300), b"")
    assert isinstance(caught.value.__cause__, OSError)
    assert os.strerror(errno.ENAMETOOLONG) in str(caught.value)


# The store as a whole.


def test_opening_makes_the_folders_and_marks_them_as_a_cache(tmp_path: Path) -> None:
    store = open_store(tmp_path / "deep" / "store")
    assert (store.root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert store.envs.is_dir()
    store.close()


def test_a_folder_of_another_purpose_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "envs" / "mine").mkdir(parents=True)
    with pytest.raises(StoreError, match="is not a store of ortforge"):
        open_store(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "envs"]


@pytest.mark.parametrize("below", [".", "inside"])
def test_a_file_in_the_way_is_said(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot be used: (a file of that name is in the way|not a directory)"):
        open_store(tmp_path / "file" / below)


def test_the_root_comes_from_the_environment_or_the_user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORTFORGE_STORE", str(tmp_path / "here"))
    assert default_root() == tmp_path / "here"
    assert open_store().root == tmp_path / "here"
    monkeypatch.delenv("ORTFORGE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "ortforge"


def test_opening_imports_neither_sqlite_nor_platformdirs_and_makes_no_ledger(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from ortforge.store import open_store
store = open_store(Path(sys.argv[1]))
print(sorted({"sqlite3", "platformdirs", "numpy"} & set(sys.modules)), store.objects.has("0" * 40))
"""
    assert finish(start(code, tmp_path / "s")) == "[] False\n"
    assert not (tmp_path / "s" / "ledger.sqlite3").exists()


HOLDER = """
import sys, time
from pathlib import Path
from ortforge.store import open_store
with open_store(Path(sys.argv[1])).lock("timing"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_told_of_while_it_is_waited_for_and_dies_with_its_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = start(HOLDER, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    with (
        pytest.raises(StoreError, match=f"timing is held by process {process.pid} on "),
        store.lock("timing", wait=False),
    ):
        pass
    told: list[str] = []

    def waiting(holder: str) -> None:
        told.append(holder)
        process.kill()

    with store.lock("timing", waiting=waiting):
        pass
    process.communicate()
    assert len(told) == 1
    assert told[0].startswith(f"process {process.pid} on ")


def test_a_shared_lock_has_many_holders_and_keeps_a_lone_one_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("run", shared=True), store.lock("run", shared=True):
        refused = pytest.raises(StoreError, match="in use")
        with refused, store.lock("run", wait=False):
            pass
    with store.lock("run", wait=False):
        pass


def test_digests_of_objects_are_content_alone(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "y").write_bytes(b"x")
    one, other = ObjectStore(tmp_path / "one"), ObjectStore(tmp_path / "other")
    assert one.put(tmp_path / "x") == other.put(tmp_path / "y") != digest_bytes(b"x")


def test_an_object_is_checked_beside_its_reader(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    (tmp_path / "file").write_text("content")
    digest = store.put(tmp_path / "file")
    fresh = ObjectStore(tmp_path)
    with fresh.reading(digest) as path:
        assert path.read_text() == "content"
    damaged = ObjectStore(tmp_path)
    store.get(digest).chmod(0o644)
    store.get(digest).write_text("damaged")
    with pytest.raises(CorruptObjectError), damaged.reading(digest) as path:
        raise ValueError(path.read_text())
    assert not damaged.has(digest)
