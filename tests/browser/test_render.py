"""How the pane shows observations, differences, Markdown and code."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from openenv_async import Array
from tests.browser.components import Lab

pytestmark = pytest.mark.timeout(30)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(browser: Browser, pane_url: str) -> AsyncIterator[Lab]:
    """The components, and nothing else, in one page for all tests."""
    async with Lab.open(browser, pane_url) as opened:
        yield opened


def _array(value: object) -> dict[str, object]:
    """An array as the wire has it in JSON."""
    array = Array.of(value)
    data = base64.b64encode(array.data).decode()
    return {
        "kind": "array",
        "dtype": array.dtype,
        "shape": list(array.shape),
        "data": data,
    }


def _png(width: int, height: int) -> str:
    """A white PNG in base64; its pixels are there only when it is small."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    small = width * height <= 10_000
    pixels = (b"\0" + b"\xff" * 3 * width) * height if small else b""
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


async def _pixel(lab: Lab, x: int, y: int) -> list[int]:
    found: list[int] = await lab.page.evaluate(
        "([x, y]) => [...document.querySelector('canvas').getContext('2d')"
        ".getImageData(x, y, 1, 1).data]",
        [x, y],
    )
    return found


async def test_text_is_shown_as_it_is(lab: Lab) -> None:
    """Markup is text, and characters without an appearance get one."""
    await lab.show("renderObservation", {"text": "<b>x</b> a\u202eb\u200bc\0d\re"})
    value = lab.page.locator(".observed-value pre")
    await expect(value).to_have_text("<b>x</b> a⟦U+202E⟧b⟦U+200B⟧c␀d␍e")
    await lab.show("renderObservation", {"text": "👩‍🚀 العربية\r\nend"})
    await expect(value).to_have_text("👩‍🚀 العربية end")


async def test_long_text_is_folded(lab: Lab) -> None:
    """A long text shows its beginning, and the rest when asked."""
    await lab.show("renderObservation", {"text": "x" * 9_999 + "end"})
    value = lab.page.locator(".observed-value pre")
    assert len(await value.inner_text()) == 4000
    await lab.page.get_by_role("button", name="Show all 10,002 characters").click()
    assert (await value.inner_text()).endswith("xend")
    await lab.page.get_by_role("button", name="Show less").click()
    assert len(await value.inner_text()) == 4000
    await lab.show("renderObservation", {"text": "y\n" * 1000})
    assert (await value.inner_text()).count("y") == 60


async def test_escapes_of_a_terminal_are_left_out(lab: Lab) -> None:
    """Colours, links and moves of the cursor steer terminals, and are no text."""
    text = "\x1b[1;31mred\x1b[0m \x1b]8;;http://x/\x07link\x1b]8;;\x07\x1b[2J\x1b[44mon\x1b[49m"
    await lab.show("renderObservation", {"text": text})
    await expect(lab.page.locator(".observed-value pre")).to_have_text("red linkon")


async def test_code_is_shown_with_its_output(lab: Lab) -> None:
    """The coding environment's streams have a part each, and so has the error."""
    observation = {
        "stdout": "hello\n",
        "stderr": "careful",
        "exit_code": 1,
        "error": {"type": "ValueError", "message": "no", "line": 3},
        "stdout_truncated": True,
        "passed": False,
        "reward": 1.0,
    }
    await lab.show("renderObservation", observation)
    await expect(lab.page.get_by_role("region", name="stdout")).to_have_text("hello ")
    await expect(lab.page.get_by_role("region", name="stderr")).to_have_text("careful")
    await expect(lab.page.get_by_text("ValueError, line 3: no")).to_be_visible()
    await expect(lab.page.get_by_text("exit 1")).to_be_visible()
    await expect(lab.page.get_by_text("cut off")).to_have_count(1)
    await expect(lab.page.get_by_text("reward")).to_have_count(0)
    await lab.page.evaluate(
        """() => {
          const properties = { stdout: {}, exit_code: {}, result: {} };
          box.replaceChildren(lab.renderObservation({}, { schema: { properties } }));
        }"""
    )
    await expect(lab.page.get_by_text("no output")).to_be_visible()


async def test_alike_items_make_a_table(lab: Lab) -> None:
    """A list of maps with the same keys is a table that grows on demand."""
    rows = [{"name": f"row {n}", "score": n, "tags": ["a"]} for n in range(120)]
    await lab.show("renderObservation", {"rows": rows})
    heads = await lab.page.locator("th").all_inner_texts()
    assert heads == ["name", "score", "tags"]
    await expect(lab.page.locator("tbody tr")).to_have_count(50)
    await lab.page.get_by_role("button", name="Show more of 120 rows").click()
    await expect(lab.page.locator("tbody tr")).to_have_count(120)


