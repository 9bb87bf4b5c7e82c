"""Pages for people: their links lead somewhere, and they are in step with what they tell of."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import vit2onnx

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_or_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def keys(schema: dict) -> Iterator[str]:
    """The keys of a schema at every depth, also those of entries whose names are the user's."""
    for key, value in schema.get("properties", {}).items():
        yield key
        yield from keys(value)
    if isinstance(entry := schema.get("additionalProperties"), dict):
        yield from keys(entry)


def test_every_key_of_the_config_is_explained() -> None:
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
    text = (ROOT / "config" / "README.md").read_text()
    assert not [key for key in keys(schema) if not re.search(rf"`([^`]*\W)?{key}(\W[^`]*)?`", text)]


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_the_citation_is_of_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (vit2onnx.__version__, project["license"])
    assert (ROOT / "LICENSE").read_text().split()[:3] == ["Apache", "License", "Version"]
