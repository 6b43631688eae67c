"""The report: what the page says, that hostile texts stay texts, and that it works in a browser without any network."""

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

import dsenv
from dsenv.errors import InputError
from dsenv.evaluation import Failure, evaluate, run_agent, save_results
from dsenv.finetuning import TargetResult, TargetRun
from dsenv.report import write_report
from dsenv.report.cluster_map import HEIGHT, WIDTH, spread
from dsenv.report.curve import nice_ticks
from dsenv.report.markup import attribute, clean, embedded, isolated, shortened
from dsenv.report.run_facts import RunFacts
from dsenv.run_folder import RunFolder
from dsenv.search import SEARCHES
from dsenv.selection import Selection
from dsenv.training import Fit
from tests.conftest import tiny_splits
from tests.test_cli import dsenv as dsenv_command

ID = "DataSelect-Synthetic-v0"
HOSTILE = (
    "<script>window.broken = true</script>",
    "</script><img src=x onerror=alert(1)>",
    "quotes \" ' ` & <!-- -->",
    "شكرا \u202e turned \u2067 round",
    "nul \x00 and bell \x07",
    "emoji 🧪 family 👩‍👧",
    "line\u2028separator ${title} $name",
)


def ordered(observation, info):
    """A policy whose picks have an order: the clusters that are left, from the last one, one pick each."""
    left = np.flatnonzero(info["action_mask"])
    return int(left[int(observation[-2] * 64) % len(left)])


def target(method, rows, values, name="minilm"):
    fit = Fit(seconds=2.0, steps=10, rows_seen=rows, tokens_seen=20 * rows, loss=0.5)
    runs = [TargetRun(seed, value, value - 0.1, fit, 0.1) for seed, value in enumerate(values)]
    return TargetResult(method, rows, (0.5, 0.5), {"target": name, "method": "full"}, tuple(runs))


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A run of the synthetic task with everything that a run can hold."""
    run = RunFolder(tmp_path_factory.mktemp("full") / "run")
    task = dsenv.load_task("synthetic")
    run.keep_task(task)
    for method in ("random", "greedy", "swap"):
        run.keep_selection(dsenv.select(task, method=method, evaluations=600))
        run.keep_command(["dsenv", "select", "synthetic", "--method", method, "--run", "run"])
    for method, values in (("swap", (0.8, 0.82, 0.84)), ("random", (0.7, 0.71, 0.72)), ("all rows", (0.81, 0.84, 0.83))):
        run.keep_target(target(method, 576, values))
    rows = []
    for seed in range(3):
        rows += run_agent(SEARCHES["annealing"], ID, name="annealing", evaluations=[64, 128], seed=seed, instance=seed)
        rows += evaluate(ordered, ID, agent="in_order", seeds=[seed], evaluations=100, instance=seed)
    failed = Failure(ID, {"instance": 0}, "broken", 0, 64, "ValueError: <b>nothing</b>")
    save_results([*rows, failed], run.path / "results.jsonl")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A run whose labels, texts, methods and commands try to break out."""
    splits = tiny_splits()
    names = {"good": HOSTILE[0], "bad": HOSTILE[2], "so": HOSTILE[3]}
    for columns in splits.values():
        columns["label"] = [names[label] for label in columns["label"]]
        columns["text"] = [f"{HOSTILE[i % len(HOSTILE)]} {text}" for i, text in enumerate(columns["text"])]
    dataset = dsenv.TextDataset.from_columns(splits, name="</title><script>window.broken = true</script>")
    held = {"encoder": "tfidf", "clusters": 8, "cache_dir": tmp_path_factory.mktemp("cache")}
    task = dsenv.build_task(dataset, **held)
    run = RunFolder(tmp_path_factory.mktemp("hostile") / "run")
    run.keep_task(task)
    found = dsenv.select(task, method="greedy", budget=0.2, evaluations=100)
    run.keep_selection(dataclasses.replace(found, method=HOSTILE[1]))
    run.keep_selection(dsenv.select(task, method="random", budget=0.2))
    run.keep_command(["dsenv", "select", HOSTILE[1], HOSTILE[0]])
    run.keep_target(target(HOSTILE[0], 48, (0.5,), name="models/<i>bert</i>"))
    write_report(run, dataset=dataset)
    return run