async def test_images_are_shown(lab: Lab) -> None:
    """Bytes that begin like an image are one, alone or as a data URL."""
    for text in (_png(4, 2), f"data:image/png;base64,{_png(4, 2)}"):
        await lab.show("renderObservation", {"screen": text})
        image = lab.page.locator("img")
        await expect(image).to_have_js_property("naturalWidth", 4)
        box = await image.bounding_box()
        assert box is not None
        assert box["width"] == 2 * box["height"] >= 300
    await lab.show("renderObservation", {"screen": "iVBORw0KGgo but no image"})
    await expect(lab.page.locator(".observed-value")).to_have_text(
        "iVBORw0KGgo but no image"
    )


async def test_large_images_are_not_decoded(lab: Lab) -> None:
    """A few bytes that claim many pixels are told, not shown."""
    await lab.show("renderObservation", {"screen": _png(50_000, 50_000)})
    await expect(
        lab.page.get_by_text("Too large to show: PNG, 50000 \u00d7 50000")
    ).to_be_visible()
    await expect(lab.page.locator("img")).to_have_count(0)


async def test_bytes_of_an_array_are_a_picture(lab: Lab) -> None:
    """Height, width and channels of bytes are drawn as they are, at a whole factor."""
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[3, 5] = (10, 20, 30)
    await lab.show("renderObservation", {"frame": _array(pixels)})
    assert await _pixel(lab, 5, 3) == [10, 20, 30, 255]
    assert await _pixel(lab, 5, 4) == [0, 0, 0, 255]
    box = await lab.page.locator("canvas").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (320, 160)
    await lab.show("renderObservation", {"frame": _array(pixels[..., 2])})
    assert await _pixel(lab, 5, 3) == [30, 30, 30, 255]


async def test_numbers_are_summarised(lab: Lab) -> None:
    """Arrays tell dtype, shape, range and what is not finite; small ones all of it."""
    small = np.array([[1, -2.5], [np.nan, np.inf]], "<f4")
    await lab.show("renderObservation", {"a": _array(small)})
    await expect(
        lab.page.get_by_text("<f4 · [2, 2] · -2.5 to 1, mean -0.75, 2 not finite")
    ).to_be_visible()
    cells = await lab.page.locator("td").all_inner_texts()
    assert cells == ["1", "-2.5", "NaN", "Infinity"]
    await lab.show("renderObservation", {"a": _array(np.array([2**62 + 1]))})
    assert await lab.page.locator("td").all_inner_texts() == [str(2**62 + 1)]
    for dtype in (">i2", "|b1", "<u8", "<f8", ">f4", "|i1"):
        value = np.array([0, 1, 1], dtype)
        await lab.show("renderObservation", {"a": _array(value)})
        cells = await lab.page.locator("td").all_inner_texts()
        assert cells == ["0", "1", "1"], dtype


async def test_arrays_of_numbers_are_drawn(lab: Lab) -> None:
    """One dimension is a line with its gaps, two are a heat map."""
    line = np.sin(np.arange(1000) / 50)
    line[400:500] = np.nan
    await lab.show("renderObservation", {"a": _array(line)})
    await expect(lab.page.get_by_label("Line of 1,000 values")).to_be_visible()
    await expect(lab.page.locator("polyline")).to_have_count(2)
    heat = np.arange(600.0).reshape(20, 30)
    heat[0, 1] = np.nan
    await lab.show("renderObservation", {"a": _array(heat)})
    await expect(lab.page.get_by_label("Heat map, 20 \u00d7 30")).to_be_visible()
    assert await _pixel(lab, 1, 0) == [128, 128, 128, 255]
    assert await _pixel(lab, 29, 19) == [253, 231, 37, 255]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": "%"}, "expected base64"),
        ({"shape": [3]}, "expected 12 bytes, got 8"),
        ({"dtype": "<c8"}, "elements of type <c8"),
        ({"shape": [2**40, 2**40]}, "expected"),
    ],
)
async def test_arrays_that_do_not_fit_say_so(
    lab: Lab, change: dict[str, object], told: str
) -> None:
    """What dtype and shape promise and the data lack is told in the array's place."""
    await lab.show("renderObservation", {"a": {**_array(np.ones(2, "<f4")), **change}})
    await expect(lab.page.locator(".notice")).to_contain_text(told)


async def test_markdown_is_shown_where_it_is_declared(lab: Lab) -> None:
    """A media type or format of Markdown makes it so; plain text stays plain."""
    await lab.page.evaluate(
        """() => {
          const note = { type: "string", contentMediaType: "text/markdown" };
          const schema = { $ref: "#/$defs/O", $defs: { O: { properties: { note } } } };
          const value = { note: "# Title", plain: "# no" };
          box.replaceChildren(lab.renderObservation(value, { schema }));
        }"""
    )
    await expect(lab.page.get_by_role("heading", name="Title")).to_be_visible()
    await expect(lab.page.get_by_text("# no")).to_be_visible()


