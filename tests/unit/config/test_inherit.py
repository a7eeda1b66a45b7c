"""What specs take over from other files of their folder, and where mistakes in it are said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxdocker.config.changes import FileChange
from lxdocker.config.spec import ImageSpec, load_files, load_specs, read_specs, select, spec_names
from lxdocker.errors import SpecError, UsageError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def only(folder: Path) -> ImageSpec:
    (spec,) = load_specs(folder)
    return spec


def mistakes(folder: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_specs(folder)
    return caught.value.details.splitlines()


def test_a_base_makes_no_image(tmp_path: Path) -> None:
    write(tmp_path, _base="restart: always\n", defaults="stop_grace: 5\n", web="image: nginx\n")
    assert only(tmp_path).name.value == "web"
    assert spec_names(tmp_path) == {"web"}


def test_mappings_are_merged_by_their_keys_and_the_rest_is_replaced(tmp_path: Path) -> None:
    write(
        tmp_path,
        _base="aliases: [a, b]\nrestart: always\nproperties: { os: base, variant: base }\n"
        "files:\n  /a: { content: base, mode: '0600' }\n  /b: { content: base }\n",
        web="extends: _base.yaml\nimage: nginx\naliases: [c]\nproperties: { os: own }\n"
        "files:\n  /a: { content: own }\n",
    )
    spec = only(tmp_path)
    assert (spec.aliases, spec.behaviour.restart) == (("c",), "always")
    assert spec.properties == (("os", "own"), ("variant", "base"))
    assert spec.changes.files == (FileChange("/a", content="own"), FileChange("/b", content="base"))


def test_null_removes_what_was_taken_over(tmp_path: Path) -> None:
    write(
        tmp_path,
        _base="restart: always\nfiles: { /a: { content: x }, /b: { content: x } }\nenvironment: { A: x, B: x }\n",
        web="extends: _base.yaml\nimage: nginx\nrestart: null\nfiles: { /a: null }\nenvironment: { A: null }\n",
    )
    spec = only(tmp_path)
    assert spec.behaviour.restart == "no"
    assert [file.path for file in spec.changes.files] == ["/b"]
    # Of the image's own.
    assert spec.changes.overrides.environment == (("A", None), ("B", "x"))


def test_the_defaults_are_of_all_and_come_last(tmp_path: Path) -> None:
    write(
        tmp_path,
        defaults="restart: always\nstop_grace: 1\nprelaunch: required\n",
        _far="stop_grace: 2\nrestart: on-failure\n",
        _near="extends: _far.yaml\nstop_grace: 3\n",
        web="extends: _near.yaml\nimage: nginx\n",
        other="image: redis\n",
    )
    other, web = load_specs(tmp_path)
    assert (web.behaviour.stop_grace, web.behaviour.restart, web.behaviour.prelaunch) == (3, "on-failure", "required")
    assert (other.behaviour.stop_grace, other.behaviour.restart) == (1, "always")


def test_a_spec_can_extend_another_spec(tmp_path: Path) -> None:
    write(tmp_path, web="image: nginx\nrestart: always\n", test="extends: web.yaml\nimage: nginx:edge\n")
    test, web = load_specs(tmp_path)
    assert (str(test.image), test.behaviour.restart) == ("docker.io/library/nginx:edge", "always")
    assert str(web.image) == "docker.io/library/nginx:latest"


def test_an_empty_spec_has_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, defaults="image: nginx\n", web="")
    assert str(only(tmp_path).image) == "docker.io/library/nginx:latest"


def test_circles_are_said_with_both_places(tmp_path: Path) -> None:
    write(tmp_path, _a="\nextends: _b.yaml\n", _b="extends: _a.yaml\n", web="image: nginx\nextends: _a.yaml\n")
    assert mistakes(tmp_path) == [
        "_b.yaml:1: extends: expected another file, found a circle: _a.yaml:2 extends it, too",
    ]


def test_a_file_can_t_extend_itself(tmp_path: Path) -> None:
    write(tmp_path, web="image: nginx\nextends: web.yaml\n")
    assert mistakes(tmp_path) == ["web.yaml:2: extends: expected another file, found itself"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, _base="restart: always\n", web="image: nginx\nextends: _bsae.yaml\n")
    assert mistakes(tmp_path) == [
        f"web.yaml:2: extends: expected a file in {tmp_path}, found no '_bsae.yaml'; did you mean '_base.yaml'?"
    ]


def test_a_value_that_does_not_fit_is_said_to_be_where_it_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        _base="\nstop_grace: soon\nfiles:\n  /a: { contents: x }\n",
        web="image: nginx\nextends: _base.yaml\nrestart: maybe\n",
    )
    assert mistakes(tmp_path) == [
        "_base.yaml:2: stop_grace: expected a whole number of seconds, 0 to 86400, found 'soon'",
        "_base.yaml:4: files['/a'].contents: unknown key; did you mean 'content'?",
        "web.yaml:3: restart: expected no, on-failure, on-failure:N or always, found 'maybe'",
    ]


def test_a_mapping_and_a_list_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path, _base="environment: { A: x }\n", web="image: nginx\nextends: _base.yaml\nenvironment: [A=y]\n")
    assert mistakes(tmp_path) == [
        "web.yaml:3: environment: expected a mapping as in _base.yaml:1, found another kind of value"
    ]


def test_a_broken_base_breaks_those_that_extend_it_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, _base="restart: [\n", web="image: nginx\nextends: _base.yaml\n", other="image: redis\n")
    found = read_specs(tmp_path)
    assert [spec.name.value for spec in found.specs] == ["other"]
    (broken,) = found.broken
    assert broken.label == "web"
    assert broken.error.details.startswith("_base.yaml:2: expected valid YAML")
    assert [mistake.where for mistake in broken.error.mistakes] == [str(tmp_path / "_base.yaml")]


def test_a_base_that_nobody_extends_is_checked_by_validate_alone(tmp_path: Path) -> None:
    write(tmp_path, _base="restrat: always\n", web="image: nginx\n")
    assert mistakes(tmp_path) == ["_base.yaml:1: restrat: unknown key; did you mean 'restart'?"]
    assert not read_specs(tmp_path).broken


def test_defaults_extend_nothing(tmp_path: Path) -> None:
    write(tmp_path, defaults="extends: _base.yaml\n", _base="", web="image: nginx\n")
    assert mistakes(tmp_path) == ["defaults.yaml:1: extends: expected no 'extends' in the defaults, found one"]


def test_single_files_take_over_keys_as_well(tmp_path: Path) -> None:
    write(tmp_path, _base="restart: always\n", web="image: nginx\nextends: _base.yaml\n")
    (spec,) = load_files([tmp_path / "web.yaml"])
    assert spec.behaviour.restart == "always"
    assert load_files([tmp_path / "_base.yaml"]) == ()


@pytest.mark.parametrize("name", ["_base", "_base.yaml", "defaults"])
def test_who_asks_for_the_image_of_a_base_is_told_why_there_is_none(tmp_path: Path, name: str) -> None:
    write(tmp_path, _base="", defaults="", web="image: nginx\n")
    with pytest.raises(UsageError) as caught:
        select(load_specs(tmp_path), [name])
    assert caught.value.details == f"{name!r} makes no image: other specs extend it"