class Page(HTMLParser):
    """The page's tags, attributes and the texts outside of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.ids = [], [], [], []
        self._inside = ""
        self.feed(text)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style", "title") else ""
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside not in ("style", "title"):
            self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(run):
    return Page((run.path / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_what_the_run_holds(full_run):
    page, facts = page_of(full_run), RunFacts(full_run)
    best = facts.scored["swap-0"].reward
    assert facts.chosen == "swap-0" and facts.metric == "brier_skill" and facts.problem == ID
    assert abs(best - full_run.selections["swap-0"].score) < 1e-9
    for said in (
        "synthetic", "576", "of 12,000 in the pool", "4.8%", "Brier skill", f"{best:.3f}",
        "highest Φ of the run's 3 selections",
        "dsenv select synthetic --method swap --run run", facts.task.digest, "0.820", "[0.770, 0.870]", "-0.007", "ValueError",
        "in_order", "64 picks in order", "has no order",
    ):  # fmt: skip
        assert said in page.text, said
    assert len(page.named("circle")) == 2 * 48 == 2 * facts.clustering.clusters
    assert len([one for one in page.named("article") if one.get("class") == "cluster"]) == 48
    assert {one["id"] for one in page.named("section") if "id" in one} == {
        "headline", "clusters-section", "picks", "learning", "leaderboard", "target", "reproduce",
    }  # fmt: skip
    assert len(page.ids) == len(set(page.ids))
    assert len(page.named("caption")) == len(page.named("table")) == 2
    assert "No agent has been evaluated" not in page.text and "No target is fine-tuned" not in page.text
    assert "Example texts are not shown" in page.text


def test_the_leaderboard_has_every_line_best_first(full_run):
    lines = RunFacts(full_run).lines
    names = {(line.kind, line.name) for line in lines}
    assert {("selection", f"{name}-0") for name in ("random", "greedy", "swap")} <= names
    assert {("agent", "annealing"), ("agent", "in_order"), ("baseline", "all rows"), ("bundled", "guided")} <= names
    scores = [line.normalised for line in lines]
    assert None not in scores and scores == sorted(scores, reverse=True)
    proportional = next(line for line in lines if line.name == "proportional picks")
    assert abs(proportional.normalised) < 1e-6
    assert next(line for line in lines if (line.kind, line.name) == ("agent", "annealing")).seeds == 3
    bundled = {line.evaluations for line in lines if line.kind == "bundled"}
    assert bundled == {256}  # the budget of the summary that is nearest to the 600 evaluations spent here


def test_target_differences_are_paired_by_seed(full_run):
    facts = RunFacts(full_run)
    found = facts.measures(next(one for one in facts.targets.values() if one.method == "random"))["accuracy"]
    assert found.value == pytest.approx(0.71) and found.difference == pytest.approx(0.71 - 0.82 - 0.02 / 3)
    assert found.interval.low < 0.71 < found.interval.high
    whole = facts.measures(next(one for one in facts.targets.values() if one.method == "all rows"))["accuracy"]
    assert whole.difference is None


def test_the_page_needs_nothing_beside_it(full_run, hostile_run):
    for run in (full_run, hostile_run):
        text = (run.path / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        assert not re.search(r"https?://|url\(|@import|//cdn", text)
        assert not page.named("link") and not page.named("img") and not page.named("iframe")
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        policy = next(one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy")
        assert len(page.scripts) == 2 and "default-src 'none'" in policy
        digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
        data = json.loads(page.scripts[0])
        shapes = {len(data["x"]), len(data["y"]), len(data["r"]), *map(len, data["share"])}
        assert len(shapes) == 1 and len(data["share"]) == len(data["selections"]) == len(run.selections)


def test_hostile_texts_are_shown_as_texts(hostile_run):
    page = page_of(hostile_run)
    assert len(page.named("script")) == 2 and not page.named("img")
    assert (
        HOSTILE[0] in page.text
        and HOSTILE[2] in page.text
        and HOSTILE[4].replace("\x00", "␀").replace("\x07", "␇") in page.text
    )
    assert HOSTILE[5] in page.text and "${title} $name" in page.text and "<i>bert</i>" not in page.text
    assert "\x00" not in (hostile_run.path / "report.html").read_text(encoding="utf-8")
    labels = [one["aria-label"] for _, one in page.tags if one.get("role") == "option"]
    assert labels and not any("\u202e" in label or "\u2067" in label for label in labels)
    marked = [one for one in page.named("li") if "data-taken" in one]
    assert any(one["data-taken"] for one in marked) and not all(one["data-taken"] for one in marked)


def test_escapes():
    for text in HOSTILE:
        assert re.fullmatch(r"<bdi>[^<>\x00]*</bdi>", isolated(text)), text
        assert not set(attribute(text)) & set("<>\"'\u202e\u2067\x00"), text
        found = embedded({"text": text})
        assert not set(found) & set("<>&\u2028") and json.loads(found)["text"] == text
        clean(text).encode("utf-8")
    assert shortened("a  b\n c", 20) == "a b c" and shortened("abcdef", 4) == "abc…"


def test_a_run_without_selections_says_what_adds_them(tmp_path, tiny_task):
    run = RunFolder(tmp_path / "bare")
    run.keep_task(tiny_task)
    text = page_of_path(write_report(run.path, out=tmp_path / "out.html")).text
    for command in (
        "dsenv select bare/task.npz --method swap --run bare",
        "dsenv finetune bare/selections/swap-0.json DATASET",
        "Nothing is selected yet",
        "No command was kept",
        "dsenv evaluate guided --seeds 3 --run bare",
    ):
        assert command in text, command


def page_of_path(path):
    return Page(path.read_text(encoding="utf-8"))


def test_metrics_that_runs_lack_are_left_out(tmp_path, tiny_task):
    run = RunFolder(tmp_path / "run")
    run.keep_task(tiny_task)
    result = target("swap", 12, (0.5,))
    result = dataclasses.replace(result, runs=(dataclasses.replace(result.runs[0], macro_f1=None, loss=1.25),))
    facts = RunFacts(run)
    assert set(facts.measures(result)) == {"accuracy", "loss"} and facts.measures(result)["loss"].interval is None


def test_selections_of_another_instance_or_task_are_left_out(tmp_path):
    run = RunFolder(tmp_path / "run")
    task = dsenv.load_task("synthetic")
    run.keep_task(task)
    run.keep_selection(dsenv.select(task, method="proportional"))
    run.keep_selection(dsenv.select(task.at_instance(3), method="uniform", seed=1))
    facts = RunFacts(run)
    assert facts.task.instance == 3 and facts.left_out == ["proportional-0"] and list(facts.selections) == ["uniform-1"]
    assert "proportional-0" in page_of_path(write_report(run)).text


def test_a_variant_is_found_again(tmp_path):
    run = RunFolder(tmp_path / "run")
    task = dsenv.load_task("googleplay:noisy")
    run.keep_task(task)
    run.keep_selection(dsenv.select(task, method="proportional"))
    facts = RunFacts(run)
    assert facts.task.name == "googleplay:noisy" and facts.problem == "DataSelect-GooglePlayNoisy-v0"
    assert "Reference scores" in page_of_path(write_report(run)).text


def test_metric_clusters_and_order_are_recognised(tmp_path):
    run = RunFolder(tmp_path / "run")
    task = dsenv.load_task("googleplay")
    run.keep_task(task)
    run.keep_selection(
        dsenv.select(task, method="greedy", evaluations=300, metric="accuracy", unit="cluster", clustering="kmeans")
    )
    facts = RunFacts(run)
    assert facts.metric == "accuracy" and np.array_equal(facts.clustering.cluster, task.clustering("kmeans").cluster)
    assert not any(line.kind == "bundled" or line.normalised is not None for line in facts.lines)
    assert "not comparable" in page_of_path(write_report(run)).text


def test_the_command_line_writes_it(tmp_path):
    dsenv_command("select", "synthetic", "--method", "greedy", "--evaluations", 100, "--run", "run", cwd=tmp_path)
    assert "run/report.html: open it" in dsenv_command("report", "run", cwd=tmp_path)
    page = page_of_path(tmp_path / "run" / "report.html")
    assert "dsenv select synthetic --method greedy" in page.text and "greedy-0" in page.text
    assert "elsewhere.html" in dsenv_command("report", "run", "--out", "elsewhere.html", cwd=tmp_path)
    assert "is no run" in dsenv_command("report", ".", cwd=tmp_path, ok=False)
    assert "no dataset 'nothing'" in dsenv_command("report", "run", "--dataset", "nothing", cwd=tmp_path, ok=False)


def test_errors_name_what_is_wrong(tmp_path, tiny, tiny_task):
    with pytest.raises(InputError, match="no run"):
        write_report(tmp_path)
    run = RunFolder(tmp_path / "run")
    run.keep_task(tiny_task)
    with pytest.raises(InputError, match="fingerprint"):
        write_report(run, dataset=dsenv.synthetic_texts(rows=60, held_out=30))
    assert not (run.path / "report.html").exists()
    assert write_report(run, dataset=tiny) == run.path / "report.html"
    (run.path / "selections").mkdir()
    (run.path / "selections" / "broken.json").write_text("{")
    with pytest.raises(InputError, match="broken"):
        write_report(run)


def test_circles_stay_inside_and_apart():
    rng = np.random.default_rng(0)
    radii = rng.uniform(5, 20, 60)
    for positions in (rng.normal(size=(60, 2)), np.zeros((60, 2)), np.repeat(rng.normal(size=(60, 1)), 2, 1)):
        centres = spread(positions, radii)
        assert (centres >= radii[:, None]).all() and (centres <= np.array([WIDTH, HEIGHT]) - radii[:, None]).all()
        gap = np.sqrt(((centres[:, None] - centres) ** 2).sum(2)) - radii[:, None] - radii
        np.fill_diagonal(gap, 0)
        assert gap.min() > -1
    assert np.isfinite(spread(np.zeros((1, 2)), np.array([10.0]))).all()


def test_ticks_are_round():
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.03, 0.011) == [-0.03, -0.02, -0.01, 0.0, 0.01]


def test_rows_are_named_by_their_ids(tmp_path, tiny, tiny_task):
    run = RunFolder(tmp_path / "run")
    run.keep_task(tiny_task)
    run.keep_selection(Selection.from_rows(tiny_task, np.array([5, 3, 9]), "own"))
    facts = RunFacts(run)
    assert facts.numbers(facts.selections["own-0"]).tolist() == [5, 3, 9] and facts.taken["own-0"].sum() == 3
    text = write_report(run, dataset=tiny).read_text(encoding="utf-8")
    assert tiny.train.texts[tiny_task.train_rows[5]] in text


def missing(what):
    """Skip where a program is missing; fail where the environment says that it has to be there."""
    if os.environ.get("DSENV_REQUIRE_BROWSER"):
        pytest.fail(f"{what} is missing, and DSENV_REQUIRE_BROWSER is set")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright (the extra browser)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        missing("Chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Open pages of runs and fail for anything in the console, any script error and any request but the page itself."""
    wrong, contexts = [], []

    def open_page(run, width=1280, scripts=True, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, java_script_enabled=scripts, **options)
        contexts.append(context)
        tab = context.new_page()
        address = (run.path / "report.html").resolve().as_uri()
        tab.on("console", lambda message: wrong.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        tab.on("request", lambda request: wrong.append(f"request: {request.url}") if request.url != address else None)
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


SMALL_TEXTS = """() => [...document.body.querySelectorAll("*")].filter(element => {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  return own && !["SCRIPT", "STYLE"].includes(element.tagName) && parseFloat(getComputedStyle(element).fontSize) < 12;
}).map(element => element.outerHTML.slice(0, 100))"""
CONTRAST = """() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(value => value / 255);
    const [r, g, b] = parts.map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
  };
  return [...document.body.querySelectorAll("*")].filter(element =>
    element.checkVisibility() && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
  ).map(element => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 80)];
  }).filter(found => found[0] < 4.5);
}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("which", ["full_run", "hostile_run"])
def test_layout(opened, request, which, width):
    tab = opened(request.getfixturevalue(which), width)
    tab.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert tab.evaluate(SMALL_TEXTS) == []
    assert tab.locator("#map .circle").count() == tab.locator("#clusters .cluster").count() > 0
    assert tab.evaluate("window.broken") is None
    overlapping = tab.evaluate(
        """() => { const boxes = [...document.querySelectorAll(".tick")].map(tick => tick.getBoundingClientRect());
        return boxes.filter((a, i) => boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right
          && a.top < b.bottom && b.top < a.bottom)).length }"""
    )
    assert overlapping == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(opened, full_run, scheme):
    tab = opened(full_run, color_scheme=scheme)
    assert tab.evaluate(CONTRAST) == []


@pytest.mark.browser
def test_hover_shows_a_cluster_and_a_click_keeps_it(opened, full_run):
    tab = opened(full_run)
    first = tab.locator("#panel h3").inner_text()
    tab.locator("#map").scroll_into_view_if_needed()
    other = next(k for k in range(48) if f"Cluster {k}" != first)
    circle = tab.locator(f"#circle-{other} .outer")
    circle.hover()
    assert tab.locator("#panel h3").inner_text() == f"Cluster {other}"
    tab.mouse.move(5, 5)
    assert tab.locator("#panel h3").inner_text() == first
    circle.click()
    tab.mouse.move(5, 5)
    assert tab.locator("#panel h3").inner_text() == f"Cluster {other}"
    assert tab.locator("[aria-selected=true]").get_attribute("id") == f"circle-{other}"
    assert "mostly class" in tab.locator("#panel .size").inner_text()


@pytest.mark.browser
def test_tapping_shows_a_cluster(opened, full_run):
    tab = opened(full_run, 400, has_touch=True, is_mobile=True)
    tab.locator("#circle-7 .outer").tap()
    assert tab.locator("#panel h3").inner_text() == "Cluster 7"


@pytest.mark.browser
def test_the_selection_can_be_changed(opened, full_run):
    tab = opened(full_run)

    def discs():
        return tab.evaluate("[...document.querySelectorAll('.inner')].map(disc => disc.getAttribute('r'))")

    before, said = discs(), tab.locator("#says").inner_text()
    assert tab.locator("#panel .taken .current").inner_text().startswith("swap-0")
    tab.locator("#selection").select_option(label="random-0")
    assert discs() != before and tab.locator("#says").inner_text() != said
    assert tab.locator("#panel .taken .current").inner_text().startswith("random-0")
    facts = RunFacts(full_run)
    share = facts.taken["random-0"] / facts.clustering.sizes
    labels = tab.evaluate("[...document.querySelectorAll('.circle')].map(one => [one.dataset.cluster, one.ariaLabel])")
    assert all(label.endswith(f"{round(100 * share[int(k)])}% taken") for k, label in labels)
    tab.locator("#selection").select_option(label="swap-0")
    assert discs() == before


@pytest.mark.browser
def test_the_keyboard_reaches_every_cluster(opened, full_run):
    tab = opened(full_run)
    tab.locator("#selection").focus()
    tab.keyboard.press("Tab")
    start = tab.evaluate("document.activeElement.id")
    assert start.startswith("circle-") and tab.locator("#panel h3").inner_text() == f"Cluster {start.removeprefix('circle-')}"
    reached = {start}
    for key in [*["ArrowLeft"] * 9, "ArrowUp", *["ArrowRight"] * 9, "ArrowDown", "Home", "End"]:
        tab.keyboard.press(key)
        at = tab.evaluate("document.activeElement.id")
        assert tab.locator("#panel h3").inner_text() == f"Cluster {at.removeprefix('circle-')}"
        reached.add(at)
    assert len(reached) > 8 and at == "circle-47"
    assert tab.locator("[tabindex='0'].circle").count() == 1
    tab.keyboard.press("Tab")
    assert not tab.evaluate("document.activeElement.id").startswith("circle-")


@pytest.mark.browser
def test_hostile_texts_in_a_browser(opened, hostile_run):
    tab = opened(hostile_run)
    assert tab.evaluate("window.broken") is None
    assert tab.locator("#panel .texts li.yes").count() > 0
    assert tab.locator("#panel .texts li.yes .mark").first.inner_text() == "taken"
    assert "<script>" in tab.locator("#clusters").text_content()
    assert tab.locator("#selection option").first.text_content() != ""


@pytest.mark.browser
def test_without_scripts_everything_is_there(opened, full_run):
    tab = opened(full_run, scripts=False)
    assert tab.locator("#map circle.inner").first.get_attribute("r") is not None
    assert tab.locator("table").count() == 2 and "the list of all clusters below" in tab.locator("#panel").inner_text()
    tab.locator("#clusters summary").click()
    assert tab.locator("#cluster-0").is_visible()
