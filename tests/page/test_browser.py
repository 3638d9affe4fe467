"""The page in a real browser: it shows what there is, keeps itself up to date, and lets nobody's text become markup."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import Field, create_model
from support import browser as chromium
from support.page_app import NAME, live, loans, make, post, records, served

import modelwatch

EVIL = "<script>alert(1)</script>"
EVIL_CATEGORY = "<img src=x onerror=alert(2)>"
PATIENCE = 15_000  # milliseconds until a test that waits in vain fails; none waits that long when all is well
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    with chromium.opened() as found:
        yield found


@pytest.fixture(scope="module")
def drifting():
    """A service whose traffic has drifted, with an hour behind it."""
    app = make()
    with served(app) as address:
        live(app, address, turns=24)
        yield address


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch):
    """What the page shows is made anew each time."""
    monkeypatch.setattr("modelwatch.page.serving.FRESH_SECONDS", 0.0)


class Look:
    """One tab, and what it said and asked for.

    Attributes
    ----------
    errors
        Of the console, and exceptions that nobody caught.
    asked
        Addresses of all requests.
    """

    def __init__(self, context):
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors, self.asked = [], []
        self.page.on("console", lambda said: said.type in {"error", "warning"} and self.errors.append(said.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def go(self, address):
        """Load the page, and wait until it shows something."""
        self.page.goto(f"{address}/modelwatch")
        self.page.locator("h1").wait_for()
        return self

    def has(self, text, within="body"):
        """Wait until a text is there."""
        self.page.locator(within).filter(has_text=text).first.wait_for()

    def names(self):
        """Of the features, from above."""
        return self.page.locator(".feature:not([hidden]) .name").all_inner_texts()

    def refresh(self):
        """Let the page ask now, as it does every few seconds, and wait for what comes of it."""
        with self.page.expect_response("**/data.json"):
            self.page.evaluate("page.ask()")
        self.page.wait_for_function("!page.busy")


@pytest.fixture
def look(browser):
    """Opens tabs; in the end none of them has complained, unless the test says what it expects."""
    contexts, looks = [], []

    def opened(**options):
        contexts.append(browser.new_context(**{"viewport": DESKTOP, **options}))
        looks.append(Look(contexts[-1]))
        return looks[-1]

    yield opened
    for context in contexts:
        context.close()
    assert [error for one in looks for error in one.errors] == []


def app_of(reference, **settings):
    """An app around a reference, which rows are recorded into by hand."""
    app = FastAPI()
    settings = modelwatch.Settings(page=True, **settings)
    return app, modelwatch.instrument(app, model_name="m", model_version="1", reference=reference, settings=settings)


def test_it_shows_what_there_is(look, drifting):
    """Model, version, reference, verdict, requests and distributions are there, the drifted feature first."""
    one = look().go(drifting)
    assert one.page.locator("h1").inner_text() == NAME["model_name"]
    one.has("version 2026.3")
    one.has(re.compile(r"\d+ of 10 features drifted"))
    first = one.page.locator(".feature").first
    assert first.locator(".name").inner_text() == "channel"
    assert first.locator(".pill").inner_text() in {"minor", "moderate", "major"}
    assert first.locator(".mini rect").count() >= 4
    assert one.page.locator(".tile .value").first.inner_text().endswith("a second")
    assert one.page.locator(".ends .legend").inner_text().startswith("success")
    assert one.page.title().startswith("(")


def test_nothing_is_asked_of_another_host(look, drifting):
    """Page and JSON are all that is asked for, from the service itself, and the console stays silent."""
    one = look().go(drifting)
    one.page.locator(".row").first.click()
    one.refresh()
    assert {url.removeprefix(drifting) for url in one.asked} == {"/modelwatch", "/modelwatch/data.json"}


def test_a_feature_opens_with_the_keyboard(look, drifting):
    """Every feature opens by the keyboard, and tells in words, pictures and numbers what has changed."""
    one = look().go(drifting)
    row = one.page.locator(".row", has_text="income")
    row.focus()
    one.page.keyboard.press("Enter")
    assert row.get_attribute("aria-expanded") == "true"
    detail = one.page.locator(f"#{row.get_attribute('aria-controls')}")
    detail.locator(".plot svg").first.wait_for()
    assert re.search(r"KS distance 0\.\d+, from 0\.\d+ on it counts as large", detail.inner_text())
    assert detail.locator("svg .b-ref").count() == 10
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Enter")  # the table of all bins
    cells = detail.locator("tbody tr")
    cells.first.wait_for()
    assert cells.count() == 11
    assert cells.first.inner_text().startswith("< ")
    assert cells.nth(9).inner_text().startswith("≥ ")
    assert cells.last.inner_text().startswith("_missing")
    one.page.keyboard.press("Shift+Tab")
    one.page.keyboard.press("Enter")
    assert row.get_attribute("aria-expanded") == "false"


def test_it_updates_by_itself(look):
    """What is counted after the page was loaded appears on it, without a hand moved, and what was open stays open."""
    app = make()
    with served(app) as address:
        post(address, [records(loans(50, seed)) for seed in range(5)])
        one = look().go(address)
        one.page.locator(".row", has_text="term").click()
        one.page.evaluate("scrollTo(0, document.querySelector('.row[aria-expanded=true]').offsetTop - 200)")
        row = one.page.locator(".row", has_text="term")
        before = row.bounding_box()["y"]
        post(address, [records(loans(60, 50 + seed, drift=3.0)) for seed in range(10)])
        one.has(re.compile(r"[1-9] of 10 features drifted"), ".saying")
        assert row.get_attribute("aria-expanded") == "true"
        assert abs(row.bounding_box()["y"] - before) < 1


def test_what_is_looked_at_does_not_move(look):
    """When features change places, the one that is in view stays where it is on the screen, and keeps the focus."""
    rng = np.random.default_rng(3)
    table = {f"f{i:02}": rng.normal(0, 1, 2_000) for i in range(40)}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table), window_rows=400)
    monitor.record({name: values[:400] for name, values in table.items()})
    with served(app) as address:
        one = look().go(address)
        focused = "document.activeElement.querySelector('.name')?.textContent"
        row = one.page.locator(".row").nth(17)
        name = row.locator(".name").inner_text()
        row.scroll_into_view_if_needed()
        one.page.evaluate("scrollTo(0, document.querySelectorAll('.row')[17].offsetTop - 200)")
        row.focus()
        row = one.page.locator(".row", has_text=name)
        before = row.bounding_box()["y"]
        last = one.names()[-1]
        monitor.record({n: values[:400] + (n == last) * 3 for n, values in table.items()})
        one.refresh()
        assert one.names()[0] == last
        assert abs(row.bounding_box()["y"] - before) < 1
        assert one.page.evaluate(focused) == name
        monitor.record({n: values[-400:] for n, values in table.items()})  # it recovers, and all change places
        one.refresh()
        assert one.names()[0] != last
        assert abs(row.bounding_box()["y"] - before) < 1
        assert one.page.evaluate(focused) == name


def test_texts_of_clients_stay_text(look):
    """A feature called <script>, a category that is an image and such classes are shown as they are written."""
    rng = np.random.default_rng(2)
    table = {
        EVIL: rng.normal(0, 1, 2_000),
        "kind": rng.choice([EVIL_CATEGORY, "plain"], 2_000),
        "answer": rng.choice([f"{EVIL_CATEGORY}0", "no"], 2_000),
    }
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table, prediction="answer"))
    shifted = {EVIL: rng.normal(3, 1, 500), "kind": [EVIL_CATEGORY] * 400 + ["\u202enew\u0000"] * 100}
    monitor.record(shifted, predictions=[f"{EVIL_CATEGORY}0"] * 500)
    with served(app) as address:
        one = look().go(address)
        assert set(one.names()) == {EVIL, "kind", "prediction"}
        for row in one.page.locator(".row").all():
            row.click()
        for summary in one.page.locator("summary").all():
            summary.click()
        one.has(EVIL_CATEGORY, ".detail")
        one.has(f"{EVIL_CATEGORY}0", ".output")
        one.has(EVIL, ".saying")
        assert one.page.locator("main img, main script, header script").count() == 0


def test_names_of_the_languages_own_are_names(look):
    """Features and categories called as what every object of JavaScript has are features and categories."""
    names = ["constructor", "toString", "__proto__", "hasOwnProperty"]
    rng = np.random.default_rng(9)
    table = {"kind": rng.choice(names, 2_000), **{name: rng.normal(0, 1, 2_000) for name in names}}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table))
    monitor.record({name: values[:500] for name, values in table.items()})
    with served(app) as address:
        one = look().go(address)
        assert set(one.names()) == {"kind", *names}
        one.page.locator(".row", has_text="kind").click()
        one.page.locator(".cats li").first.wait_for()
        assert set(one.page.locator(".cats .what:not(.special)").all_inner_texts()) == set(names)
        titles = one.page.locator(".cats .what").evaluate_all("nodes => nodes.map((node) => node.title).join()")
        assert "function" not in titles
        assert "[object" not in titles


def test_two_hundred_features(look):
    """Of 200 features only those in view are drawn; a filter finds the others, and the worst is first."""
    rng = np.random.default_rng(4)
    table = {f"feature_{i:03}": rng.normal(0, 1, 1_000) for i in range(200)}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table))
    monitor.record({name: values[:500] + 2 * (name == "feature_123") for name, values in table.items()})
    with served(app) as address:
        one = look().go(address)
        assert one.page.locator(".feature").count() == 200
        assert one.names()[0] == "feature_123"
        one.page.locator(".mini svg").first.wait_for()
        assert one.page.locator(".mini svg").count() < 60
        one.page.locator(".feature").last.scroll_into_view_if_needed()
        one.page.locator(".feature").last.locator(".mini svg").wait_for()
        one.page.get_by_label("Filter the features by name").fill("_19")
        assert len(one.names()) == 10
        one.has("10 of 200", ".count")
        one.page.get_by_label("Filter the features by name").fill("nothing like it")
        one.has("No feature fits the filter.")
        one.page.get_by_label("Filter the features by name").fill("")
        one.page.get_by_label("drifted only").check()
        assert one.names() == ["feature_123"]
        one.refresh()
        assert one.names() == ["feature_123"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (0, ["0 of 200 rows; nothing is said before that"]),
        (87, ["87 of 200 rows; nothing is said before that", "nothing is said below 200 rows"]),
    ],
)
def test_too_few_rows_are_said(look, rows, said):
    """Before there are rows enough the page says how many there are of how many, and shows no number of drift."""
    table = {"x": np.arange(1_000.0), "kind": ["a", "b"] * 500}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table))
    monitor.record({name: values[:rows] for name, values in table.items()})
    with served(app) as address:
        one = look().go(address)
        for text in said:
            one.has(text)
        for row in one.page.locator(".row").all():
            assert row.locator(".psi span").last.inner_text() == "\N{EN DASH}"
            assert row.locator(".pill").inner_text() == "waiting"
        one.page.locator(".row").first.click()
        one.has(f"{rows} of 200 rows with a value; nothing is said before that.", ".detail")


def test_without_a_reference_it_is_said(look):
    """Without a reference the page says what is missing and how to make it, and shows what is counted all the same."""
    app, monitor = app_of(None)
    monitor.record({"x": [1.0] * 30}, predictions=["yes"] * 20 + ["no"] * 10, confidences=[0.9] * 30)
    with served(app) as address:
        one = look().go(address)
        one.has("No reference", ".saying")
        one.has("ReferenceProfile.fit", ".saying")
        one.has("66.7 %", ".output")
        assert one.page.locator(".feature").count() == 0


def test_what_is_wrong_is_said(look):
    """Features that never came, rows that were lost and what is degraded are said at the top."""
    table = {"x": np.arange(1_000.0), "never": np.arange(1_000.0)}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table))
    monitor.record({"x": table["x"][:300]})
    monitor.engine.lose(3)
    app.state.modelwatch._sharing.publisher.degraded.begin("space", "full")
    with served(app) as address:
        one = look().go(address)
        one.has("1 feature has never arrived: never", ".notices")
        one.has("3 rows could not be counted", ".notices")
        one.has("modelwatch is degraded: There is no room", ".notices")
        one.page.locator(".row", has_text="never").click()
        one.has("No row has brought this feature so far", ".detail")


def test_several_models_can_be_chosen(look):
    """Each model of the app has a button, and an address of its own that can be sent to somebody."""
    app, _ = app_of(modelwatch.ReferenceProfile.fit({"x": np.arange(1_000.0)}))
    settings = modelwatch.Settings(page=True)
    modelwatch.instrument(app, model_name="a & b", routes=["/other"], settings=settings)
    with served(app) as address:
        one = look().go(address)
        one.page.get_by_role("button", name="a & b").click()
        one.has("a & b", "h1")
        assert one.page.get_by_role("button", name="a & b").get_attribute("aria-current") == "true"
        assert one.page.url.endswith("#a%20%26%20b")
        again = look()
        again.page.goto(one.page.url)
        again.has("a & b", "h1")


@pytest.mark.parametrize("hash_", ["#100%", "#%zz", "#nobody", "#__proto__"])
def test_whatever_stands_in_the_address_the_page_is_shown(look, drifting, hash_):
    """An address that names no model, or is none at all, shows the first one."""
    one = look()
    one.page.goto(f"{drifting}/modelwatch{hash_}")
    one.has(NAME["model_name"], "h1")
    one.page.evaluate("location.hash = '#%'")
    one.refresh()


def test_which_of_the_models_have_drifted_is_seen_at_once(look):
    """Whichever model is looked at, the button of each says how many of its features have drifted."""
    reference = modelwatch.ReferenceProfile.fit({"x": np.arange(1_000.0)})
    app, _ = app_of(reference)
    settings = modelwatch.Settings(page=True)
    other = modelwatch.instrument(app, model_name="other", reference=reference, routes=["/other"], settings=settings)
    with served(app) as address:
        one = look().go(address)
        assert one.page.locator("#models button").all_inner_texts() == ["m", "other"]
        other.record({"x": [1.0] * 500})
        one.refresh()
        assert one.page.locator("#models button").all_inner_texts() == ["m", "other (1)"]
        one.has("m", "h1")


def test_it_finds_its_data_below_a_prefix(look):
    """Wherever a proxy or another app has put it, the page asks for its data beside itself."""
    app, _ = app_of(None)
    outer = FastAPI()
    outer.mount("/deep/down", app)
    with served(outer) as address:
        one = look().go(f"{address}/deep/down")
        one.page.goto(f"{address}/deep/down/modelwatch?from=a-mail#m")
        one.has("No reference")
        assert {url.removeprefix(address) for url in one.asked if "data" in url} == {"/deep/down/modelwatch/data.json"}


def test_noise_looks_like_noise(look, drifting):
    """The course of a PSI far below its noise floor stays at the bottom, and that of one far above fills the room."""
    one = look().go(drifting)
    course = "({}).querySelector('.line').getAttribute('d').match(/ [0-9.]+/g).map(Number)"
    low = one.page.evaluate(course.format("spark([0.001, 0.002, 0.001], '', 3 * 0.01)"))
    high = one.page.evaluate(course.format("spark([0.1, 0.2, 0.1], '', 3 * 0.01)"))
    assert min(low) > 25  # of 30, from above
    assert min(high) < 5
    unknown = one.page.evaluate(course.format("spark([0.1, 0.2, 0.1], '', 3 * null)"))
    assert unknown == high


def test_the_chosen_one_of_many_models_is_in_view(look):
    """Of forty models the button of the chosen one is in view, and keeps the focus of who chose it by the keyboard."""
    app = FastAPI()
    settings = modelwatch.Settings(page=True)
    for i in range(40):
        modelwatch.instrument(app, model_name=f"a model {i:02}", routes=[f"/{i}"], settings=settings)
    with served(app) as address:
        one = look(viewport=PHONE)
        one.page.goto(f"{address}/modelwatch#a%20model%2037")
        one.has("a model 37", "h1")
        box = one.page.locator("[aria-current]").bounding_box()
        assert 0 <= box["x"] <= PHONE["width"] - box["width"]
        one.page.locator("[aria-current]").focus()
        one.page.keyboard.press("Tab")
        one.page.keyboard.press("Enter")
        one.has("a model 38", "h1")
        one.refresh()
        assert one.page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
        assert one.page.evaluate("document.activeElement.title") == "a model 38"


def test_the_head_covers_nothing_that_has_the_focus(look, drifting):
    """Who goes back through the features by the keyboard sees each of them below the head of the page."""
    one = look(viewport={"width": 1280, "height": 400}).go(drifting)
    one.page.locator(".row").last.focus()
    for _ in range(8):
        one.page.keyboard.press("Shift+Tab")
        below = one.page.evaluate("document.querySelector('.top').getBoundingClientRect().bottom")
        assert one.page.evaluate("document.activeElement.getBoundingClientRect().top") >= below


def test_another_reference_has_other_features(look):
    """After a reload what was open stays open if it is still there, and is never another feature."""
    rng = np.random.default_rng(8)
    table = {name: rng.normal(0, 1, 1_000) for name in ("first", "second", "third")}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table, features=["first", "second"]))
    with served(app) as address:
        one = look().go(address)
        one.page.locator(".row", has_text="first").click()
        one.page.locator(".row", has_text="second").click()
        monitor.reload(modelwatch.ReferenceProfile.fit(table, features=["third", "second"]))
        one.refresh()
        assert one.names() == ["third", "second"]
        assert one.page.locator(".row[aria-expanded=true] .name").all_inner_texts() == ["second"]


def test_an_answer_that_is_not_understood_is_said(look, monkeypatch):
    """A tab that was left open until the service is of another version says so, and nothing of the network."""
    app, _ = app_of(modelwatch.ReferenceProfile.fit({"x": np.arange(1_000.0)}))
    with served(app) as address:
        one = look().go(address)
        with monkeypatch.context() as patch:
            patch.setattr("modelwatch.page.serving.state_of", lambda *_, **__: {"models": [{}], "library": {}})
            one.refresh()
            one.has("this page does not understand the answer", "#stale")
        one.refresh()
        assert one.page.locator("#stale").is_hidden()
    one.errors.clear()  # the page says in the console what it did not understand


@pytest.mark.swallows
def test_it_goes_on_when_the_service_fails(look, monkeypatch):
    """When the data do not come the page keeps what it has, says since when, and takes up again when they come."""
    app, monitor = app_of(modelwatch.ReferenceProfile.fit({"x": np.arange(1_000.0)}))
    monitor.record({"x": np.arange(300.0) * 3})
    with served(app) as address:
        one = look().go(address)
        with monkeypatch.context() as patch:
            patch.setattr("modelwatch.page.serving.state_of", None)
            one.refresh()
            one.has(re.compile(r"What you see is from \d\d:\d\d:\d\d: the service answers 500\."), "#stale")
            assert one.page.locator("#fresh").get_attribute("class") == "fresh late"
            assert one.names() == ["x"]
            first = one.page.evaluate("page.delay")
            one.refresh()
            assert one.page.evaluate("page.delay") == 2 * first
        monitor.record({"x": np.arange(100.0)})
        one.page.get_by_role("button", name="Try now").click()
        one.has("400", ".row .rows")
        assert one.page.locator("#stale").is_hidden()
        assert one.page.evaluate("page.delay") < first
    one.errors[:] = [error for error in one.errors if "500" not in error]  # that the browser itself notes


def test_it_goes_on_when_the_service_is_gone(look):
    """When the service goes away and comes back, the page says so and is up to date again, without a reload."""
    app, monitor = app_of(modelwatch.ReferenceProfile.fit({"x": np.arange(1_000.0)}))
    monitor.record({"x": np.arange(300.0) * 3})
    with served(app) as address:
        one = look().go(address)
    one.page.evaluate("page.ask()")
    one.has("the service cannot be reached", "#stale")
    monitor.record({"x": np.arange(100.0)})
    with served(app, int(address.rpartition(":")[2])):
        one.page.evaluate("page.ask()")
        one.has("400", ".row .rows")
        assert one.page.locator("#stale").is_hidden()
    one.errors[:] = [error for error in one.errors if "ERR_CONNECTION_REFUSED" not in error]  # as above


def test_nobody_asks_while_nobody_looks(look, drifting):
    """A page that is hidden asks for nothing; when it is looked at again it asks at once."""
    one = look().go(drifting)
    hide = "hidden => {{ Object.defineProperty(document, 'hidden', {{ value: hidden, configurable: true }});" \
           "document.dispatchEvent(new Event('visibilitychange')); }}"  # fmt: skip
    one.page.evaluate(hide.replace("{{", "{").replace("}}", "}"), True)
    asked = len(one.asked)
    one.page.evaluate("page.ask()")
    assert one.page.evaluate("page.busy") is False
    assert len(one.asked) == asked
    with one.page.expect_response("**/data.json"):
        one.page.evaluate(hide.replace("{{", "{").replace("}}", "}"), False)


@pytest.mark.parametrize("password", ["s3cret", "wrong"])
def test_a_browser_brings_the_token_as_a_password(look, password):
    """With a token the browser asks its user for a password, which is the token; page and data then come by it."""
    app, _ = app_of(None, metrics_token="s3cret")
    with served(app) as address:
        one = look(http_credentials={"username": "me", "password": password})
        if password == "s3cret":
            one.go(address).has("No reference")
            one.refresh()
            return
        assert one.page.goto(f"{address}/modelwatch").status == 401
        assert "the password" in one.page.locator("body").inner_text()
    one.errors[:] = [error for error in one.errors if "401" not in error]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_either_light(look, drifting, scheme):
    """Text stands out from what is behind it by 4.5 to 1 at least, in light and in dark colours."""
    one = look(color_scheme=scheme).go(drifting)
    one.page.locator(".row").first.click()
    one.page.locator(".detail dt").first.wait_for()
    background = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    pale = one.page.evaluate(CONTRASTS)
    assert len(pale) > 50
    assert (
        sorted(
            {(round(contrast(front, behind), 2), text) for text, front, behind in pale if contrast(front, behind) < 4.5}
        )
        == []
    )


# Text, its colour and the colour behind it, of everything that has a text of its own.
CONTRASTS = """() => [...document.querySelectorAll("body *")].filter((node) => {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  const shown = node.checkVisibility() && node.getBoundingClientRect().width > 1;
  return own && shown && !["SCRIPT", "STYLE", "title"].includes(node.tagName);
}).map((node) => {
  const style = getComputedStyle(node);
  const colour = (one) => getComputedStyle(one).backgroundColor;
  let behind = node;
  while (behind && colour(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [node.textContent.trim().slice(0, 40), node instanceof SVGElement ? style.fill : style.color, colour(behind)];
})"""


def luminance(colour):
    """Relative luminance of "rgb(…)", as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(front, behind):
    light, dark = sorted((luminance(front), luminance(behind)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    "viewport",
    [{"width": 320, "height": 640}, PHONE, {"width": 768, "height": 1000}, {"width": 870, "height": 700},
     {"width": 1000, "height": 700}],
)  # fmt: skip
def test_it_fits_a_phone(look, drifting, viewport):
    """From 320 pixels on nothing is wider than the screen, with everything open, and nothing is cut off or left out."""
    one = look(viewport=viewport, has_touch=viewport is PHONE).go(drifting)
    for what in ("psi", "noise", "distance", "missing", "rows"):
        assert one.page.locator(f".row .{what}").first.is_visible()
    for row in one.page.locator(".row").all():
        row.click()
    for summary in one.page.locator("summary").all():
        summary.click()
    one.page.locator(".numbers td").last.wait_for()
    assert one.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    wide = one.page.evaluate(
        "width => [...document.querySelectorAll('main *')].filter((node) => node.checkVisibility()"
        " && node.getBoundingClientRect().right > width + 0.5).map((node) => node.outerHTML.slice(0, 100))",
        viewport["width"],
    )
    assert wide == []


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_texts_have_the_room_they_need(look, viewport):
    """Neither a category of 5,000 characters nor a long number cuts off, or breaks up, the numbers beside it."""
    table = {"kind": ["y" * 5_000, "yes"] * 500, "at": [1_700_000_000_123.0, 1_700_000_000_124.0] * 500}
    table |= {"x": np.arange(1_000.0)}
    app, monitor = app_of(modelwatch.ReferenceProfile.fit(table))
    monitor.record({**table, "x": np.where(np.arange(1_000) < 230, 0.0, table["x"])})
    with served(app) as address:
        one = look(viewport=viewport).go(address)
        for row in one.page.locator(".row").all():
            row.click()
        for summary in one.page.locator("summary").all():
            summary.click()
        one.has("1,700,000,000,124", ".numbers")
        one.has("12.5 %", ".axis")
        assert set(one.page.locator(".numbers td:last-child").evaluate_all(LINES)) == {1}
        assert one.page.evaluate(CUT) == []
        assert "PSI 0.000 noise floor 0." in one.page.locator(".row", has_text="kind").aria_snapshot()


# Of how many lines each is.
LINES = """nodes => nodes.map((node) => {
  const range = document.createRange();
  range.selectNodeContents(node);
  return new Set([...range.getClientRects()].map((one) => one.top)).size;
})"""

# Texts of a chart that go beyond it.
CUT = """() => [...document.querySelectorAll("svg")].flatMap((svg) => {
  const room = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const { left, right } = text.getBoundingClientRect();
    return left < room.left - 0.5 || right > room.right + 0.5;
  }).map((text) => text.textContent);
})"""


def test_nothing_jumps(look, drifting):
    """Nothing shifts under the eyes, neither while the page loads nor when it updates."""
    one = look()
    one.page.add_init_script(
        "window.shifted = 0; new PerformanceObserver((list) => list.getEntries().forEach((entry) => {"
        " if (!entry.hadRecentInput) window.shifted += entry.value; }))"
        ".observe({ type: 'layout-shift', buffered: true });"
    )
    one.go(drifting)
    for _ in range(3):
        one.refresh()
    assert one.page.evaluate("shifted") < 0.01


def test_without_chromium_a_test_says_what_to_install(monkeypatch):
    """Where there is no Chromium the tests fail, with a sentence that says what to install."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        chromium.program()


def test_a_request_can_bring_the_name(look):
    """From the request's JSON to the page: a field with such a name is captured, counted and shown as text."""
    rng = np.random.default_rng(6)
    row = create_model("Hostile", x=(float, Field(alias=EVIL)))
    app, _ = app_of(modelwatch.ReferenceProfile.fit({EVIL: rng.normal(0, 1, 1_000)}), min_rows=10)

    def predict(rows):
        return [1.0] * len(rows)

    predict.__annotations__["rows"] = list[row]
    app.post("/predict")(predict)
    with served(app) as address:
        post(address, [[{EVIL: 9.0}] * 50], "/predict")
        one = look().go(address)
        assert one.names() == [EVIL]
        one.has("1 of 1 feature drifted", ".saying")
