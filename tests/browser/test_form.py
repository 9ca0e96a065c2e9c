"""Forms made from the schemas of actions."""

from __future__ import annotations

import base64
import datetime
import enum
import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from msgspec import UNSET, Meta, Struct, UnsetType
from playwright.async_api import Browser, expect

from openenv_async import Array
from tests.browser.components import Lab
from tests.sources import ROOT

pytestmark = pytest.mark.timeout(30)


class Move(Struct, tag="move", forbid_unknown_fields=True):
    """Go somewhere."""

    x: Annotated[int, Meta(ge=0, le=99, description="how far to the right")]
    y: int | None = None


class Say(Struct, tag="say", forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=2, max_length=9, pattern="^[a-z]")]
    tone: Literal["calm", "loud"] = "calm"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(Struct, forbid_unknown_fields=True):
    name: str
    children: list[Node] = []
    next: Node | None = None


class Point(Struct, array_like=True):
    x: int
    y: int = 7


class Everything(Struct, kw_only=True, forbid_unknown_fields=True):
    act: Move | Say
    message: str
    code: str = ""
    notes: Annotated[str, Meta(extra_json_schema={"format": "multiline"})] = ""
    count: int = 3
    big: int = 0
    ratio: Annotated[float, Meta(gt=0, multiple_of=0.5)] = 1.5
    colour: Colour = Colour.RED
    flag: bool = False
    maybe: str | None = "there"
    extra: int | UnsetType = UNSET
    numbers: Annotated[list[int], Meta(max_length=3)] = []
    unique: set[int] = set()
    scores: dict[str, float] = {}
    pair: tuple[int, str] = (1, "a")
    point: Point | None = None
    either: int | list[int] | str = 1
    data: bytes = b""
    day: datetime.date | None = None
    moment: datetime.datetime | None = None
    id: uuid.UUID | None = None
    tree: Node | None = None
    tensor: Array | None = None
    anything: Any = None


_SCHEMA = msgspec.json.schema(Everything)
_PAGE = (ROOT / "docs" / "pane.md").read_text(encoding="utf-8")
_SNIPPETS = re.findall(r"^```python\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(browser: Browser, pane_url: str) -> AsyncIterator[Lab]:
    """The components, and nothing else, in one page for all tests."""
    async with Lab.open(browser, pane_url) as opened:
        yield opened


def _schema(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties)}


async def _decoded(lab: Lab) -> Everything:
    """The form's value as the server reads it."""
    return msgspec.json.decode(await lab.text(), type=Everything)


async def test_what_is_not_touched_is_left_out(lab: Lab) -> None:
    """A new form gives what is required; defaults are the server's."""
    await lab.form(_SCHEMA)
    assert await lab.value() == {"act": {"type": "move"}, "message": ""}
    assert await lab.check() == {"act.x": "expected an integer"}
    await expect(lab.field("x")).to_be_focused()
    await lab.field("x").fill("2")
    assert await _decoded(lab) == Everything(act=Move(x=2), message="")


async def test_every_type_comes_back_as_it_was_put_in(lab: Lab) -> None:
    """A value of every type, given to the form, is what the form gives."""
    pixels = np.arange(6, dtype="<f4").reshape(2, 3)
    value = Everything(
        act=Say(text="hello", tone="loud"),
        message="one\r\ntwo",
        code="print(1)\n",
        notes="a\nb",
        count=-4,
        big=2**60 + 1,
        ratio=2.5,
        colour=Colour.BLUE,
        flag=True,
        maybe=None,
        extra=9,
        numbers=[1, 2],
        unique={4},
        scores={"__proto__": 1.5, "constructor": 2.0},
        pair=(5, "b"),
        point=Point(1, 2),
        either=[1, 2],
        data=b"\x00\xff\r\n",
        day=datetime.date(2026, 1, 31),
        moment=datetime.datetime(2026, 1, 31, 12, 30, tzinfo=datetime.UTC),
        id=uuid.UUID(int=5),
        tree=Node("a", [Node("b", [Node("c")])], Node("d")),
        tensor=Array.of(pixels),
        anything={"deep": [1, None, {"__proto__": 2}]},
    )
    await lab.form(_SCHEMA)
    await lab.fill(msgspec.to_builtins(value))
    assert await lab.check() == {}
    # A tree in the builtin form, because arrays compare as views.
    assert msgspec.to_builtins(await _decoded(lab)) == msgspec.to_builtins(value)


