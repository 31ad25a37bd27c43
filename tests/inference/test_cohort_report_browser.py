"""The report as a reader meets it: in a real browser, from a file, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medkd.inference import cohort_report
from medkd.inference.cohort_report import write_cohort_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to look with")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here to look with")

NASTY = "scan 7 <b>\"&' ü"
# Volume in ml and mean HU; scans 2, 3 and 9 are flagged for HU, volume and nothing at all, scan 11 failed.
SCANS = {
    "scan 1": (102.0, 50.0),
    "scan 2": (98.0, -5.5),
    "scan 3": (1000.0, 50.0),
    "scan 4": (99.0, 50.0),
    "scan 5": (100.0, 51.0),
    "scan 6": (101.0, 49.0),
    NASTY: (99.5, 50.0),
    "scan 8": (100.0, 50.0),
    "scan 9": (0.0, None),
    "scan 10": (100.0, 50.0),
    "scan 11": None,
}
NAMES = list(SCANS)


def row(name: str, figures: tuple[float, float | None] | None) -> dict[str, Any]:
    """A row of the manifest."""
    base = {"name": name, "scan": "ct.nii.gz", "seconds": 1.5, "mask": None, "dicom_seg": None, "key": "1"}
    if figures is None:
        nothing = {"error": "it is <i>truncated</i>.", "preview": None, "measurements": None}
        return {**base, **nothing, "state": "failed"}
    volume, hu = figures
    spleen = {"volume_ml": volume, "voxels": 1, "length_mm": 90.0, "mean_hu": hu, "sd_hu": 9.0}
    spleen |= {"touches_border": False, "components": 1}
    model = {"model": "m", "model_sha256": "0" * 64, "backend": "torch", "seconds": 1.5, "peak_mb": 300}
    preview = f"{NAMES.index(name)}.png"
    return {
        **base,
        "state": "done",
        "error": None,
        "preview": preview,
        "measurements": {"labels": {"spleen": spleen}, **model},
    }


def write(out: Path) -> Path:
    """A report with a preview for each scan but scan 8; each is as wide as its place and 100 tell."""
    for place, name in enumerate(NAMES):
        if name != "scan 8":
            Image.new("RGB", (100 + place, 40), (90, 20 * place, 0)).save(out / f"{place}.png")
    return write_cohort_report([row(name, figures) for name, figures in SCANS.items()], out)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def look(chromium: Any) -> Iterator[Any]:
    """Opens a report offline; in the end, nothing but the page and pictures was asked for and nothing complained."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []

    def opened(path: Path, pictures: Path | None = None) -> Any:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        allowed.append(path.as_uri())
        if pictures:
            allowed.append(pictures.as_uri())
        return page

    allowed: list[str] = ["data:image/png;base64,"]
    yield opened
    context.close()
    assert complaints == []
    assert requests and [url for url in requests if not url.startswith(tuple(allowed))] == []


def names(page: Any) -> list[str]:
    """Scans of the rows that can be seen, from top to bottom."""
    rows = page.locator("#scans tbody tr").all()
    return [row.locator("bdi").inner_text() for row in rows if row.is_visible()]


def wait_for_picture(page: Any, width: int) -> None:
    page.wait_for_function("width => document.querySelector('#viewer-image').naturalWidth === width", arg=width)


def test_every_column_sorts_both_ways_with_missing_values_last(look: Any, report: Path) -> None:
    page = look(report)
    assert names(page) == ["scan 1", "scan 2", "scan 3", "scan 4", "scan 5", "scan 6", NASTY, *NAMES[7:]]
    heads = page.locator("#scans thead th")
    for place, words in enumerate(heads.all_inner_texts()):
        button = heads.nth(place).get_by_role("button")
        for order in ("ascending", "descending"):
            button.click()
            assert heads.nth(place).get_attribute("aria-sort") == order, words
        assert page.locator("#scans thead [aria-sort=none]").count() == heads.count() - 1

    page.get_by_role("button", name="Scan", exact=True).click()
    by_name = names(page)
    assert by_name == NAMES
    # Equal volumes keep the order they had.
    volume = page.get_by_role("button", name="Volume, ml")
    volume.click()
    up = ["scan 9", "scan 2", "scan 4", NASTY, "scan 5", "scan 8", "scan 10", "scan 6", "scan 1", "scan 3", "scan 11"]
    assert names(page) == up
    volume.click()
    down = ["scan 3", "scan 1", "scan 6", "scan 5", "scan 8", "scan 10", NASTY, "scan 4", "scan 2", "scan 9", "scan 11"]
    assert names(page) == down
    hu = page.get_by_role("button", name="Mean HU")
    hu.press("Enter")
    assert names(page)[:2] == ["scan 2", "scan 6"] and names(page)[-2:] == ["scan 9", "scan 11"]
    hu.press("Space")
    assert names(page)[0] == "scan 5" and names(page)[-3:] == ["scan 2", "scan 9", "scan 11"]
    flags = page.get_by_role("button", name="Flags")
    flags.click()
    flags.click()
    assert names(page)[0] == "scan 11" and set(names(page)[1:4]) == {"scan 2", "scan 3", "scan 9"}


