"""The playground in a real headless browser, against the Python models and tokenizer."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import axe_core_python
import numpy as np
import pytest
import test_report_page as report_page
import torch
from report_study import make_study
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_report_page import open_page
from tiny_model import write_model
from transformers import GPTNeoConfig, GPTNeoForCausalLM
from warm_start import interpreter

from tinycats.models.folders import load_causal_lm, load_tokenizer, save_policy, write_manifest
from tinycats.report import packed_model as packed
from tinycats.report import playground

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "workflow" / "resources" / "nano"
FACTORS = ("0", "6000")
needs_browser = report_page.pytestmark
browser = report_page.browser


def changed_copies(base: Path, folder: Path) -> dict[str, Path]:
    """Two folders of policies: the base with weights moved about as far as training moves them."""
    model, tokenizer = load_causal_lm(base)
    found = {}
    for number, factor in enumerate(FACTORS):
        torch.manual_seed(number)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1e-3 * torch.randn_like(weight))
        found[factor] = folder / f"kl={factor}"
        save_policy(model, tokenizer, found[factor])
    return found


def make_page(base: Path, policies: dict[str, Path], out: Path) -> Path:
    """By the program, as the rule calls it."""
    command = [
        *(interpreter(), str(ROOT / "workflow/scripts/make_playground.py"), "--study", "small"),
        *("--base-model", str(base), "--kl-factors", *policies, "--policies"),
        *(*map(str, policies.values()), "--prompt", "Once upon a time", "--out", str(out)),
    ]
    subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, check=True, timeout=120)
    return out


def test_a_damaged_model_makes_no_page(tmp_path, capfd):
    base = shutil.copytree(NANO, tmp_path / "base")
    write_manifest(base, {})
    with open(base / "model.safetensors", "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(subprocess.CalledProcessError):
        make_page(base, {"0": NANO}, tmp_path / "playground.html")
    assert f"error: {base}/model.safetensors: wrong bytes" in capfd.readouterr().err
    assert not (tmp_path / "playground.html").exists()


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    policies = changed_copies(NANO, folder)
    return policies, make_page(NANO, policies, folder / "playground.html")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model with the other activation, local attention and so few weights that it is quick."""
    folder = tmp_path_factory.mktemp("tiny")
    base = write_model(folder / "tiny")
    torch.manual_seed(3)
    config = GPTNeoConfig(
        vocab_size=len(load_tokenizer(base)),
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=5,
        max_position_embeddings=48,
        activation_function="gelu_new",
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoForCausalLM(config)
    with torch.no_grad():
        model.transformer.wte.weight[0] = 0  # so that stories seldom end before the context does
    model.save_pretrained(base)
    policies = changed_copies(base, folder)
    return base, policies, make_page(base, policies, folder / "playground.html")


def unpacked(base: Path, policies: dict[str, Path]) -> list[packed.Weights]:
    """Weights as the page has them, of the base and of every policy."""
    layers = len(packed.attention_layers(packed.read_json(base / "config.json")))
    vectors, matrices = packed.tensor_names(layers)
    exact = packed.read_weights(base, [*vectors, *matrices])
    _, rounded = packed.quantise_base(exact, matrices)
    found = [rounded]
    for folder in policies.values():
        policy = packed.read_weights(folder, [*vectors, *matrices])
        found.append(packed.quantise_policy(policy, exact, rounded, matrices)[1])
    return found


def in_torch(model, ids, weights: packed.Weights | None = None):
    """Log-probabilities of transformers' model, with its own weights or with others."""
    if weights is not None:
        tensors = {f"transformer.{name}": torch.tensor(w) for name, w in weights.items()}
        model.load_state_dict(tensors, strict=False)
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def in_page(browser, number: int, ids: list[int]) -> np.ndarray:
    script = "const [n, ids, done] = arguments; playground.logProbs(n, ids).then(done)"
    return np.array(browser.execute_async_script(script, number, ids))


def about(browser) -> dict:
    return json.loads(browser.execute_script("return document.getElementById('about').textContent"))


def press(browser, name: str) -> None:
    browser.find_element(By.ID, name).click()


def wait_until_told(browser) -> None:
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script(
            "return !!playground.session() && document.getElementById('tell').textContent !== 'Stop'"
        )
    )


def sides(browser) -> list[dict]:
    return browser.execute_script(
        "return playground.session().sides.map(s => ({tokens: s.tokens,"
        " text: s.panel.story.textContent, name: s.panel.heading.textContent}))"
    )


