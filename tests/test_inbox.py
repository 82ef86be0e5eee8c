"""The inbox: who gives a file its label, and what waits, touching nothing."""

import json
import os
import time
from pathlib import Path

import pytest

from convloop.inbox import SETTLE_S, Inbox, Item, find_growing, read_inbox

CLASSES = ("cat", "dog")


def put(incoming: Path, name: str, text: str = "pixels", *, age_s: float = 60) -> None:
    file = incoming / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age_s, time.time() - age_s))


def read(incoming: Path, landed: tuple[str, ...] = ()) -> Inbox:
    return read_inbox(incoming, CLASSES, landed)


def labels(inbox: Inbox) -> dict[str, str | None]:
    return {item.file: item.label for item in inbox.items if not item.refusal}


def refusals(inbox: Inbox) -> dict[str, str]:
    return {item.file or item.name: item.refusal for item in inbox.items if item.refusal}


def test_no_folder_is_an_empty_inbox(tmp_path: Path) -> None:
    assert read(tmp_path / "absent") == Inbox((), (), ())


def test_class_folders_label_also_inside_a_delivery(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    put(tmp_path, "cat/deep/b.png")
    put(tmp_path, "vendor/dog/c.png")

    assert read(tmp_path).items == (
        Item("cat/a.png", "cat/a.png", "incoming", "cat"),
        Item("cat/deep/b.png", "cat/deep/b.png", "incoming", "cat"),
        Item("vendor/dog/c.png", "vendor/dog/c.png", "vendor", "dog"),
    )


def test_unknown_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "unicorn/a.png")

    assert refusals(read(tmp_path)) == {"unicorn/a.png": "class unicorn is not one of cat, dog"}


def test_what_lies_loose_has_no_label(tmp_path: Path) -> None:
    for name in ("a.png", "unlabelled/b.png", "unlabelled/cat/c.png", "vendor/unlabelled/d.png"):
        put(tmp_path, name)

    assert set(labels(read(tmp_path)).values()) == {None}


def test_hidden_and_half_copied_names_are_not_looked_at(tmp_path: Path) -> None:
    for name in (".DS_Store", "cat/.a.png.Xy12", "cat/a.png.part", "cat/b.tmp", ".git/c.png"):
        put(tmp_path, name)

    inbox = read(tmp_path)

    assert (inbox.items, inbox.waiting) == ((), ())


def test_table_may_name_a_hidden_file(tmp_path: Path) -> None:
    put(tmp_path, "in/.hidden.png")
    put(tmp_path, "in/labels.csv", "path,label\n.hidden.png,cat\n")

    assert labels(read(tmp_path)) == {"in/.hidden.png": "cat"}


def test_table_wins_over_folders(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    put(tmp_path, "cat/b.png")
    put(tmp_path, "march.csv", "path,label\ncat/a.png,dog\n")

    inbox = read(tmp_path)

    assert labels(inbox) == {"cat/a.png": "dog", "cat/b.png": "cat"}
    assert inbox.tables == ("march.csv",)


def test_paths_of_a_table_start_where_it_lies(tmp_path: Path) -> None:
    put(tmp_path, "march/x.png")
    put(tmp_path, "march/labels.csv", "path,label\n./x.png,dog\n")

    assert read(tmp_path).items == (Item("march/x.png", "march/x.png", "march/labels.csv", "dog"),)


def test_what_a_table_is_silent_about_has_no_label(tmp_path: Path) -> None:
    put(tmp_path, "march/x.png")
    put(tmp_path, "march/cat/y.png")
    put(tmp_path, "march/z.png")
    put(tmp_path, "march/labels.csv", "path,label\nx.png,dog\nz.png,\n")

    assert labels(read(tmp_path)) == {"march/x.png": "dog", "march/cat/y.png": None, "march/z.png": None}


@pytest.mark.parametrize("content", ["\ufeffpath,label\r\nx.png,cat\r\n", "label, path ,who\ncat,x.png,me\n"])
def test_table_may_come_from_a_spreadsheet(tmp_path: Path, content: str) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "march.csv", content)

    assert labels(read(tmp_path)) == {"x.png": "cat"}


def test_table_of_the_queue_says_where_images_first_came_from(tmp_path: Path) -> None:
    put(tmp_path, "done/0a1b.png")
    put(tmp_path, "done/labels.csv", "path,label,came_as,came_from,came_utc\n0a1b.png,cat,IMG 1.png,vendor,2026\n")

    assert read(tmp_path).items == (Item("done/0a1b.png", "IMG 1.png", "vendor", "cat"),)


@pytest.mark.parametrize(
    ("row", "shown", "reason"),
    [
        ("../secret.png,cat", "../secret.png", "leaves the folder of the table"),
        ("/etc/passwd,cat", "/etc/passwd", "leaves the folder of the table"),
        ("cat/../../x.png,cat", "cat/../../x.png", "leaves the folder of the table"),
        (",cat", "line 2", "is no row of path and label"),
        ("a.png,cat,more", "line 2", "is no row of path and label"),
        ("link.png,cat", "link.png", "is a link or no regular file"),
        ("pipe.png,cat", "pipe.png", "is a link or no regular file"),
    ],
)
def test_row_of_no_use_is_refused(tmp_path: Path, row: str, shown: str, reason: str) -> None:
    put(tmp_path, "in/march.csv", f"path,label\n{row}\n")
    put(tmp_path, "secret.png")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "in/pipe.png")

    refused = refusals(read(tmp_path / "in"))

    assert refused == {shown: reason}


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "march.csv", "path,label,split\nx.png,cat,dev\n")

    assert refusals(read(tmp_path)) == {"x.png": "split is dev, not train, val or test"}


