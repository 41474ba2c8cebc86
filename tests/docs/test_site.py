"""The documentation site: built without a warning, complete without a network, true where it can be held to facts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import find_chromium

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).resolve().parents[2]
SPDX = {"Apache 2.0": "Apache-2.0", "OSI Approved :: Apache Software License": "Apache-2.0", "ISC License": "ISC"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Give the built site."""
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        # Not --quiet: what it does not say it does not count as a warning.
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0, said
    assert [line for line in said if not line.startswith("INFO")] == []
    return folder


def test_it_is_built_without_a_warning(site):
    pages = {page.name for page in site.glob("*.html")}
    assert {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} | {"404.html"} == pages
    for page in site.glob("*.html"):
        assert "Research Use Only" in page.read_text(encoding="utf-8"), page


def test_the_reference_shows_every_public_name(site):
    import kinet_trt

    shown = (site / "api.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="(kinet_trt[\w.]*)"', shown))
    for name in kinet_trt.__all__:
        if name not in ("NOTICE", "__version__"):
            value = getattr(kinet_trt, name)  # Counter is NucleusCounter
            assert {f"kinet_trt.{value.__name__}", f"{value.__module__}.{value.__name__}"} & ids, name
    assert not re.search(r":(class|func|meth|mod|attr|data):`", shown), "a role of Sphinx is shown as it is written"


def test_nothing_is_fetched_from_elsewhere(site):
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    asked, said = set(), []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"], timeout=180_000)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.add(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        for one in sorted(site.glob("*.html")):
            # 404.html is for a server's root and names its files from there.
            if one.name != "404.html":
                page.goto(one.as_uri(), wait_until="networkidle")
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{one.name} is wider than the window"
        browser.close()
    assert said == []
    for url in asked:
        place = urlparse(url)
        assert place.scheme in ("file", "data", "blob"), url
        assert place.scheme != "file" or Path(unquote(place.path)).is_relative_to(site), url
    assert any(url.endswith(".css") for url in asked)


def test_search_works_in_pages_that_are_opened_from_a_disk(site):
    pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"], timeout=180_000)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto((site / "index.html").as_uri())
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").press_sequentially("hot spot")  # the theme listens to keys
        found = page.locator(".md-search-result__link").first
        found.wait_for(timeout=60_000)
        found.click()
        page.wait_for_url(lambda url: not url.endswith("/index.html"))
        assert "hot spot" in page.locator("article").inner_text().lower()
        browser.close()


def closure(name, extra="", seen=None):
    """Return the packages that one brings along here, each with its licence."""
    seen = {} if seen is None else seen
    for text in metadata.distribution(name).requires or []:
        required = Requirement(text)
        key = canonicalize_name(required.name)
        if (required.marker is None or required.marker.evaluate({"extra": extra})) and key not in seen:
            told = metadata.metadata(required.name)
            named = told.get("License-Expression") or (told.get("License") or "").split("\n")[0]
            kinds = [c.rsplit(" :: ", 1)[-1] for c in told.get_all("Classifier") or [] if c.startswith("License ::")]
            seen[key] = SPDX.get(named, named) or kinds[0].removesuffix(" License")
            closure(required.name, "", seen)
    return seen


def test_the_licences_are_those_of_the_packages():
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    part = text.split("## What a plain install brings along")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([^|;]+?)(?:;[^|]*)? \|$", part, re.M))
    del rows["package"]
    found = closure("kinet-trt")
    # A package's own expression may name what it bundles too; the first is its own.
    assert rows == {name: licence.split(" AND ")[0] for name, licence in found.items()}