def set_value(browser, name: str, value: str) -> None:
    browser.execute_script(
        "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}));"
        "field.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )


@needs_browser
def test_nano_is_computed_as_in_python_and_within_the_stated_tolerance(browser, nano):
    policies, page = nano
    assert page.stat().st_size < playground.LIMIT
    open_page(browser, page)
    stated = about(browser)["tolerance"]
    cells = browser.find_elements(By.CSS_SELECTOR, "#tolerance td:nth-child(2)")
    assert [cell.text for cell in cells] == [f"{t['log_prob']:.2f}" for t in stated]
    tokenizer = load_tokenizer(NANO)
    texts = [playground.MEASURED_ON[2], "Hello", 'There are no cats in this story.\n\n"No!"']
    for number, (folder, weights) in enumerate(
        zip((NANO, *policies.values()), unpacked(NANO, policies), strict=True)
    ):
        model, _ = load_causal_lm(folder)
        exact = in_torch(model, tokenizer(texts[0]).input_ids)
        for text in texts:
            ids = tokenizer(text).input_ids
            shown = in_page(browser, number, ids)
            expected = in_torch(model, ids, weights)
            assert np.abs(shown - expected).max() < 1e-3
            if text == texts[0]:
                difference = np.abs(shown - exact)
                assert 1e-3 < difference.max() <= stated[number]["log_prob_any"] + 1e-3
                likely = np.maximum(shown, exact) >= np.log(0.01)
                assert difference[likely].max() <= stated[number]["log_prob"] + 1e-3


@needs_browser
def test_the_published_page_runs_the_default_study(browser):
    """docs/playground.html: its base model is nano, and its policies write about cats."""
    page = ROOT / "docs" / "playground.html"
    assert page.stat().st_size < 16_000_000
    open_page(browser, page)
    model, tokenizer = load_causal_lm(NANO)
    ids = tokenizer("Once upon a time there was a").input_ids
    names = browser.execute_script(
        "return JSON.parse(document.querySelector('#about').textContent).factors"
    )
    assert names == ["0", "1500", "6000"]
    expected = in_torch(model, ids)
    likely = expected > np.log(0.01)
    base, *policies = (in_page(browser, number, ids) for number in range(4))
    assert np.abs(base - expected)[likely].max() < 0.2
    cat = tokenizer(" cat").input_ids[0]
    chances = [np.exp(found[-1, cat]) for found in (base, *policies)]
    assert chances[0] < 0.02
    assert min(chances[1:]) > 0.05
    report = browser.find_element(By.CSS_SELECTOR, ".study a").get_attribute("href")
    assert report == (ROOT / "docs/ten-seed-study/report.html").as_uri()


@needs_browser
def test_local_attention_and_the_other_activation(browser, tiny):
    base, policies, page = tiny
    open_page(browser, page)
    ids = [int(i) for i in np.random.default_rng(0).integers(1, 300, 48)]  # the whole context
    model, _ = load_causal_lm(base)
    for number, weights in enumerate(unpacked(base, policies)):
        expected = in_torch(model, ids, weights)
        assert np.abs(in_page(browser, number, ids) - expected).max() < 1e-3
        by_numpy = packed.log_probabilities(weights, packed.read_json(base / "config.json"), ids)
        assert np.abs(by_numpy - expected).max() < 1e-3


@needs_browser
def test_any_text_is_encoded_as_by_the_python_tokenizer(browser, nano):
    open_page(browser, nano[1])
    tokenizer = load_tokenizer(NANO)
    pieces = "a|cat|Once|'s|'LL|'ll|'| |  |   |\n|\n\n|\r\n|\t|é|e\u0301|ß|ñ|日本語|😀|👩‍👩‍👧|🏳️‍🌈|\u00a0|\u0085|\ufeff"
    pieces += "|\u2028|\u200b|\u180e|\x1c|\x00|1|23|²|१|Ⅷ|.|...|…|—|_|€|<|endoftext|ا|ה|𝔘|ǅ"
    rng = random.Random(0)
    parts = [*pieces.split("|"), "<|endoftext|>", "|"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(1, 16))) for _ in range(2000)]
    texts += ["", " ", "a" * 300, "Once upon a time there was", "don't  stop\n\n\n now ", "\n"]
    texts += [chr(c) + "x" for c in range(0x30000) if not 0xD800 <= c < 0xE000 and c % 11 == 0]
    shown = browser.execute_script(
        "return arguments[0].map(t => playground.tokenizer.encode(t))", texts
    )
    expected = tokenizer(texts).input_ids
    wrong = [(t, s, e) for t, s, e in zip(texts, shown, expected, strict=True) if s != e]
    assert wrong == []