async def test_integers_keep_all_their_digits(lab: Lab) -> None:
    """What a double cannot hold is sent as it was typed."""
    await lab.form(_schema(n={"type": "integer", "maximum": 2**64}))
    await lab.field("n").fill("9007199254740993")
    assert await lab.text() == '{"n":9007199254740993}'
    await lab.field("n").fill("99999999999999999999")
    assert "expected at most" in (await lab.check())["n"]


_WRONG: list[tuple[dict[str, object], str, str]] = [
    ({"type": "integer"}, "1.5", "expected an integer, got"),
    ({"type": "integer"}, "", "expected an integer"),
    ({"type": "integer", "minimum": 2}, "1", "expected at least 2"),
    ({"type": "number", "exclusiveMaximum": 2}, "2", "expected less than 2"),
    ({"type": "number"}, "1e999", "expected a number"),
    ({"type": "number", "multipleOf": 0.1}, "0.35", "expected a multiple of 0.1"),
    ({"type": "string", "minLength": 2}, "é", "expected at least 2 characters"),
    ({"type": "string", "maxLength": 1}, "ab", "expected at most 1 character, got 2"),
    ({"type": "string", "pattern": "^a+$"}, "b", "expected text that matches"),
    ({}, "{", "expected JSON"),
    ({"type": "string", "contentEncoding": "base64"}, "a", "expected base64"),
    # Its lengths are those of the base64, as msgspec writes them.
    ({"type": "string", "contentEncoding": "base64", "minLength": 4}, "", "4"),
]


async def test_constraints_are_checked_at_the_field(lab: Lab) -> None:
    """A value that breaks its schema is told beside its input, until it is changed."""
    field = lab.field("it")
    for schema, typed, message in _WRONG:
        await lab.form(_schema(it=schema))
        await field.fill(typed)
        assert message in (await lab.check())["it"]
        await expect(field).to_have_attribute("aria-invalid", "true")
        ids = (await field.get_attribute("aria-describedby") or "").split()
        told = [await lab.page.locator(f"#{name}").inner_text() for name in ids]
        assert message in told[-1]
        await field.press("End")
        await field.press("1")
        await expect(field).to_have_attribute("aria-invalid", "false")


async def test_few_integers_are_buttons(lab: Lab) -> None:
    """An integer with at most eight values is chosen, by mouse or by arrow keys."""
    few = {"type": "integer", "minimum": 0, "maximum": 1}
    await lab.form(_schema(action=few))
    action = lab.page.get_by_role("radiogroup", name="action", exact=True)
    assert await action.get_by_role("radio").count() == 2
    assert await lab.value() == {"action": 0}
    await action.get_by_label("1", exact=True).click()
    assert await lab.value() == {"action": 1}
    await lab.page.keyboard.press("ArrowLeft")
    assert await lab.value() == {"action": 0}
    before = await lab.submitted()
    await lab.page.keyboard.press("Enter")
    assert await lab.submitted() == before + 1
    await lab.fill({"action": 1})
    assert await lab.value() == {"action": 1}


_INTEGERS: list[tuple[dict[str, object], list[str]]] = [
    ({"minimum": -1, "maximum": 1}, ["-1", "0", "1"]),
    ({"minimum": 3, "maximum": 10}, [str(n) for n in range(3, 11)]),
    ({"minimum": 0, "maximum": 7, "multipleOf": 3}, ["0", "3", "6"]),
    ({"minimum": 0, "maximum": 8}, []),
    ({"minimum": 0}, []),
    ({"minimum": 5, "maximum": 4}, []),
]


