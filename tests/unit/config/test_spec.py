"""One corpus of specs, fed to both the schema and the loader; what is expected lies beside each file.

``valid/``            NAME.yaml and the spec it makes, NAME.yaml.json
``invalid/yaml/``     refused while reading: no schema ever sees it
``invalid/schema/``   refused by the schema alone
``invalid/loader/``   fine for the schema, refused by the loader
``invalid/folders/``  refused together, or among others
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from lxdocker.config import elsewhere, yamlfile
from lxdocker.config.spec import SCHEMA, Behaviour, ImageSpec, load_files, load_specs, read_specs, select
from lxdocker.errors import SpecError, UsageError
from lxdocker.values import ImageName, parse_image_ref
from tests.forked import NOBODY, in_child

CORPUS = Path(__file__).parents[2] / "data/specs"
VALID = sorted(
    path for path in (CORPUS / "valid").iterdir() if path.is_file() and path.suffix != ".json" and path.name[0] != "_"
)
INVALID = sorted(path for path in CORPUS.glob("invalid/*/*") if path.is_file() and path.suffix != ".expected")
FOLDERS = sorted((CORPUS / "invalid/folders").iterdir())


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(CORPUS)) for path in paths]


def mistakes(load: object, *arguments: object) -> str:
    with pytest.raises(SpecError) as caught:
        load(*arguments)  # type: ignore[operator]  # of several kinds
    assert caught.value.resolution
    return caught.value.details


def test_the_corpus_has_every_key() -> None:
    """Somewhere among the valid specs each key has a value, and somewhere each has one that is refused."""
    keys = set(yamlfile.schema(SCHEMA)["properties"])
    assert {key for path in VALID for key in yaml.safe_load(path.read_text("utf-8-sig"))} == keys
    complaints = "".join(Path(f"{path}.expected").read_text() for path in INVALID)
    assert set(re.findall(r"^[^:\n]+:\d+: (\w+)", complaints, re.MULTILINE)) >= keys


def test_the_corpus_is_complete() -> None:
    """Nothing lies there that is not tried, and nothing is tried without something to compare with."""
    assert {path.parent.name for path in INVALID} == {"yaml", "schema", "loader"}
    expected = {Path(f"{path}.json") for path in VALID} | {Path(f"{path}.expected") for path in INVALID}
    assert expected == {*(CORPUS / "valid").glob("*.json"), *CORPUS.glob("invalid/*/*.expected")}
    assert all((folder / "expected").is_file() for folder in FOLDERS)


@pytest.mark.parametrize("path", VALID, ids=names(VALID))
def test_a_valid_spec_is_what_it_says(path: Path) -> None:
    (spec,) = load_files([path])
    expected = json.loads(Path(f"{path}.json").read_text())
    behaviour = expected.pop("behaviour", None)
    if behaviour is None:
        assert spec.behaviour == Behaviour()
    else:
        assert json.loads(json.dumps(dataclasses.asdict(spec.behaviour))) == behaviour
    assert {
        "name": str(spec.name),
        "image": str(spec.image).replace(f"{path.parent}/", ""),
        "disable_supervisor": spec.disable_supervisor,
        "aliases": list(spec.aliases),
        "properties": dict(spec.properties),
    } == expected
    assert spec.path == path
    assert list(spec.properties) == sorted(spec.properties)


@pytest.mark.parametrize("path", INVALID, ids=names(INVALID))
def test_an_invalid_spec_is_refused_with_every_mistake(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    found = mistakes(load_files, [Path(path.name)])
    assert found + "\n" == Path(f"{path}.expected").read_text()


def test_the_name_of_an_image_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mistakes(load_files, [Path("nginx")]) == "nginx: expected a readable file, found: No such file or directory"


@pytest.mark.parametrize("folder", FOLDERS, ids=names(FOLDERS))
def test_specs_that_do_not_go_together(folder: Path) -> None:
    assert mistakes(load_specs, folder) + "\n" == (folder / "expected").read_text()


@pytest.mark.parametrize("path", [*VALID, *INVALID], ids=names([*VALID, *INVALID]))
def test_the_schema_alone_agrees(path: Path) -> None:
    """Whoever edits with the schema at hand is told the same."""
    document = yamlfile.read(path, path.name)
    is_valid = jsonschema.Draft202012Validator(yamlfile.schema(SCHEMA)).is_valid(document.value)
    if path.parent.name != "yaml":
        assert not document.mistakes
        assert is_valid == (path.parent.name != "schema")
    else:
        assert document.mistakes or not is_valid


@pytest.mark.parametrize("path", [*VALID, *INVALID], ids=names([*VALID, *INVALID]))
def test_the_parser_in_python_reads_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML has no libyaml; only how it words a syntax error is its own."""
    fast = yamlfile.read(path, path.name)
    monkeypatch.setattr(yamlfile, "_LOADER", yaml.SafeLoader)
    slow = yamlfile.read(path, path.name)
    assert (slow.value, slow.flawed) == (fast.value, fast.flawed)
    assert [(found.line, found.field) for found in slow.mistakes] == [
        (found.line, found.field) for found in fast.mistakes
    ]