_MARKDOWN = """# One

Some *soft*, **strong** and `code <b>`, a [link](https://example.org/a?b=1 "t"),
[mail](mailto:a@example.org), [evil](javascript:alert(1)), [data](data:text/html,x)
and ![a picture](https://example.org/x.png). <img src=x onerror=alert(1)>

- a
- b
  1. c

> quoted

| h1 | h2 |
| -- | -- |
| x  | y  |

```python
def f(): return 1
```
"""


async def test_markdown_is_a_safe_part_of_it(lab: Lab) -> None:
    """Blocks and inline marks work; markup is text; only web and mail are linked."""
    await lab.show("renderMarkdown", _MARKDOWN)
    links = lab.page.locator("#box a")
    assert await links.evaluate_all(
        "(all) => all.map((a) => a.getAttribute('href'))"
    ) == [
        "https://example.org/a?b=1",
        "mailto:a@example.org",
        "https://example.org/x.png",
    ]
    for link in await links.all():
        assert await link.get_attribute("rel") == "noopener noreferrer"
    await expect(lab.page.get_by_text("<img src=x onerror=alert(1)>")).to_be_visible()
    for selector in ("h3", "em", "strong", "p code", "ul ol li", "blockquote", "td"):
        assert await lab.page.locator(f"#box {selector}").count(), selector
    await expect(lab.page.locator(".code-keyword").first).to_have_text("def")
    await expect(lab.page.locator("#box img")).to_have_count(0)


def _rows(lab: Lab) -> Any:
    return lab.page.locator("[role=treeitem]")


async def test_a_tree_opens_and_closes(lab: Lab) -> None:
    """Rows open by click and by key, and tell their level and state."""
    await lab.show("renderTree", {"a": {"b": [1, "two"]}, "c": None})
    assert await _rows(lab).all_inner_texts() == [
        "▾{2} ",
        '▸a: {1} {"b": [1, "two"]}',
        "c: null",
    ]
    await lab.page.get_by_role("tree").press("ArrowDown")
    await lab.page.keyboard.press("ArrowRight")
    await lab.page.keyboard.press("ArrowRight")
    await lab.page.keyboard.press("ArrowRight")
    await expect(_rows(lab)).to_have_count(6)
    selected = lab.page.locator("[aria-selected=true]")
    await expect(selected).to_have_attribute("aria-level", "3")
    await lab.page.keyboard.press("ArrowLeft")
    await lab.page.keyboard.press("ArrowLeft")
    await lab.page.keyboard.press("Enter")
    await expect(_rows(lab)).to_have_count(3)
    await lab.page.get_by_role("button", name="Expand all").click()
    await expect(_rows(lab)).to_have_count(6)
    await lab.page.get_by_role("button", name="Collapse").click()
    await expect(_rows(lab)).to_have_count(3)


async def test_a_tree_is_searched(lab: Lab) -> None:
    """The search lists keys and values with the text, by their paths."""
    await lab.show(
        "renderTree", {"deep": [{"needle": 1}, {"x": "a NEEDLE too"}], "y": 2}
    )
    await lab.page.get_by_label("Search").fill("needle")
    assert await _rows(lab).all_inner_texts() == [
        "deep[0].needle: 1",
        'deep[1].x: "a NEEDLE too"',
    ]
    await expect(lab.page.get_by_role("status")).to_have_text("2 found")
    await lab.page.get_by_label("Search").fill("nowhere")
    await expect(lab.page.get_by_role("status")).to_have_text("0 found")
    await lab.page.get_by_label("Search").fill("")
    await expect(_rows(lab)).to_have_count(3)


async def test_a_large_tree_stays_smooth(lab: Lab) -> None:
    """100,000 nodes open, scroll and are searched quickly; few are in the page."""
    times = await lab.page.evaluate(
        """async () => {
          const row = (_, n) => ({ n, text: `row ${n}`, on: true });
          const value = Array.from({ length: 25000 }, row);
          const took = async (act) => {
            const start = performance.now();
            act();
            await new Promise(requestAnimationFrame);
            return performance.now() - start;
          };
          const view = () => document.querySelector("[role=tree]");
          return [
            await took(() => box.replaceChildren(lab.renderTree(value))),
            await took(() => document.querySelectorAll("#box button")[0].click()),
            await took(() => { view().scrollTop = 1_000_000; }),
            await took(() => {
              const input = document.querySelector("input[type=search]");
              input.value = "row 24999";
              input.dispatchEvent(new Event("input"));
            }),
          ];
        }"""
    )
    assert max(times) < 1500, times
    assert await _rows(lab).count() == 1
    await expect(_rows(lab)).to_have_text('[24999].text: "row 24999"')