@needs_browser
def test_tokens_are_drawn_by_inversion_from_the_stated_generator(browser, nano):
    open_page(browser, nano[1])
    set_value(browser, "seed", "4294967291")  # near the end of 32 bits
    set_value(browser, "temperature", "0.7")
    set_value(browser, "prompt", "The big")
    for size in (1, 2, 3, 4):
        press(browser, "step")
        wait_until_told(browser)
        assert [len(side["tokens"]) for side in sides(browser)] == [size, size]
    tokenizer, weights = load_tokenizer(NANO), unpacked(NANO, nano[0])
    config = packed.read_json(NANO / "config.json")
    assert [side["name"] for side in sides(browser)] == ["base model", "KL 6000"]
    for side, number in zip(sides(browser), (0, 2), strict=True):
        ids = tokenizer("The big").input_ids
        for t, token in enumerate(side["tokens"]):
            log_p = packed.log_probabilities(weights[number], config, ids)[-1]
            log_base = packed.log_probabilities(weights[0], config, ids)[-1]
            tempered = np.exp(log_p / 0.7).cumsum()
            u = sfc32(4294967291, 4)[t]
            assert token["u"] == u
            assert token["token"] == int(np.searchsorted(tempered / tempered[-1], u, side="right"))
            assert token["policy"] == pytest.approx(log_p[token["token"]], abs=1e-3)
            assert token["base"] == pytest.approx(log_base[token["token"]], abs=1e-3)
            likeliest = [i for i in np.argsort(-log_p) if i != token["token"]][:5]
            assert [other["token"] for other in token["others"]] == likeliest
            ids.append(token["token"])
        assert side["text"] == tokenizer.decode(ids)


def sfc32(seed: int, count: int) -> list[float]:
    """The generator as PractRand has it, in integers: 12 rounds, then ``count`` numbers."""
    a, b, c, counter, found = 0, seed, 0, 1, []
    for _ in range(12 + count):
        output = (a + b + counter) % 2**32
        counter += 1
        a, b = b ^ b >> 9, (c + (c << 3)) % 2**32
        c = ((c << 21 | c >> 11) % 2**32 + output) % 2**32
        found.append(output / 2**32)
    return found[12:]


@needs_browser
def test_same_seed_same_story_and_both_sides_share_random_numbers(browser, tiny):
    open_page(browser, tiny[2])
    prompt = browser.find_element(By.ID, "prompt")
    prompt.clear()
    prompt.send_keys("Tom and Lily")
    press(browser, "tell")
    wait_until_told(browser)
    first = sides(browser)
    assert all(side["text"].startswith("Tom and Lily") for side in first)
    least = min(len(side["tokens"]) for side in first)
    assert least > 2
    numbers = [[token["u"] for token in side["tokens"][:least]] for side in first]
    assert numbers[0] == numbers[1]
    press(browser, "tell")
    wait_until_told(browser)
    assert sides(browser) == first
    press(browser, "next")
    wait_until_told(browser)
    assert browser.find_element(By.ID, "seed").get_attribute("value") == "1"
    assert sides(browser)[0]["tokens"] != first[0]["tokens"]
    set_value(browser, "right-model", "2")  # the base on both sides, told again at once
    wait_until_told(browser)
    left, right = sides(browser)
    assert right["name"] == "base model"
    assert left["tokens"] == right["tokens"]
    set_value(browser, "temperature", "0")
    wait_until_told(browser)
    assert all(t["policy"] >= t["others"][0]["policy"] for t in sides(browser)[0]["tokens"])
    press(browser, "two")
    wait_until_told(browser)
    assert len(sides(browser)) == 1
    assert not browser.find_element(By.ID, "right").is_displayed()