def test_a_folder_is_loaded_by_name_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "C.yaml"):
        (tmp_path / name).write_text("image: nginx\n")
    for name in (".hidden.yaml", "README.md", "b.yaml~", "#b.yaml#", "d.yaml.bak"):
        (tmp_path / name).write_text("{not a spec")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/d.yaml").write_text("{not searched")
    assert [spec.name.value for spec in load_specs(tmp_path)] == ["C", "a", "b"]


def test_an_empty_folder_has_no_specs(tmp_path: Path) -> None:
    assert load_specs(tmp_path) == ()


def test_a_folder_that_is_not_there_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_specs(tmp_path / "none")
    assert str(tmp_path / "none") in caught.value.brief
    assert caught.value.details == "No such file or directory"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "link.yaml").symlink_to("target")
    (tmp_path / "target").write_text("image: nginx")
    assert mistakes(load_specs, tmp_path).splitlines() == [
        "dangling.yaml: expected a readable file, found: No such file or directory",
        "folder.yaml: expected a readable file, found: a folder",
        "loop.yaml: expected a readable file, found: Too many levels of symbolic links",
        "pipe.yaml: expected a readable file, found: a device, socket or pipe",
        "zero.yaml: expected a readable file, found: a device, socket or pipe",
    ]


def test_a_file_may_have_256_kib_and_no_more(tmp_path: Path) -> None:
    spec = tmp_path / "a.yaml"
    spec.write_text("image: nginx\n".ljust(256 * 1024, "#"))
    load_specs(tmp_path)
    spec.write_text("image: nginx\n".ljust(256 * 1024 + 1, "#"))
    assert mistakes(load_specs, tmp_path) == "a.yaml: expected at most 256 KiB, found a larger file"