def test_two_tables_that_disagree_refuse_the_image(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "y.png")
    put(tmp_path, "1.csv", "path,label\nx.png,cat\ny.png,cat\n")
    put(tmp_path, "2.csv", "path,label\nx.png,dog\ny.png,cat\n")

    inbox = read(tmp_path)

    assert refusals(inbox) == {"x.png": "is labelled cat and dog"}
    assert labels(inbox) == {"y.png": "cat"}


def test_other_columns_of_a_table_stay_with_the_image(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "y.png")
    put(tmp_path, "march.csv", "path,label,split,camera,site\nx.png,cat,Test,A7,Köln\ny.png,dog,,,\n")

    x, y = read(tmp_path).items

    assert (x.split, json.loads(x.slices)) == ("test", {"camera": "A7", "site": "Köln"})
    assert (y.split, y.slices) == ("", "")


# What waits


def test_table_waits_for_its_images_and_they_for_each_other(tmp_path: Path) -> None:
    put(tmp_path, "march/x.png")
    put(tmp_path, "march/other.png")
    put(tmp_path, "cat/a.png")
    put(tmp_path, "march/labels.csv", "path,label\nx.png,cat\ny.png,cat\nz.png,cat\n")

    inbox = read(tmp_path)

    assert labels(inbox) == {"cat/a.png": "cat"}
    assert inbox.tables == ()
    assert inbox.waiting == ("march/labels.csv names 2 images that are not there, such as march/y.png",)


def test_table_at_the_top_that_waits_holds_what_has_no_label_but_no_class_folder(tmp_path: Path) -> None:
    put(tmp_path, "loose.png")
    put(tmp_path, "cat/a.png")
    put(tmp_path, "cat/b.png")
    put(tmp_path, "march.csv", "path,label\ncat/b.png,dog\nabsent.png,cat\n")

    assert labels(read(tmp_path)) == {"cat/a.png": "cat"}


def test_table_may_name_what_came_before(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "all.csv", "path,label\nold.png,cat\nx.png,dog\n")

    inbox = read(tmp_path, ("old.png",))

    assert (labels(inbox), inbox.waiting) == ({"x.png": "dog"}, ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has no first line that names path and label, each column once"),
        ("file,class\nx.png,cat\n", "has no first line that names path and label, each column once"),
        ("path,label,label\nx.png,cat,dog\n", "has no first line that names path and label, each column once"),
        ('path,label\n"x.png,cat\n', "cannot be read as CSV in UTF-8: unexpected end of data"),
    ],
)
def test_table_that_cannot_be_read_waits(tmp_path: Path, content: str, problem: str) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "march.csv", content)

    inbox = read(tmp_path)

    assert (inbox.items, inbox.tables) == ((), ())
    assert inbox.waiting == (f"march.csv {problem}",)


def test_file_that_grows_holds_its_table_back(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "y.png")
    put(tmp_path, "march.csv", "path,label\nx.png,cat\ny.png,cat\n")

    inbox = read_inbox(tmp_path, CLASSES, (), {"x.png"})

    assert inbox.items == ()
    assert inbox.waiting == (
        "x.png is still being written",
        "march.csv names x.png, which is still being written",
    )


@pytest.mark.parametrize(("age_s", "is_growing"), [(SETTLE_S - 1, True), (SETTLE_S + 1, False), (-3600, True)])
def test_first_look_trusts_what_was_changed_a_while_ago(tmp_path: Path, age_s: float, is_growing: bool) -> None:
    put(tmp_path, "x.png", age_s=age_s)

    assert ("x.png" in find_growing(tmp_path, time.time(), {})) == is_growing


def test_second_look_trusts_what_stayed_the_same_whatever_its_date(tmp_path: Path) -> None:
    for name in ("same.png", "longer.png", "rewritten.png", "moved-in.png"):
        put(tmp_path, name, age_s=-3600)
    first = find_growing(tmp_path, time.time(), {})
    put(tmp_path, "longer.png", "more pixels", age_s=-3600)
    put(tmp_path, "rewritten.png", age_s=-3600)
    (tmp_path / "moved-in.png").unlink()
    put(tmp_path, "other/name.png", age_s=-3600)
    (tmp_path / "other/name.png").rename(tmp_path / "moved-in.png")

    second = find_growing(tmp_path, time.time(), first)

    assert sorted(second) == ["longer.png", "moved-in.png", "rewritten.png"]


def test_clock_that_is_an_hour_behind_trusts_no_file_dated_by_it(tmp_path: Path) -> None:
    put(tmp_path, "x.png", age_s=3600)

    assert "x.png" in find_growing(tmp_path, time.time() - 3600, {})


def test_links_and_pipes_stay_and_are_named(tmp_path: Path) -> None:
    put(tmp_path, "kept/secret.png")
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/a.png").symlink_to(tmp_path / "kept/secret.png")
    (tmp_path / "in/dog").symlink_to(tmp_path / "kept")
    os.mkfifo(tmp_path / "in/pipe.png")

    inbox = read(tmp_path / "in")

    assert inbox.items == ()
    assert sorted(inbox.waiting) == [
        f"{name} is a link or no regular file" for name in ("cat/a.png", "dog", "pipe.png")
    ]