async def test_deep_values_do_not_overflow(lab: Lab) -> None:
    """A value that is 100,000 levels deep is shown, written, compared and searched."""
    await lab.page.evaluate(
        """() => {
          const nest = (inner) => JSON.parse("[".repeat(1e5) + inner + "]".repeat(1e5));
          const [one, two] = [nest("1"), nest("2")];
          box.replaceChildren(lab.renderObservation({ one }), lab.renderDiff(one, two),
            lab.renderTree({ deep: { one } }, { open: Infinity }));
        }"""
    )
    await expect(lab.page.locator(".diff-row")).to_have_count(1)
    await lab.page.get_by_role("button", name="JSON", exact=True).click()
    await lab.page.locator("input[type=search]").last.fill("1")
    assert await _rows(lab).count() > 0


async def test_views_are_switched(lab: Lab) -> None:
    """Every observation can be seen as a tree and as JSON."""
    await lab.show("renderObservation", {"a": {"b": 1}, "reward": 2})
    await lab.page.get_by_role("button", name="JSON", exact=True).click()
    shown = await lab.page.get_by_role("region", name="JSON").inner_text()
    assert shown == '{\n  "a": {\n    "b": 1\n  },\n  "reward": 2\n}'
    await lab.page.get_by_role("button", name="Tree").click()
    await expect(lab.page.get_by_role("tree")).to_be_visible()
    await expect(lab.page.get_by_role("button", name="Tree")).to_have_attribute(
        "aria-pressed", "true"
    )


async def test_differences_are_told_by_path(lab: Lab) -> None:
    """What came, went and changed is listed, and nothing else."""
    before = {"same": [1, {"x": 1}], "a": 1, "gone": True, "list": [1, 2, 3]}
    after = {"same": [1, {"x": 1}], "a": 2, "new": {"k": 1}, "list": [1, 3]}
    await lab.show("renderDiff", before, after)
    assert await lab.page.locator(".diff-row").all_inner_texts() == [
        "a\nchanged\n1 → 2",
        "gone\nremoved\ntrue",
        "list[1]\nremoved\n2",
        'new\nadded\n{"k": 1}',
    ]
    await lab.show("renderDiff", before, before)
    await expect(lab.page.get_by_text("No difference")).to_be_visible()


async def test_long_texts_differ_in_part(lab: Lab) -> None:
    """Of two long texts only what changed is marked, with what stands around it."""
    before = "a" * 500 + "\nold\n" + "z" * 500
    await lab.show("renderDiff", {"t": before}, {"t": before.replace("old", "fresh")})
    await expect(lab.page.locator("del")).to_have_text("old")
    await expect(lab.page.locator("ins")).to_have_text("fresh")
    assert len(await lab.page.locator(".diff-row").inner_text()) < 200


async def test_arrays_differ_in_numbers(lab: Lab) -> None:
    """Two arrays of one shape differ in so many values, by so much, and a picture."""
    one = np.zeros((20, 20), "<f4")
    two = one.copy()
    two[3, 4:6] = (0.5, -2)
    await lab.show("renderDiff", {"a": _array(one)}, {"a": _array(two)})
    words = "2 of 400 values changed, by 2 at most"
    await expect(lab.page.get_by_text(words)).to_be_visible()
    await expect(lab.page.locator("canvas")).to_have_count(1)


async def test_large_differences_are_cut(lab: Lab) -> None:
    """Thousands of changes are told by the first ones."""
    await lab.show("renderDiff", list(range(5000)), list(range(1, 5001)))
    await expect(lab.page.get_by_text("there are more")).to_be_visible()
    assert await lab.page.locator(".diff-row").count() <= 210


async def test_renderers_are_accessible(lab: Lab) -> None:
    """axe finds nothing serious in any kind of observation, in light and dark."""
    observation = {
        "stdout": "out \x1b[31mred \x1b[42mgreen",
        "exit_code": 1,
        "error": "failed",
        "rows": [{"a": 1}, {"a": 2}],
        "line": [float(n) for n in range(20)],
        "frame": _array(np.zeros((16, 16), np.uint8)),
        "screen": _png(4, 4),
        "nested": {"a": {"b": [None, True, "x"]}},
    }
    for scheme in ("light", "dark"):
        await lab.page.emulate_media(color_scheme=scheme)
        await lab.show("renderObservation", observation)
        assert await lab.violations() == []
        await lab.show("renderMarkdown", _MARKDOWN)
        assert await lab.violations() == []
        await lab.show(
            "renderDiff", observation, {**observation, "line": [1], "x": "y"}
        )
        assert await lab.violations() == []