def test_hostile_names_and_texts_can_not_write_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J.yaml").write_text('image: "\\e[2J"\n"\\e[2J": 1\n')
    (tmp_path / os.fsdecode(b"b\xff.yaml")).write_text("image: nginx")
    found = mistakes(load_specs, tmp_path)
    assert "".join(found.splitlines()).isprintable()
    assert len(found.splitlines()) == 4


def test_one_error_counts_the_mistakes_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("image: 1\n")
    with pytest.raises(SpecError, match=f"^a mistake in the specs in {tmp_path}: "):
        load_specs(tmp_path)
    (tmp_path / "b.yaml").write_text("image: 1\nports: x\n")
    with pytest.raises(SpecError, match=f"^3 mistakes in the specs in {tmp_path}: "):
        load_specs(tmp_path)


def test_a_broken_file_stops_only_itself(tmp_path: Path) -> None:
    texts = {
        "good": "image: nginx\naliases: [fine]\n",
        "syntax": "[[",
        "key": "imgae: nginx\n",
        "first": "image: nginx\naliases: [mine, shared]\n",
        "second": "image: nginx\naliases: [shared]\n",
        "third": "image: nginx\naliases: [shared]\n",
        "claims": "image: nginx\naliases: [good]\n",
        "not a name": "image: nginx\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "double.yaml").write_text("image: nginx\n")
    (tmp_path / "double.yml").write_text("image: nginx\n")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    found = read_specs(tmp_path)
    assert [spec.name.value for spec in found.specs] == ["good"]
    broken = {one.label: one for one in found.broken}
    names = {"syntax", "key", "first", "second", "third", "claims", "double", "folder", "dangling"}
    assert broken.keys() == {*names, "not a name.yaml"}
    assert {one.name.value for one in found.broken if one.name} == names
    assert len([one for one in found.broken if one.label == "double"]) == 2
    assert broken["first"].error.details == (
        "first.yaml:2: aliases[1]: expected an alias no other image has, found 'shared', an alias in second.yaml:2\n"
        "first.yaml:2: aliases[1]: expected an alias no other image has, found 'shared', an alias in third.yaml:2"
    )
    assert broken["folder"].error.brief == "a mistake in folder.yaml"
    # As they are, or not at all.
    with pytest.raises(SpecError):
        load_specs(tmp_path)
    assert select(found.specs, ["good", "syntax"], found.broken) == found.specs
    with pytest.raises(UsageError):
        select(found.specs, ["good", "nothing"], found.broken)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_file_that_this_user_may_not_read_stops_only_itself(tmp_path: Path) -> None:
    for name in ("good", "closed"):
        (tmp_path / f"{name}.yaml").write_text("image: nginx\n")
    (tmp_path / "closed.yaml").chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)

    def work() -> tuple[list[str], list[str]]:
        found = read_specs(tmp_path)
        return [one.name.value for one in found.specs], [one.error.details for one in found.broken]

    names, details = in_child(work, uid=NOBODY)
    assert names == ["good"]
    assert details == ["closed.yaml: expected a readable file, found: Permission denied"]


def test_files_are_called_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "a.yaml").write_text("image: nginx\n")
    assert mistakes(load_files, [Path("one/a.yaml"), Path("two/a.yaml")]) == (
        "two/a.yaml: expected one file for each image, found one/a.yaml for 'a' too; keep one of them"
    )
    (spec,) = load_files([Path("one/a.yaml"), tmp_path / "one/a.yaml"])
    assert spec.path == tmp_path / "one/a.yaml"


def make_spec(name: str, *aliases: str) -> ImageSpec:
    image = parse_image_ref("nginx", Path("/specs"))
    return ImageSpec(ImageName(name), image, Path(f"/specs/{name}.yaml"), False, aliases, ())


def test_specs_are_selected_in_their_own_order() -> None:
    specs = (make_spec("caddy"), make_spec("nginx"), make_spec("redis"))
    assert select(specs, []) == specs
    assert select(specs, ["redis", "caddy", "redis"]) == (specs[0], specs[2])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ngnix", "no 'ngnix.yaml' in /specs; did you mean 'nginx'?"),
        ("NGINX", "no 'NGINX.yaml' in /specs; did you mean 'nginx'?"),
        ("nginx.yaml", "no 'nginx.yaml.yaml' in /specs; did you mean 'nginx'?"),
        ("web", "no 'web.yaml' in /specs; it is an alias of nginx"),
        ("postgres", "no 'postgres.yaml' in /specs"),
    ],
)
def test_an_unknown_name_is_a_mistake_of_usage(name: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        select((make_spec("caddy"), make_spec("nginx", "web")), ["caddy", name])
    assert caught.value.brief == f"no such spec: '{name}'"
    assert caught.value.details == why
    assert caught.value.resolution == "available specs: caddy, nginx"


def test_without_any_specs_no_name_is_known() -> None:
    with pytest.raises(UsageError, match=r"no 'a\.yaml' at all"):
        select((), ["a"])
    with pytest.raises(UsageError, match=r"no 'a\.yaml' in /specs"):
        select((), ["a"], (), Path("/specs"))


# ---- keys that are not a spec's


def test_what_specs_know_is_not_said_to_be_elsewhere() -> None:
    properties = yamlfile.schema(SCHEMA)["properties"]
    assert not properties.keys() & elsewhere.KEYS.keys()
    assert properties.keys() >= {key for key, _ in elsewhere.VALUES}
    assert all(text.isprintable() and len(text) < 200 for text in elsewhere.KEYS.values())


def test_where_keys_of_compose_files_live_is_said_at_the_top_level_only(tmp_path: Path) -> None:
    for key, where in elsewhere.KEYS.items():
        (tmp_path / "a.yaml").write_text(f"image: nginx\n{key}: x\n")
        assert mistakes(load_specs, tmp_path) == f"a.yaml:2: {key}: unknown key; {where}"
    for (key, value), what in elsewhere.VALUES.items():
        (tmp_path / "a.yaml").write_text(f"image: nginx\n{key}: {value}\n")
        assert mistakes(load_specs, tmp_path).endswith(f"; {what}")
    (tmp_path / "a.yaml").write_text("image: nginx\nproperties: { ports: x }\n")
    assert load_specs(tmp_path)
