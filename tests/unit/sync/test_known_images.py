"""A changed spec of an image in a registry that has not changed: nothing but that is asked of the registry."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lxdocker.builder.recipe import NOT_CACHED
from lxdocker.config.changes import NO_CHANGES
from lxdocker.config.spec import ImageSpec
from lxdocker.http.route import NOWHERE, Route
from lxdocker.lxd.command import Result
from lxdocker.source.known import Known
from lxdocker.source.resolve import Resolver
from lxdocker.sync import request
from lxdocker.values import Arch
from tests.examples import spec
from tests.registry_server import Image, Images, Registry, make_image, registry
from tests.stand_ins import Request
from tests.unit.sync.place import Place, place, words


@dataclass
class Here:
    """A place, and a registry with one image."""

    place: Place
    registry: Registry
    image: Image
    asked_before: int

    def spec(self, *variables: tuple[str, str]) -> ImageSpec:
        """``variables``: a change that another root filesystem may come of."""
        made = spec("web", f"{self.registry.address}/app:1")
        return replace(made, changes=replace(NO_CHANGES, variables=variables))

    def asked(self, count: int) -> list[str]:
        """The next requests of the registry."""
        found = self.registry.requests(self.asked_before + count)[self.asked_before :]
        self.asked_before += len(found)
        return [f"{one.method} {one.path.split('/')[-2]}" for one in found]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    image = make_image()
    with place(tmp_path) as made, registry(tmp_path / "registry") as server:
        Images(server.address).push("app", "1", image)
        login = {"auths": {server.address: {"auth": base64.b64encode(b"ann:secret").decode()}}}
        (tmp_path / "containers").mkdir()
        (tmp_path / "containers/auth.json").write_text(json.dumps(login))
        resolver = Resolver(made.context.registry, Arch.X86_64, Known(tmp_path / "cache"))
        made.context = replace(made.context, resolver=resolver)
        yield Here(made, server, image, len(server.requests(5)))


def is_cached(asked: Request) -> bool:
    return "skopeo" not in asked.words


def test_a_changed_spec_of_the_same_image_asks_for_its_digest_alone(here: Here) -> None:
    here.place.sync(here.spec())
    (first,) = here.place.builders.asked
    assert not is_cached(first)
    assert any("auth.json" in path for path in first.files)
    assert here.asked(4) == ["HEAD manifests", "GET manifests", "GET blobs", "GET blobs"]
    assert words(here.place.sync(here.spec(("a", "1")))) == ["web built: changed: variables"]
    assert here.asked(1) == ["HEAD manifests"]
    (_, second) = here.place.builders.asked
    assert is_cached(second)
    assert second.files["run/build/manifest"] == here.image.manifest.content
    assert not any("auth.json" in path for path in second.files)
    assert second.words[12 + 1] == here.image.manifest.digest.removeprefix("sha256:")


def test_an_image_that_is_expected_in_the_layer_cache_gets_no_way(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    routes: list[Route] = []
    real = here.place.builders.builder

    def builder(route: Route) -> object:
        routes.append(route)
        return real(route)

    monkeypatch.setattr(here.place.builders, "builder", builder)
    here.place.sync(here.spec())
    here.place.sync(here.spec(("a", "1")))
    assert routes[0] != NOWHERE
    assert routes[1:] == [NOWHERE]


def test_what_the_layer_cache_has_lost_is_fetched_after_all(here: Here) -> None:
    here.place.sync(here.spec())
    here.asked(4)
    here.place.builders.answers["web"] = [Result(NOT_CACHED, "", "")]
    assert words(here.place.sync(here.spec(("a", "1")))) == ["web built: changed: variables"]
    assert [is_cached(asked) for asked in here.place.builders.asked] == [False, True, False]
    # The second time as if nothing was known, since only that shows where the blobs are.
    assert here.asked(3) == ["HEAD manifests", "GET blobs", "GET blobs"]


def test_where_nothing_is_known_all_of_it_is_asked_for(here: Here) -> None:
    here.place.sync(here.spec())
    here.asked(4)
    here.place.context = replace(here.place.context, resolver=Resolver(here.place.context.registry, Arch.X86_64))
    assert words(here.place.sync(here.spec(("a", "1")))) == ["web built: changed: variables"]
    assert here.asked(2) == ["HEAD manifests", "GET blobs"]
    assert not any(is_cached(asked) for asked in here.place.builders.asked)


def test_layers_are_known_by_their_manifest(here: Here) -> None:
    """For the progress of a build, and for its limits."""
    raw = here.image.manifest.content
    assert [(layer.digest.value, layer.size) for layer in request._layers(raw, "web")] == [
        (layer.digest, len(layer.content)) for layer in here.image.layers
    ]
