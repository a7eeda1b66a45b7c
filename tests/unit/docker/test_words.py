"""Command lines and variables, read as a shell and Docker would, and nothing of them run."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxdocker.docker.interpolate import dotenv, expand
from lxdocker.docker.words import split
from lxdocker.errors import LxdockerError, UsageError

VALUES = {"TAG": "1.27", "EMPTY": "", "SPACE": "a b"}


def words(text: str) -> list[str]:
    return split(text, "/home/ann/app", "/home/ann", VALUES.get, lambda name: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker run nginx", ["docker", "run", "nginx"]),
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("a '' \"\"", ["a", "", ""]),
        ("a \\\n  b \\\r\n  c\n", ["a", "b", "c"]),
        ("a 'x\\\ny'", ["a", "x\\\ny"]),
        ('a "x\\\ny"', ["a", "xy"]),
        ("a'b'\"c\"d", ["abcd"]),
        ("-v $PWD/x:/y -v ${PWD}/x:/y", ["-v", "/home/ann/app/x:/y", "-v", "/home/ann/app/x:/y"]),
        ('-v "$(pwd)":/y -v `pwd`:/y', ["-v", "/home/ann/app:/y", "-v", "/home/ann/app:/y"]),
        ("-v ~/x:/y ~ a~ $HOME", ["-v", "/home/ann/x:/y", "/home/ann", "a~", "/home/ann"]),
        ('nginx:$TAG "$SPACE" \'$TAG\' \\$TAG "\\$TAG"', ["nginx:1.27", "a b", "$TAG", "$TAG", "$TAG"]),
        ("a ${NONE:-x y} ${EMPTY:-d} ${EMPTY-d}", ["a", "x y", "d", ""]),
        ("a # not b", ["a"]),
        ("# first\na b#c", ["a", "b#c"]),
        ("cost $ 5", ["cost", "$", "5"]),
    ],
)
def test_words_are_those_of_a_shell(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("docker run a; rm -rf /", "; in it is the shell's"),
        ("docker run a && b", "& in it"),
        ("docker run a | b", "| in it"),
        ("docker run a > b", "> in it"),
        ("docker run $(cat x)", "would have to be run"),
        ("docker run `id`", "would have to be run"),
        ('docker run "$(id)"', "would have to be run"),
        ("docker run 'a", "a quote is not closed"),
        ('docker run "a', "a quote is not closed"),
        ("docker run ${A", "a brace is not closed"),
        ("docker run a\ndocker run b", "after the end of a line"),
        ("x" * 300_000, "longer than"),
    ],
)
def test_what_a_shell_would_do_more_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        words(text)
    assert why in caught.value.details


@given(st.lists(st.text(st.characters(blacklist_characters="\0\r", blacklist_categories=["Cs"])), min_size=1))
def test_quoted_words_come_back(expected: list[str]) -> None:
    assert words(shlex.join(["docker", *expected])) == ["docker", *expected]


@given(st.text(max_size=60))
def test_nothing_raises_but_an_error_for_people(text: str) -> None:
    try:
        words(text)
    except LxdockerError as error:
        assert error.resolution  # noqa: PT017 - most texts can be read


# ---- variables of compose files


@pytest.mark.parametrize(
    ("text", "expected", "missing"),
    [
        ("$TAG ${TAG} $$TAG $${TAG}", "1.27 1.27 $TAG ${TAG}", []),
        ("$NONE-${NONE}", "-", ["NONE", "NONE"]),
        ("${NONE:-a}${NONE-b}${EMPTY:-c}${EMPTY-d}${TAG:-e}", "abc1.27", []),
        ("${NONE:-${OTHER:-deep}}", "deep", []),
        ("${TAG:+x}${NONE:+y}${EMPTY:+z}${EMPTY+w}", "xw", []),
        ("${NONE:?say so}", "", ["NONE", "NONE"]),
        ("${TAG:?say so}", "1.27", []),
        ("a$", "a$", []),
        ("$1", "$1", []),
    ],
)
def test_variables_have_defaults(text: str, expected: str, missing: list[str]) -> None:
    found: list[str] = []
    assert expand(text, VALUES.get, found.append) == expected
    assert found == missing


@pytest.mark.parametrize("text", ["${", "${}", "${TAG", "${TAG!x}", "${1}", "${A:-" * 40 + "}" * 40])
def test_what_is_no_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a variable|not closed"):
        expand(text, VALUES.get, lambda name: None)


def test_values_do_not_grow_without_end() -> None:
    with pytest.raises(ValueError, match="longer than"):
        expand("$A" * 100_000, {"A": "x" * 1000}.get, lambda name: None)


def test_a_dotenv_file() -> None:
    text = "# c\nA=1\nexport B='x y'\nC=\"q\" \nD=v # comment\nE=\nnot a line\n1X=2\n"
    assert dotenv(text) == {"A": "1", "B": "x y", "C": "q", "D": "v", "E": ""}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('X="a b" # comment', "a b"),
        ("X='a # b'# comment", "a # b"),
        ('X="say \\"a\\"\\n$HOST"', 'say "a"\nhost'),
        ("X='${HOST}'", "${HOST}"),
        ("X=http://${HOST}:${PORT:-80}/", "http://host:80/"),
        ("X=$MINE", "of the environment"),
        ("X=${", "${"),
        ('X="open', '"open'),
    ],
)
def test_values_of_a_dotenv_file(line: str, value: str) -> None:
    environment = {"MINE": "of the environment"}
    assert dotenv(f"HOST=host\nMINE=of the file\n{line}\n", environment.get)["X"] == value