async def test_many_integers_are_typed(lab: Lab) -> None:
    """Nine values or no bounds make an input; other constraints leave values out."""
    for bounds, offered in _INTEGERS:
        await lab.form(_schema(it={"type": "integer", **bounds}))
        labels = await lab.page.locator(".choices label").all_inner_texts()
        assert labels == offered, bounds
        typed = await lab.page.locator("schema-form input.input").count()
        assert typed == (0 if offered else 1), bounds


async def test_short_choices_are_buttons(lab: Lab) -> None:
    """A few short values are buttons, many or long ones a list."""
    for values, buttons in (
        (["translate", "rotate left", "scale evenly", "shear around"], True),
        (list("abcdefghi"), False),
        (["x" * 50, "y" * 50], False),
    ):
        await lab.form(_schema(it={"enum": values}))
        assert await lab.page.get_by_role("radio").count() == buttons * len(values)
        assert await lab.page.get_by_role("combobox").count() == (not buttons)


async def test_a_field_is_checked_when_it_is_left(lab: Lab) -> None:
    """Nobody has to submit a form to learn what is wrong."""
    await lab.form(_schema(it={"type": "integer"}))
    await lab.field("it").fill("x")
    await lab.field("it").blur()
    await expect(lab.page.get_by_text('expected an integer, got "x"')).to_be_visible()


async def test_numbers_at_their_bounds_are_fine(lab: Lab) -> None:
    """0.3 is a multiple of 0.1, and bounds belong to their range."""
    number = {"type": "number", "minimum": 0.3, "maximum": 0.3, "multipleOf": 0.1}
    await lab.form(_schema(n=number))
    await lab.field("n").fill("0.3")
    assert await lab.check() == {}


async def test_enter_submits_where_text_has_one_line(lab: Lab) -> None:
    """Enter submits in a single line; in several it breaks them, Ctrl+Enter submits."""
    await lab.form(_schema(message={"type": "string"}, code={"type": "string"}))
    before = await lab.submitted()
    await lab.field("message").press("Enter")
    assert await lab.submitted() == before + 1
    await lab.field("code").press_sequentially("a\nb")
    assert (await lab.value())["code"] == "a\nb"
    assert await lab.submitted() == before + 1
    await lab.field("code").press("Control+Enter")
    assert await lab.submitted() == before + 2
    await lab.field("message").press("Shift+Enter")
    assert (await lab.value())["message"] == "\n"


_LINES: list[tuple[str, dict[str, object], bool]] = [
    ("a", {}, False),
    ("prompt", {}, True),
    ("prompt", {"x-multiline": False}, False),
    ("a", {"x-multiline": True}, True),
    ("a", {"format": "multiline"}, True),
    ("a", {"contentMediaType": "text/x-python"}, True),
    ("a", {"maxLength": 5000}, True),
]


async def test_hints_ask_for_many_lines(lab: Lab) -> None:
    """A text has several lines where its schema or its name says so."""
    for name, hint, many in _LINES:
        await lab.form(_schema(**{name: {"type": "string", **hint}}))
        rows = int(await lab.field(name).get_attribute("rows") or 0)
        assert (rows > 1) is many, (name, hint)


async def _height(lab: Lab, name: str) -> float:
    box = await lab.field(name).bounding_box()
    assert box is not None
    return box["height"]


@pytest.mark.parametrize("width", [390, 1280])
async def test_areas_grow_with_their_text(lab: Lab, width: int) -> None:
    """Three rows at first, as many as the text has then, and sixteen at most."""
    await lab.page.set_viewport_size({"width": width, "height": 800})
    await lab.form(_schema(code={"type": "string"}, message={"type": "string"}))
    row, frame = 20, 12
    assert await _height(lab, "code") == 3 * row + frame
    assert await _height(lab, "message") == row + frame
    await lab.field("code").fill("x\n" * 9)
    assert await _height(lab, "code") == 10 * row + frame
    await lab.field("code").fill("x\n" * 40)
    assert await _height(lab, "code") == 16 * row + frame
    await lab.page.set_viewport_size({"width": 1280, "height": 800})


