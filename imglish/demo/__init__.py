"""The demo: real data from packages, prepared for `recipes/demo.toml`; and the same recipe on a user's own folder.

    prepared = prepare(Path("demo"), report=print)
    with prepared.server:                     # the photographs are fetched from it while the build lands them
        build(prepared.recipe)

    build(folder_recipe(Path("my-data"), work=Path("my-corpus")))

A package that cannot be had is named, and the demo goes on with the sources that it has. This package knows nothing of
engines, tokenizers or models: it fetches, joins, serves and writes recipes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from imglish.demo.folder import folder_recipe
from imglish.demo.packages import PACKAGES, Package, Report, get_packages
from imglish.demo.recipes import DEMO_RECIPE, restrict
from imglish.demo.server import PORT, PhotographServer
from imglish.demo.tables import EMOJI_IMAGES, EMOJI_NAMES, FOODS, PHOTOGRAPHS, write_emoji, write_photographs
from imglish.errors import SourceError
from imglish.ingest.sources.files import source_present
from imglish.recipe import Recipe, SourceConfig, load_recipe

__all__ = ["DEMO_RECIPE", "PhotographServer", "PreparedDemo", "folder_recipe", "prepare"]


@dataclass(frozen=True)
class PreparedDemo:
    """What the demo can be built from.

    `recipe` is the demo's, with this machine's folders and port and without the sources that are missing; `left_out`
    says in sentences what is missing and why; `server` holds the port of the photographs, serves them inside
    `with`, and frees the port when that ends.
    """

    recipe: Recipe
    left_out: list[str]
    server: AbstractContextManager[object]


def prepare(folder: Path, report: Report, recipe: Path = DEMO_RECIPE) -> PreparedDemo:
    """Get the packages into `folder/packages`, join them, and make ready to serve the photographs.

    Everything that is there already is used as it is. Raises SourceError when there is no source at all, RecipeError
    for a wrong recipe.
    """
    values = load_recipe(recipe)
    packages = folder.resolve() / "packages"
    missing = get_packages(packages, report)
    if _all_there(packages, EMOJI_IMAGES, EMOJI_NAMES):
        write_emoji(packages)
    server = PhotographServer(packages / PHOTOGRAPHS) if _all_there(packages, PHOTOGRAPHS, FOODS) else None
    try:
        if server is not None:
            write_photographs(packages, server)
            _say_port(server, report)
            values = _allow(values, server)
        values = values.model_copy(update={"root": str(packages), "work": str(folder.resolve() / "corpus")})
        present = [source for source in values.source if _is_there(source, values.root, server)]
        if not present:
            raise SourceError("no source of the demo can be had: " + "; ".join(_reasons(missing)))
    except BaseException:
        if server is not None:
            server.close()
        raise
    gone = [source.name for source in values.source if source not in present]
    left_out = [f"source {name} is left out" for name in gone] + _reasons(missing)
    return PreparedDemo(restrict(values, present), left_out, server or nullcontext())


def _all_there(packages: Path, *paths: str) -> bool:
    return all((packages / path).exists() for path in paths)


def _is_there(source: SourceConfig, root: str, server: PhotographServer | None) -> bool:
    return source_present(source, root) and (source.format != "url-list" or server is not None)


def _say_port(server: PhotographServer, report: Report) -> None:
    if server.port != PORT:
        report(f"port {PORT} is taken; the photographs are served from {server.address}")


def _allow(recipe: Recipe, server: PhotographServer) -> Recipe:
    """The recipe with the server's address in the place of the one that it expects."""
    return recipe.model_copy(update={"fetch": recipe.fetch.model_copy(update={"allow_private": (server.address,)})})


def _reasons(missing: dict[str, str]) -> list[str]:
    by_name: dict[str, Package] = {package.name: package for package in PACKAGES}
    return [f"{name} ({by_name[name].gives}): {why}" for name, why in missing.items()]
