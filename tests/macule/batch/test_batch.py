"""Many images become one row each, even if the process is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from macule import batch, settings
from macule.batch import journal, source
from macule.batch.progress import Progress
from macule.errors import BadRequest, Unavailable
from pyarrow import parquet
from support.images import photo, saved, skin
from support.small_model import colour_photo

MACULE = [sys.executable, "-m", "macule.cli", "batch"]
CHOSEN = settings.read({})
MANY = 140


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder of two valid images and one of each kind of invalid image."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b").mkdir()
    (folder / "a.jpg").write_bytes(photo(200, 150))
    (folder / "b" / 'ä, "b"\n.png').write_bytes(saved(skin(90, 60), "PNG"))
    (folder / "b" / "cut.jpg").write_bytes(photo()[:3000])
    (folder / "large.jpg").write_bytes(b"\xff\xd8" + b"x" * CHOSEN.max_image_bytes)
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").write_text("left out")
    os.symlink(folder, folder / "b" / "round")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        (folder / f"{number:04}.jpg").write_bytes(saved(skin(120, 90, number)))
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the result of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed") / "all.jsonl"
    batch.run(str(many), str(out), CHOSEN)
    return out.read_text()


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def begin(many: Path, out: Path, images: int) -> subprocess.Popen[str]:
    """Start the command and wait until it has written some rows."""
    process = subprocess.Popen(
        [*MACULE, many, "--out", out], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    part = Path(journal.journal_path(str(out)))
    end = time.monotonic() + 30
    while not (part.exists() and len(part.read_bytes().splitlines()) > images):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    return process


def test_each_image_and_each_error_is_one_row(photos: Path, tmp_path: Path) -> None:
    """Rows are in the order of names; an invalid image has its error; hidden files are skipped."""
    tally = batch.run(str(photos), str(tmp_path / "all.jsonl"), CHOSEN)
    found = rows(tmp_path / "all.jsonl")

    assert [Path(str(row["source"])).name for row in found] == [
        "a.jpg", "cut.jpg", "ä, \"b\"\n.png", "large.jpg", "notes.txt",
    ]  # fmt: skip
    assert [row["status"] for row in found] == [
        "ok", "bad-image", "ok", "body-too-large", "unsupported-image",
    ]  # fmt: skip
    assert tally == {"ok": 2, "bad-image": 1, "body-too-large": 1, "unsupported-image": 1}
    good, bad = found[0], found[1]
    shares = {key: value for key, value in good.items() if key.startswith("p_")}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]
    assert good["probability"] == max(shares.values()) == shares[f"p_{good['label']}"]  # type: ignore[type-var]
    assert (good["error"], bad["label"], bad["model"]) == (None, None, None)


def test_a_row_has_the_reason(colours: Path, tmp_path: Path) -> None:
    """Only an inconclusive row says why."""
    (tmp_path / "photos").mkdir()
    for name, colour in {"classified": (200, 40, 40), "phone": (10, 10, 200)}.items():
        (tmp_path / "photos" / f"{name}.png").write_bytes(colour_photo(colour))
    out = tmp_path / "all.csv"

    done = subprocess.run([*MACULE, tmp_path / "photos", "--out", out, "--model", colours])

    assert done.returncode == 0
    with out.open(newline="", encoding="utf-8") as file:
        found = [(row["decision"], row["reason"]) for row in csv.DictReader(file)]
    assert found == [("classified", ""), ("inconclusive", "not_dermoscopic")]


def test_all_formats_have_the_same_rows(photos: Path, tmp_path: Path) -> None:
    """CSV and parquet have the rows of JSON lines; parquet with numbers and nulls."""
    for ending in ("jsonl", "csv", "parquet"):
        batch.run(str(photos), str(tmp_path / f"all.{ending}"), CHOSEN)
    found = rows(tmp_path / "all.jsonl")

    assert parquet.read_table(tmp_path / "all.parquet").to_pylist() == found
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(found[0])
    assert table == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in found
    ]


def test_a_missing_file_of_a_list_is_a_row(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is read in order, from a file or standard input; a missing file is a row."""
    lines = f"{photos}/notes.txt\n\n{photos}/gone.jpg\n  {photos}/a.jpg\nftp://a/b\n"
    (tmp_path / "list.txt").write_text(lines)
    expected = ["unsupported-image", "unreadable", "ok", "unreadable"]

    batch.run(str(tmp_path / "list.txt"), str(tmp_path / "file.jsonl"), CHOSEN)
    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": BytesIO(lines.encode())}))
    batch.run("-", str(tmp_path / "in.jsonl"), CHOSEN)

    assert [row["status"] for row in rows(tmp_path / "file.jsonl")] == expected
    assert (tmp_path / "in.jsonl").read_text() == (tmp_path / "file.jsonl").read_text()