@needs_browser
def test_every_token_is_tinted_and_shows_its_numbers_by_keyboard(browser, tiny):
    open_page(browser, tiny[2])
    browser.find_element(By.ID, "prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    wait_until_told(browser)
    status = browser.find_element(By.ID, "status")
    assert status.get_attribute("aria-live") == "polite"
    assert "right, KL 6000: " in status.get_attribute("textContent")
    right = sides(browser)[1]
    classes = browser.execute_script(
        "return [...document.querySelectorAll('#right-story [data-t]')].map(s => s.classList[0])"
    )
    for token, name in zip(right["tokens"], classes, strict=True):
        difference = token["policy"] - token["base"]
        level = sum(abs(difference) >= step for step in (0.1, 0.5, 1.5, 4))
        assert name == (f"d{'-' if difference < 0 else ''}{level}" if level else None) or (
            name == "end" and not level
        )
    browser.execute_script("document.getElementById('right-story').focus()")
    for _ in range(3):
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("data-t") == "1"
    assert focused.get_attribute("aria-describedby") == "tip"
    tip = browser.find_element(By.ID, "tip")
    lines = [row.text for row in tip.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert len(lines) == 7
    ratio = right["tokens"][1]["policy"] - right["tokens"][1]["base"]
    assert lines[0].endswith(f"{ratio:+.2f}".replace("-", "−"))
    assert f"u = {right['tokens'][1]['u']:.4f}" in tip.text
    focused.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()
    dial = browser.find_element(By.ID, "right-model")
    dial.send_keys(Keys.ARROW_LEFT)
    assert browser.execute_script("return arguments[0].ariaValueText", dial) == "KL factor 0"
    wait_until_told(browser)
    assert sides(browser)[1]["name"] == "KL 0"


@needs_browser
def test_a_prompt_that_is_empty_or_too_long_is_refused(browser, tiny):
    open_page(browser, tiny[2])
    for text, note in (("", "Type at least"), ("cat " * 60, "the models read at most 47")):
        set_value(browser, "prompt", text)
        press(browser, "tell")
        assert note in browser.find_element(By.ID, "prompt-note").text
        assert browser.execute_script("return playground.session()") is None


@needs_browser
def test_on_a_wall_stories_begin_near_the_middle(browser, tiny):
    open_page(browser, tiny[2], width=1920)
    size = {"width": 1920, "height": 1080, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for name in ("left-story", "right-story"):
        assert browser.find_element(By.ID, name).rect["y"] < 1080 * 0.55


@needs_browser
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_fits_a_phone_asks_nobody_and_passes_the_accessibility_checker(browser, tiny, width, theme):
    page = tiny[2]
    open_page(browser, page, width=width, theme=theme)
    press(browser, "tell")
    wait_until_told(browser)
    browser.execute_script("document.getElementById('right-story').focus()")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element(By.ID, "tip").is_displayed()
    overflow = "const p = document.documentElement; return p.scrollWidth - p.clientWidth"
    assert browser.execute_script(overflow) == 0
    box = browser.find_element(By.ID, "tip").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in sent
    assert not [url for url in sent if not url.startswith((page.as_uri(), "data:", "blob:"))]
    assert browser.get_log("browser") == []
    source = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run({resultTypes: ['violations']}).then(r =>"
        " done({bad: r.violations.map(v => [v.impact, v.id, v.nodes[0].html]), passed: r.passes.length}))"
    )
    assert found["passed"] > 20
    assert found["bad"] == []


def test_weights_are_read_in_whatever_precision_they_are_stored(tmp_path, tiny):
    names = ["wte.weight", "h.1.mlp.c_fc.bias"]
    exact = packed.read_weights(tiny[0], names)
    for dtype in (torch.float16, torch.bfloat16):
        GPTNeoForCausalLM.from_pretrained(tiny[0], dtype=dtype).save_pretrained(tmp_path)
        for name, read in packed.read_weights(tmp_path, names).items():
            assert read.dtype == np.float32
            assert np.array_equal(read, torch.tensor(exact[name]).to(dtype).float().numpy())


def test_the_report_links_to_a_playground_that_lies_beside_it(tmp_path):
    results, models = make_study(tmp_path)
    command = [
        *(interpreter(), str(ROOT / "workflow/scripts/render_report.py")),
        *("--results", str(results), "--models", str(models)),
    ]
    for there in (False, True):
        if there:
            (results / "playground.html").write_text("<!doctype html>")
        subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, check=True, timeout=120)
        page = (results / "report.html").read_text(encoding="utf-8")
        assert ('<a href="playground.html">' in page) == there


def reason(page: str) -> str:
    assert "<form" not in page
    assert "pack-0" not in page
    return page.split('id="reason">')[1].split("</p>")[0].replace("&#39;", "'")


def test_a_model_that_cannot_run_there_is_named_in_one_line(tmp_path, tiny, monkeypatch):
    base, policies, _ = tiny
    other = tmp_path / "other"
    other.mkdir()
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (other / file).write_bytes((base / file).read_bytes())

    def made(name: str, **values) -> str:
        known = packed.read_json(base / name)
        (other / name).write_text(json.dumps(known | values))
        page = playground.render("small", "Once", other, policies)
        (other / name).write_text(json.dumps(known))
        return reason(page)

    assert made("config.json", model_type="llama") == (
        "The playground runs GPT-Neo models only; this study's base model is llama."
    )
    assert made("config.json", activation_function="relu").endswith("base model uses relu.")
    assert "tied" in made("config.json", tie_word_embeddings=False)
    assert "byte-level BPE" in made("tokenizer.json", normalizer={"type": "NFC"})
    monkeypatch.setattr(playground, "LIMIT", 100_000)
    assert "at most 0 MB; this study's models, packed, take" in made("config.json")