def test_filter_and_check_boxes(look: Any, report: Path) -> None:
    page = look(report)
    box, shown = page.get_by_label("Filter"), page.get_by_role("status")
    assert shown.inner_text() == "11 of 11 rows shown"
    box.press_sequentially("SCAN 1")
    assert names(page) == ["scan 1", "scan 10", "scan 11"]
    assert shown.inner_text() == "3 of 11 rows shown"
    box.fill("&' u\u0308")  # decomposed, as macOS writes names
    assert names(page) == [NASTY]
    box.fill("volume high")
    assert names(page) == ["scan 3"]
    box.fill("nowhere")
    assert names(page) == [] and shown.inner_text() == "0 of 11 rows shown"
    box.fill("")
    page.get_by_label("Only flagged").check()
    assert names(page) == ["scan 2", "scan 3", "scan 9"]
    page.get_by_label("Only failed").check()
    assert names(page) == ["scan 2", "scan 3", "scan 9", "scan 11"]
    page.get_by_label("Only flagged").uncheck()
    assert names(page) == ["scan 11"]
    assert "Failed it is <i>truncated</i>." in page.locator("#scans tbody").inner_text()
    page.get_by_label("Only failed").uncheck()
    assert len(names(page)) == 11


def test_a_preview_opens_large_and_closes(look: Any, report: Path) -> None:
    page = look(report)
    viewer = page.get_by_role("dialog")
    first = page.get_by_role("button", name="Preview of scan 1", exact=True)
    page.wait_for_function("document.querySelector('#scans img').naturalWidth === 100")

    first.press("Enter")
    wait_for_picture(page, 100)
    assert viewer.get_by_role("heading").inner_text() == "scan 1"
    assert viewer.get_by_role("img").bounding_box()["width"] > 800
    page.keyboard.press("Escape")
    viewer.wait_for(state="hidden")
    assert first.evaluate("button => button === document.activeElement")

    page.get_by_role("row", name="scan 3").get_by_text("1000.0").click()
    wait_for_picture(page, 102)
    assert "spleen: 1000.0 ml · volume high (usual" in viewer.inner_text()
    viewer.get_by_role("button", name="Close").click()
    viewer.wait_for(state="hidden")

    page.get_by_role("row", name="scan 3").get_by_text("1000.0").click()
    page.mouse.click(3, 3)  # beside it
    viewer.wait_for(state="hidden")

    # Nothing to open: a scan whose preview is lost, and one that failed.
    for name in ("scan 8", "scan 11"):
        page.get_by_role("row", name=name).get_by_text("1.5").click()
        assert not viewer.is_visible()


def test_previews_are_looked_through_in_the_order_of_the_table(look: Any, report: Path) -> None:
    page = look(report)
    page.get_by_label("Filter").fill("scan 1")
    page.get_by_role("button", name="Scan", exact=True).dblclick()  # descending: 11, 10, 1
    page.get_by_role("button", name="Preview of scan 10").click()
    viewer = page.get_by_role("dialog")
    assert "1 of 2 shown" in viewer.inner_text()
    viewer.get_by_role("button", name="Next").click()
    wait_for_picture(page, 100)
    assert viewer.get_by_role("heading").inner_text() == "scan 1"
    page.keyboard.press("ArrowRight")
    assert "2 of 2 shown" in viewer.inner_text()
    page.keyboard.press("ArrowLeft")
    wait_for_picture(page, 109)
    page.keyboard.press("Escape")
    viewer.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.ariaLabel") == "Preview of scan 10"


def test_previews_that_stayed_files_are_shown_from_there(
    look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_report, "MOST_PREVIEW_BYTES", 0)
    out = tmp_path / "a #1 ü"
    out.mkdir()
    page = look(write(out), pictures=out)
    page.get_by_role("button", name=f"Preview of {NASTY}").click()
    wait_for_picture(page, 106)
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == NASTY


@pytest.mark.parametrize("width", [400, 800, 1280])
def test_the_page_is_never_wider_than_the_window(width: int, look: Any, report: Path) -> None:
    page = look(report)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Preview of scan 2").click()
    wait_for_picture(page, 101)
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_an_empty_cohort_runs_no_script_into_trouble(look: Any, tmp_path: Path) -> None:
    page = look(write_cohort_report([], tmp_path))
    assert "There are no scans." in page.locator("main").inner_text()
