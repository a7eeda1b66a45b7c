"""Names, files and folders as arguments of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.config.selection import choose, is_whole, load_all, named
from lxdocker.config.spec import read_specs
from lxdocker.errors import SpecError, UsageError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of specs: images.d with web, db and a broken one, other.d with web and mail."""
    monkeypatch.chdir(tmp_path)
    for folder, names in (("images.d", ("web", "db")), ("other.d", ("web", "mail"))):
        Path(folder).mkdir()
        for name in names:
            Path(folder, f"{name}.yaml").write_text(f"image: {name}\n")
    Path("images.d/bad.yaml").write_text("imgae: x\n")
    Path("link.d").symlink_to("images.d")
    return tmp_path


def chosen(place: Path, *arguments: str) -> tuple[list[str], bool]:
    folder = place / "images.d"
    return [spec.name.value for spec in choose(read_specs(folder), arguments, folder)], is_whole(arguments, folder)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["web"], ["web"]),
        (["images.d/web.yaml"], ["web"]),
        (["./images.d/../images.d/web.yaml", "db"], ["db", "web"]),
        (["link.d/web.yaml"], ["web"]),
        (["web.yaml"], ["web"]),  # as people complete it elsewhere
        (["images.d/web"], ["web"]),
        (["images.d/bad.yaml"], []),
        (["bad"], []),
    ],
)
def test_a_name_or_its_file_is_one_spec(place: Path, arguments: list[str], names: list[str]) -> None:
    assert chosen(place, *arguments) == (names, False)


@pytest.mark.parametrize("arguments", [[], ["images.d"], ["images.d/"], ["./images.d", "web"], ["link.d"]])
def test_the_folder_itself_is_all_of_it(place: Path, arguments: list[str]) -> None:
    assert chosen(place, *arguments) == (["db", "web"], True)
    assert chosen(place, str(place / "images.d")) == (["db", "web"], True)


def test_from_inside_the_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "images.d")
    assert chosen(place, "web.yaml") == (["web"], False)
    assert chosen(place, ".") == (["db", "web"], True)


@pytest.mark.parametrize(
    ("argument", "brief", "advice"),
    [
        ("other.d", "not in the folder of specs: 'other.d'", "to use that folder: --specs other.d;"),
        ("other.d/", "not in the folder of specs: 'other.d/'", "to use that folder: --specs other.d/;"),
        (".", "not in the folder of specs: '.'", "to use that folder: --specs .;"),
        ("other.d/mail.yaml", "not in the folder of specs: 'other.d/mail.yaml'", "--specs other.d mail;"),
        ("nowhere.d/", "no such file or folder: 'nowhere.d/'", "available specs: db, web"),
        ("nowhere.d/x.yaml", "no such file or folder: 'nowhere.d/x.yaml'", "available specs: db, web"),
        ("images.d/nope.yaml", "no such spec: 'nope'", "available specs: db, web"),
        ("nope.yaml", "no such spec: 'nope'", "available specs: db, web"),
        ("nope", "no such spec: 'nope'", "available specs: db, web"),
    ],
)
def test_what_is_elsewhere_is_refused_with_advice(place: Path, argument: str, brief: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(place, "web", argument)
    assert caught.value.brief == brief
    assert advice in caught.value.resolution
    assert str(place / "images.d") in caught.value.details


def test_a_spec_comes_before_a_folder_of_its_name(place: Path) -> None:
    (place / "web").mkdir()
    assert chosen(place, "web") == (["web"], False)
    (place / "mail").mkdir()
    with pytest.raises(UsageError, match="not in the folder of specs: 'mail'"):
        chosen(place, "mail")


# ---- validate: anything, anywhere


def valid(*arguments: str) -> list[str]:
    return [f"{spec.path.parent.name}/{spec.name}" for spec in load_all(arguments, Path("images.d").absolute())]


def test_anything_can_be_validated() -> None:
    assert valid("web") == ["images.d/web"]
    assert valid("other.d") == ["other.d/mail", "other.d/web"]
    assert valid("db", "other.d/", "images.d/web.yaml") == [
        "images.d/db",
        "other.d/mail",
        "images.d/web",
        "other.d/web",
    ]
    assert valid("web", "images.d/web.yaml") == ["images.d/web"]


def test_all_mistakes_of_all_arguments_are_listed() -> None:
    Path("other.d/bad.yaml").write_text("image: 1\n")
    with pytest.raises(SpecError) as caught:
        valid("bad", "other.d", "nowhere/x.yaml")
    assert caught.value.brief == "3 mistakes in the specs"
    lines = caught.value.details.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["bad.yaml", "bad.yaml", "nowhere/x.yaml"]
    assert len(caught.value.mistakes) == 3
    with pytest.raises(SpecError, match="a mistake in"):
        valid()
    with pytest.raises(UsageError, match="no such spec: 'nope'"):
        valid("nope")


@pytest.mark.parametrize("argument", ["web", "web.yaml", "images.d/web.yaml"])
def test_one_spec_is_read_alone(place: Path, argument: str) -> None:
    """The broken one beside it is not looked at."""
    found = named(argument, place / "images.d")
    assert found is not None
    assert (found.name.value, found.path) == ("web", place / "images.d/web.yaml")


def test_its_bases_are_read_too(place: Path) -> None:
    Path("images.d/defaults.yaml").write_text("user: app\n")
    found = named("web", place / "images.d")
    assert found is not None
    assert found.changes.overrides.user == "app"


@pytest.mark.parametrize(
    "argument", ["nginx", "library/web", "web:1", "web@sha256:0", "oci:web", "../web", ".web", "web/"]
)
def test_what_names_no_spec(place: Path, argument: str) -> None:
    assert named(argument, place / "images.d") is None
    assert named("web", place / "nowhere") is None


def test_the_mistakes_of_the_named_spec_are_said(place: Path) -> None:
    with pytest.raises(SpecError, match="imgae"):
        named("bad", place / "images.d")
    with pytest.raises(UsageError, match="not in the folder of specs"):
        named("other.d/mail.yaml", place / "images.d")