def test_the_output_in_the_folder_is_not_an_input(tmp_path: Path) -> None:
    """A table written into its input folder has no row about itself."""
    (tmp_path / "a.jpg").write_bytes(photo(90, 60))
    for restart in (False, True):
        tally = batch.run(str(tmp_path), str(tmp_path / "r.csv"), CHOSEN, restart=restart)

        assert tally == {"ok": 1}


def test_a_file_name_may_have_any_bytes(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is read, and its name is shown with escaped bytes."""
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/\xff.jpg")).write_bytes(photo(90, 60))

    assert batch.run(str(tmp_path / "in"), str(tmp_path / "r.jsonl"), CHOSEN) == {"ok": 1}
    assert rows(tmp_path / "r.jsonl")[0]["source"] == f"{tmp_path}/in/\\xff.jpg"


@pytest.mark.slow
def test_a_resumed_run_loses_and_repeats_nothing(
    many: Path, undisturbed: str, tmp_path: Path
) -> None:
    """After each kill -9 the same command continues; the result equals an undisturbed run."""
    out = tmp_path / "all.jsonl"
    for images in (20, 50, 90):
        process = begin(many, out, images)
        process.kill()
        process.communicate()
        assert not out.exists()

    subprocess.run([*MACULE, many, "--out", out], check=True, capture_output=True)

    assert out.read_text() == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.jsonl"]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume(
    by: signal.Signals, many: Path, undisturbed: str, tmp_path: Path
) -> None:
    """SIGINT and SIGTERM end the run with 130, and the same command continues it."""
    out = tmp_path / "all.jsonl"
    process = begin(many, out, 20)
    process.send_signal(by)
    _, output = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "run the same command without --restart to continue" in output
    assert "Traceback" not in output
    batch.run(str(many), str(out), CHOSEN)
    assert out.read_text() == undisturbed


def interrupted_run(many: Path, out: Path, undisturbed: str, extra: bytes = b"") -> Path:
    """Write the journal of a run that ended in the middle; *extra* follows its last row."""
    part = Path(journal.journal_path(str(out)))
    head = {
        "macule": batch.__version__,
        "source": str(many),
        "model": json.loads(undisturbed.splitlines()[0])["model"],
        "labels": [key[2:] for key in json.loads(undisturbed.splitlines()[0]) if key[:2] == "p_"],
        "max_image_bytes": CHOSEN.max_image_bytes,
        "max_image_pixels": CHOSEN.max_image_pixels,
    }
    lines = [json.dumps(head), *undisturbed.splitlines()[: MANY - 10]]
    part.write_bytes("\n".join(lines).encode() + b"\n" + extra)
    return part


@pytest.mark.parametrize("extra", [b'{"source": "torn', b"\0\0\0\0\n\0\0", b"{}", b""])
def test_an_incomplete_line_is_written_again(
    extra: bytes, many: Path, undisturbed: str, tmp_path: Path
) -> None:
    """Data after the last complete line are dropped, and the rows are complete."""
    interrupted_run(many, tmp_path / "all.jsonl", undisturbed, extra)

    batch.run(str(many), str(tmp_path / "all.jsonl"), CHOSEN)

    assert (tmp_path / "all.jsonl").read_text() == undisturbed


def test_a_changed_source_is_rejected(many: Path, undisturbed: str, tmp_path: Path) -> None:
    """If a name differs from its row, the error gives both and says what to do."""
    part = interrupted_run(many, tmp_path / "all.jsonl", undisturbed)
    part.write_text(part.read_text().replace("/0007.jpg", "/0006b.jpg"))

    with pytest.raises(
        BadRequest, match=r"image 8 was .*0006b\.jpg, now it is .*0007\.jpg.*--restart"
    ):
        batch.run(str(many), str(tmp_path / "all.jsonl"), CHOSEN)


def test_other_options_are_rejected(many: Path, undisturbed: str, tmp_path: Path) -> None:
    """A journal with another limit is not continued; --restart starts again."""
    interrupted_run(many, tmp_path / "all.jsonl", undisturbed)
    other = CHOSEN._replace(max_image_pixels=200 * 150)

    with pytest.raises(BadRequest, match="max_image_pixels was 120000000, is 30000"):
        batch.run(str(many), str(tmp_path / "all.jsonl"), other)
    tally = batch.run(str(many), str(tmp_path / "all.jsonl"), other, restart=True)
    assert tally == {"ok": MANY}


def test_finished_and_running_tables_are_kept(photos: Path, tmp_path: Path) -> None:
    """A finished table is not made again, and two runs never write one table."""
    out = str(tmp_path / "all.csv")
    batch.run(str(photos), out, CHOSEN)
    with pytest.raises(BadRequest, match=r"is finished. Use --restart"):
        batch.run(str(photos), out, CHOSEN)

    running = journal.Journal(out, {}, restart=True)
    with pytest.raises(BadRequest, match="Another run"):
        batch.run(str(photos), out, CHOSEN, restart=True)
    running.close()


def test_misuse_is_reported_before_the_run(photos: Path, tmp_path: Path) -> None:
    """A bad suffix, a missing source, an image as a list and an unwritable place are reported."""
    for place, out, why in (
        (photos, "all.xlsx", "does not end with"),
        (tmp_path / "none", "all.csv", "No such file"),
        (photos / "a.jpg", "all.csv", "not a text list"),
        (photos, "nowhere/all.csv", "cannot be written: No such file"),
    ):
        with pytest.raises(BadRequest, match=why):
            batch.run(str(place), str(tmp_path / out), CHOSEN)


def test_errors_are_counted_and_strict_fails(photos: Path, tmp_path: Path) -> None:
    """Rows with errors exit with 0, with --strict 1; --quiet prints no progress."""
    line = [*MACULE, photos, "--out", tmp_path / "all.csv", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    strict = subprocess.run([*line, "--restart", "--strict"], capture_output=True, check=False)

    assert (done.returncode, strict.returncode) == (0, 1)
    assert "5 rows, with errors: 1 bad-image, 1 body-too-large, 1 unsupported-image" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(many: Path, tmp_path: Path) -> None:
    """The peak memory of a fresh process is the same for a quarter and twice of the images.

    A list repeats the same small images.
    """
    code = (
        "import sys; from macule import batch, settings; "
        "batch.run(*sys.argv[1:], settings.read({})); "
        "print([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0])"
    )
    names, peaks_mb = sorted(map(str, many.iterdir())), []
    for size, listed in enumerate((names[: MANY // 4], names * 2)):
        (tmp_path / f"{size}.txt").write_text("\n".join(listed))
        output = subprocess.check_output(
            [sys.executable, "-c", code, tmp_path / f"{size}.txt", tmp_path / f"{size}.csv"]
        )
        peaks_mb.append(int(output) / 1024)

    assert peaks_mb[1] < peaks_mb[0] + 3


def test_a_folder_is_sorted_and_counted(tmp_path: Path) -> None:
    """A folder's names are sorted, and their number comes before the first name."""
    for name in ("b/2", "b/10", "a/z", "c", "B"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    names, total = source.list_images(str(tmp_path), "out.csv")

    assert [name.removeprefix(f"{tmp_path}/") for name in names] == ["B", "a/z", "b/10", "b/2", "c"]
    assert total == 5


def test_progress_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets a line a minute, a terminal a changing line; without a total no percentage."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    log, terminal = StringIO(), StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    known, unknown = Progress(log, 1000, 3000), Progress(terminal, 0, None)
    for done in (1500, 1600):
        clock[0] += 50
        known.update(done, 2)
        unknown.update(done, 2)
    unknown.close()
    Progress(None, 0, None).update(1, 0)

    assert log.getvalue() == "1,600 of 3,000 (53%), 2 errors, 6.0/s, 0:03:53 left\n"
    assert terminal.getvalue() == (
        "\r\033[K1,500 images, 2 errors, 30.0/s\r\033[K1,600 images, 2 errors, 16.0/s\r\033[K"
    )


def test_a_fault_of_the_whole_source_ends_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable bucket makes no rows: the run ends and can continue later."""
    (tmp_path / "list.txt").write_text(f"{photos}/a.jpg\nhttp://127.0.0.1:1/a.jpg\n")
    monkeypatch.setattr(time, "sleep", lambda _: None)

    with pytest.raises(Unavailable, match="tried 4 times"):
        batch.run(str(tmp_path / "list.txt"), str(tmp_path / "all.csv"), CHOSEN)

    assert len(Path(journal.journal_path(str(tmp_path / "all.csv"))).read_text().splitlines()) == 2