async def test_code_has_a_fixed_width_and_lets_tab_pass(lab: Lab) -> None:
    """Code is set in a fixed width; the tab key goes on, as everywhere."""
    await lab.form(_schema(code={"type": "string"}, prompt={"type": "string"}))
    for name, mono in (("code", True), ("prompt", False)):
        family = await lab.field(name).evaluate(
            "(it) => getComputedStyle(it).fontFamily"
        )
        assert ("monospace" in family) is mono, name
    await lab.field("code").press("Tab")
    await expect(lab.field("prompt")).to_be_focused()
    assert await lab.value() == {"code": "", "prompt": ""}


async def test_null_and_nothing_are_chosen(lab: Lab) -> None:
    """An optional value is left out, null, or there, by an explicit choice."""
    await lab.form(_SCHEMA)
    choice = lab.page.get_by_label("point: given or not")
    assert await choice.locator("option").all_inner_texts() == [
        "not given (null)",
        "null",
        "value",
    ]
    await choice.select_option("null")
    # The same as the default, and so are other ways to say so.
    assert (await lab.value())["point"] is None
    await choice.select_option("value")
    assert (await lab.value())["point"] == [0, 7] or "point.0" in await lab.check()
    await lab.page.get_by_label("maybe: given or not").select_option("null")
    assert (await lab.value())["maybe"] is None
    await lab.page.get_by_label("extra: given or not").select_option("value")
    await lab.field("extra").fill("4")
    assert (await lab.value())["extra"] == 4


async def test_lists_and_maps_grow_and_shrink(lab: Lab) -> None:
    """Rows are added and taken away with the keyboard, as many as the schema allows."""
    await lab.form(_SCHEMA)
    numbers = lab.page.get_by_role("group", name="numbers")
    add = numbers.get_by_role("button", name="Add item")
    for item in (1, 2, 3):
        await add.press("Enter")
        await numbers.get_by_label(f"item {item}", exact=True).fill(str(item * 10))
    await expect(add).to_be_disabled()
    await numbers.get_by_role("button", name="Remove: item 2").press("Enter")
    assert (await lab.value())["numbers"] == [10, 30]
    scores = lab.page.get_by_role("group", name="scores")
    await scores.get_by_role("button", name="Add entry").press("Enter")
    await lab.page.keyboard.type("__proto__")
    await scores.get_by_label("value", exact=True).fill("2.5")
    assert '"scores":{"__proto__":2.5}' in await lab.text()
    await scores.get_by_role("button", name="Add entry").press("Enter")
    await lab.page.keyboard.type("__proto__")
    assert "expected each key once" in (await lab.check())["scores"]


async def test_items_are_moved(lab: Lab) -> None:
    """Buttons move items up and down; the focus goes along, and ends where it must."""
    await lab.form(_SCHEMA)
    await lab.page.evaluate("(value) => { form.value = value }", {"numbers": [1, 2, 3]})
    numbers = lab.page.get_by_role("group", name="numbers")
    await numbers.get_by_role("button", name="Move up: item 3").press("Enter")
    assert (await lab.value())["numbers"] == [1, 3, 2]
    moved = numbers.get_by_role("button", name="Move up: item 2")
    await expect(moved).to_be_focused()
    await lab.page.keyboard.press("Enter")
    assert (await lab.value())["numbers"] == [3, 1, 2]
    # There is no further up, so the other button has the focus.
    await expect(
        numbers.get_by_role("button", name="Move down: item 1")
    ).to_be_focused()
    await expect(numbers.get_by_role("button", name="Move up: item 1")).to_be_disabled()
    await lab.page.keyboard.press("Enter")
    assert (await lab.value())["numbers"] == [1, 3, 2]
    await expect(numbers.get_by_label("item 2", exact=True)).to_have_value("3")
    await numbers.get_by_role("button", name="Remove: item 1").click()
    assert (await lab.value())["numbers"] == [3, 2]
    await expect(numbers.get_by_role("button", name="Move up: item 1")).to_be_disabled()


