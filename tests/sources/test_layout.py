"""Class folders, split folders and what wraps them."""

from convloop.core.images import NO_SPLIT
from convloop.core.split import TEST, TRAIN, VAL
from convloop.sources.layout import find_layout


def test_the_first_folder_names_the_class_however_deep_the_image_lies() -> None:
    layout = find_layout([("cat",), ("dog", "puppies", "brown")])
    assert layout.classes == ("cat", "dog")
    assert layout.place(("dog", "puppies", "brown")) == (1, NO_SPLIT)


def test_folders_that_wrap_all_are_passed_over() -> None:
    layout = find_layout([("set", "v2", "cat"), ("set", "v2", "dog")])
    assert layout.classes == ("cat", "dog")
    assert layout.place(("set", "v2", "cat")) == (0, NO_SPLIT)


def test_given_splits_are_kept() -> None:
    layout = find_layout([("train", "cat"), ("Validation", "cat"), ("test", "dog")])
    assert layout.classes == ("cat", "dog")
    assert [layout.place(folders) for folders in (("train", "cat"), ("Validation", "cat"), ("test", "dog"))] == [
        (0, TRAIN),
        (0, VAL),
        (1, TEST),
    ]


def test_a_train_folder_alone_is_no_split() -> None:
    layout = find_layout([("train", "cat"), ("train", "dog")])
    assert layout.place(("train", "cat")) == (0, NO_SPLIT)


def test_classes_that_are_numbers_are_in_their_order() -> None:
    assert find_layout([("10",), ("9",), ("0",)]).classes == ("0", "9", "10")


def test_a_file_outside_of_class_folders_has_no_place() -> None:
    layout = find_layout([(), ("train", "cat"), ("test", "cat"), ("train",)])
    assert layout.place(()) is None
    assert layout.place(("train",)) is None
