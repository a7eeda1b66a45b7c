"""What no schema can say of the keys that change an image, and the values that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lxdocker.config import sources
from lxdocker.config.changes import Changes, HealthOverride, rendered
from lxdocker.config.spec import load_specs
from lxdocker.errors import SpecError


def changes(folder: Path, text: str) -> Changes:
    (folder / "web.yaml").write_text(f"image: nginx\n{text}")
    (spec,) = load_specs(folder)
    return spec.changes


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        changes(folder, text)
    return caught.value.details.splitlines()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "files:\n  /a: { source: none }\n",
            "web.yaml:3: files['/a'].source: expected a file or folder that can be read, found: No such file or"
            " directory: 'none'",
        ),
        (
            "files:\n  /a: { source: ../up }\n",
            "web.yaml:3: files['/a'].source: expected a file or folder in {folder}, found one outside it: '../up'",
        ),
        (
            "files:\n  /a: { source: folder, append: true }\n",
            "web.yaml:3: files['/a'].source: expected a file, found a folder: 'folder'",
        ),
        (
            "files:\n  /etc/hosts: { content: x }\n",
            "web.yaml:3: files['/etc/hosts']: expected another path, found '/etc/hosts', which LXD writes in every"
            " instance; use templates",
        ),
        (
            "files:\n  /a: { template: '{{ prot }}' }\nvariables: { port: '80' }\n",
            "web.yaml:3: files['/a'].template: expected variables that the spec has (image, name, port, version),"
            " found 'prot'",
        ),
        (
            "files:\n  /a: { template: '{% if x %}' }\n",
            "web.yaml:3: files['/a'].template: expected a Jinja template, found in its line 1: Unexpected end",
        ),
        (
            "run:\n  - command: x\n    secrets: { token: none }\n",
            "web.yaml:4: run[0].secrets.token: expected a file, found none: {folder}/none",
        ),
        (
            f"run:\n  - command: x\n    secrets: {{ token: {'a' * 300} }}\n",
            "web.yaml:4: run[0].secrets.token: expected a file, found none: {folder}/a",
        ),
        (
            "layers: [{ path: folder, sha256: " + "a" * 64 + " }]\n",
            "web.yaml:2: layers[0].path: expected a file, found a folder: 'folder'",
        ),
        (
            "templates:\n  /a: { source: folder, when: [start] }\n",
            "web.yaml:3: templates['/a'].source: expected a file, found a folder: 'folder'",
        ),
        (
            "templates:\n  /a: { source: binary, when: [start] }\n",
            "web.yaml:3: templates['/a'].source: expected UTF-8 text, found another kind of file: 'binary'",
        ),
    ],
)
def test_mistakes_say_file_line_and_field(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    found = mistakes(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(expected.replace("{folder}", str(tmp_path)))


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, "files:\n  /a: { source: a }\n  /b: { source: b }\nrun: [{ command: x, secrets: { s: s } }]\n"
    )
    assert [line.partition(": expected")[0] for line in found] == [
        "web.yaml:3: files['/a'].source",
        "web.yaml:4: files['/b'].source",
        "web.yaml:5: run[0].secrets.s",
    ]


def test_places_are_for_messages_and_make_no_other_image(tmp_path: Path) -> None:
    one = changes(tmp_path, "files: { /a: { content: x } }\nrun: [x]\n")
    other = changes(tmp_path, "\n\n# a comment\nrun: [x]\nfiles: { /a: { content: x } }\n")
    assert one == other
    assert one.files[0].place == "web.yaml:2: files['/a']"
    assert other.run[0].place == "web.yaml:5: run[0]"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("1.5s", 1.5), ("2h", 7200), ("7", 7), ("0.25", 0.25)],
)
def test_times_are_docker_s(tmp_path: Path, text: str, seconds: float) -> None:
    found = changes(tmp_path, f"healthcheck: {{ interval: {text} }}\n")
    assert found.overrides.healthcheck == HealthOverride(interval=seconds)


@pytest.mark.parametrize("text", ["", "s", "1d", "1m 30s", "-1s", "0", "'0'"])
def test_times_that_are_none(tmp_path: Path, text: str) -> None:
    (line,) = mistakes(tmp_path, f"healthcheck: {{ interval: {text} }}\n")
    assert "healthcheck.interval: expected a time such as 30s" in line


@pytest.mark.parametrize(
    ("text", "needs_network", "executes"),
    [
        ("", False, False),
        ("files: { /a: { content: x } }\n", False, False),
        ("run: [x]\n", False, True),
        ("run: [{ command: x, network: true }]\n", True, True),
        ("packages: { remove: [x] }\n", True, True),
        ("packages: {}\n", False, False),
    ],
)
def test_what_a_builder_needs_for_it(tmp_path: Path, text: str, needs_network: bool, executes: bool) -> None:
    found = changes(tmp_path, text)
    assert (found.needs_network, found.executes) == (needs_network, executes)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ name.__init__.__globals__ }}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ unknown }}",
        "{{ 'x' * 3 + 1 }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_reaches_nothing_but_its_variables(template: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rendered(template, {"name": "web"})


def test_a_template_keeps_its_last_line_and_escapes_nothing() -> None:
    assert rendered("<{{ name }}>\n", {"name": "a&b"}) == "<a&b>\n"


def test_each_source_is_read_once_however_often_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a layer, which may be large, by a build alone: each sync of an unchanged image comes by here."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "layer.tar").write_text("x")
    opened: list[str] = []
    pieces = sources.pieces

    def counted(path: Path) -> Iterator[bytes]:
        opened.append(path.name)
        return pieces(path)

    monkeypatch.setattr(sources, "pieces", counted)
    text = "files: { /a: { source: file }, /b: { source: file } }\n"
    changes(tmp_path, f"{text}layers: [{{ path: layer.tar, sha256: {'a' * 64} }}]\n")
    assert opened == ["file"]