async def test_unions_are_chosen_by_their_tag(lab: Lab) -> None:
    """The tag is a choice of its own; what was written for another one is kept."""
    await lab.form(_SCHEMA)
    act = lab.page.get_by_role("group", name="act", exact=True)
    await act.get_by_label("x", exact=True).fill("3")
    await act.get_by_label("Type").select_option("say")
    await act.get_by_label("text", exact=True).fill("hey")
    await act.get_by_label("loud").check()
    assert (await lab.value())["act"] == {"type": "say", "text": "hey", "tone": "loud"}
    await act.get_by_label("Type").select_option("move")
    assert (await lab.value())["act"] == {"type": "move", "x": 3}


async def test_arrays_are_written_as_nested_lists(lab: Lab) -> None:
    """Nested lists become dtype, shape and data, which the server's `Array` reads."""
    await lab.form(msgspec.json.schema(Array))
    await lab.page.get_by_label("dtype").select_option("<i2")
    await lab.page.get_by_label("values").fill("[[1, 2, 3], [4, 5, -6]]")
    array = msgspec.json.decode(await lab.text(), type=Array).numpy()
    np.testing.assert_array_equal(array, np.array([[1, 2, 3], [4, 5, -6]], "<i2"))
    await lab.page.get_by_label("values").fill("[1, 70000]")
    assert await lab.check() == {"": "expected values of <i2, got 70000"}
    await lab.page.get_by_label("values").fill("[[1], 2]")
    assert await lab.check() == {"": "expected lists of equal length"}


async def test_arrays_of_every_type_are_packed(lab: Lab) -> None:
    """Any dtype and byte order comes back as it was, and edited numbers are packed."""
    await lab.form(msgspec.json.schema(Array))
    values = lab.page.get_by_label("values")
    for dtype in (">i2", "|b1", "|i1", "<u4", "<i8", ">u8", "<f4", ">f8"):
        array = np.array([[0, 1], [1, 1]], dtype)
        await lab.fill(msgspec.to_builtins(Array.of(array)))
        await expect(values).to_have_value("[[0, 1],\n [1, 1]]")
        await values.fill("[[1, 0], [0, 1]]")
        packed = msgspec.json.decode(await lab.text(), type=Array)
        assert packed.dtype == dtype
        assert packed.numpy().tolist() == [[1, 0], [0, 1]]
    large = 2**63 + 1
    await lab.fill(msgspec.to_builtins(Array.of(np.zeros(1, "<u8"))))
    await values.fill(f"[{large}]")
    packed = msgspec.json.decode(await lab.text(), type=Array)
    assert packed.numpy().tolist() == [large]
    for wrong in ("[1.5]", "[-1]", f"[{2**64}]"):
        await values.fill(wrong)
        assert "expected values of <u8, got" in (await lab.check())[""]


async def test_bytes_are_base64(lab: Lab) -> None:
    """Bytes are written in base64, which may be pasted with line ends."""
    await lab.form(_schema(it={"type": "string", "contentEncoding": "base64"}))
    await lab.field("it").fill(base64.encodebytes(bytes(60)).decode())
    assert base64.b64decode((await lab.value())["it"], validate=True) == bytes(60)
    assert await lab.check() == {}


async def test_the_whole_can_be_edited_as_json(lab: Lab) -> None:
    """The switch shows the same value as JSON, and takes back what was changed."""
    await lab.form(_SCHEMA)
    await lab.field("x").fill("1")
    await lab.page.get_by_role("button", name="JSON", exact=True).click()
    source = lab.page.get_by_label("The value as JSON")
    await source.fill('{"act": {"type": "say", "text": "hi"}, "message": "m"}')
    assert (await lab.value())["act"]["text"] == "hi"
    await lab.page.get_by_role("button", name="JSON", exact=True).click()
    await expect(lab.field("text")).to_have_value("hi")
    await lab.page.get_by_role("button", name="JSON", exact=True).click()
    await source.fill("{")
    assert "expected JSON" in (await lab.check())[""]


async def test_errors_of_the_server_go_to_their_field(lab: Lab) -> None:
    """What msgspec says about a value is shown at the field that it names."""
    await lab.form(_SCHEMA)
    faulty = {
        "act": {"type": "move", "x": 999},
        "message": "",
        "numbers": [1, 2],
        "scores": {"a": 1},
    }
    await lab.fill(faulty)
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(faulty, Everything)
    await lab.page.evaluate(
        "(message) => form.showErrors([{ path: lab.fieldPath(message), message }])",
        f"expected an action of 'all': {raised.value}",
    )
    await expect(lab.field("x")).to_be_focused()
    await expect(lab.field("x")).to_have_attribute("aria-invalid", "true")
    paths = [
        ("Expected `int`, got `str` - at `$.numbers[1]`", ["numbers", 1]),
        ("Expected `float`, got `str` - at `$.scores[...]`", ["scores", "..."]),
        ("Object missing required field `act`", ["act"]),
        ("Object contains unknown field `q` - at `$.act`", ["act", "q"]),
        ("Expected `int`, got `str` - at `key` in `$.scores`", ["scores"]),
        ("something else", []),
    ]
    for message, path in paths:
        assert await lab.page.evaluate("(text) => lab.fieldPath(text)", message) == path
    await lab.page.evaluate("form.showErrors([{ path: ['gone'], message: 'what?' }])")
    await expect(lab.page.get_by_role("alert")).to_have_text("what?")


async def test_help_comes_from_the_schema(lab: Lab) -> None:
    """Descriptions describe their inputs, for the eye and for a screen reader."""
    await lab.form(_SCHEMA)
    await expect(lab.field("x")).to_have_accessible_description("how far to the right")


async def test_hostile_schemas_end(lab: Lab) -> None:
    """Schemas that go in circles, lack everything or are deep still make a form."""
    endless: dict[str, object] = {"$ref": "#/$defs/a", "$defs": {}}
    endless["$defs"] = {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}}
    must: dict[str, object] = {
        "$ref": "#/$defs/n",
        "$defs": {"n": _schema(n={"$ref": "#/$defs/n"}, __proto__={"type": "string"})},
    }
    schemas: list[dict[str, object]] = [
        endless,
        must,
        {},
        {"enum": []},
        {"type": 3},
        {"$ref": "http://x"},
    ]
    for schema in schemas:
        await lab.form(schema)
        assert await lab.page.locator("schema-form :is(textarea, select)").count() >= 1


async def test_the_documented_types_make_what_is_documented(lab: Lab) -> None:
    """The types that the documentation shows work, and give the controls it names."""
    names: dict[str, Any] = {"__name__": __name__}
    for snippet in _SNIPPETS:
        exec(compile(snippet, "pane.md", "exec", dont_inherit=True), names)
    await lab.form(msgspec.json.schema(names["Answer"]))
    assert int(await lab.field("proof").get_attribute("rows") or 0) > 1
    await expect(lab.field("text")).to_have_accessible_description("One sentence.")
    await lab.field("confidence").fill("1.5")
    assert (await lab.check())["confidence"] == "expected at most 1, got 1.5"
    schema = msgspec.json.schema(names["Page"])
    declared = schema["$defs"]["Page"]["properties"]["body"]["contentMediaType"]
    assert declared == "text/markdown"


async def test_a_form_is_accessible(lab: Lab) -> None:
    """axe finds nothing serious in a form with every type and its errors shown."""
    await lab.form(_SCHEMA)
    for name in ("point", "tree", "tensor", "day", "id"):
        await lab.page.get_by_label(f"{name}: given or not").select_option("value")
    assert await lab.check()
    assert await lab.violations() == []


async def test_forms_of_served_environments(lab: Lab) -> None:
    """The schemas of the environments of this repository make usable forms."""
    schemas = await lab.page.evaluate("fetch('../schema').then((all) => all.json())")
    actions = {name: own["action"] for name, own in schemas["environments"].items()}
    await lab.form(actions["echo_env"])
    await lab.field("message").fill("hi")
    assert await lab.value() == {"message": "hi"}
    await lab.form(actions["CartPole-v1"])
    await lab.page.get_by_role("radio", name="1").check()
    assert await lab.value() == {"action": 1}
    await lab.form(actions["coding_env"])
    await lab.field("code").fill("1 +\n1")
    assert await lab.value() == {"code": "1 +\n1"}
