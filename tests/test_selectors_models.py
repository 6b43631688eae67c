"""Selectors that run a model: published formulas by hand, mechanics on tiny random checkpoints made here."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from dsenv import causal as causal_module
from dsenv.causal import load_causal, token_logprobs
from dsenv.dataset import Rows
from dsenv.errors import InputError
from dsenv.seeding import generator
from dsenv.selectors import gradients
from dsenv.selectors.ask_llm import QUESTION, ask_llm, yes_share
from dsenv.selectors.data_whisperer import data_whisperer, demonstration_scores
from dsenv.selectors.gradients import layers_of, project, recipe_of, row_gradients
from dsenv.selectors.less import adam_direction, aggregate, less, loss
from dsenv.selectors.pool import Pool
from dsenv.selectors.prompts import fit_prompts, names_of, tokenize
from dsenv.selectors.trak import margin, trak, trak_scores
from dsenv.selectors.ufo import ufo, ufo_scores
from dsenv.training import load_target, pad_batch, tokenize_rows
from tests.test_finetuning import save_encoder

NAMES = ["good", "bad", "so so"]
WORDS = ["the", "app", "is", "lovely", "superb", "awful", "broken", "plain", "usual"]


def made_rows(count, seed, pairs=False):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(count)]
    return Rows(texts, np.arange(count) % 3, [f"pair {text}" for text in texts] if pairs else None)


def made_pool(count=12, judges=7, pairs=False):
    rows, reward = made_rows(count, 1, pairs), made_rows(judges, 2, pairs)
    flat = np.zeros((count, 2)), np.zeros((judges, 2))
    return Pool(flat[0], rows.labels, 3, flat[1], reward.labels, rows=rows, reward_rows=reward)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return str(folder)


# formulas


def test_yes_share():
    np.testing.assert_allclose(yes_share(np.log([3.0, 1.0]), np.zeros(2)), [0.75, 0.5], atol=1e-12)
    np.testing.assert_allclose(yes_share(np.array([1e4, -1e4]), np.zeros(2)), [1, 0], atol=1e-12)


def test_ufo_scores():
    np.testing.assert_allclose(ufo_scores(np.log([0.5, 0.9, 0.1])), [1, 0.84, 0.84], atol=1e-12)


def test_demonstration_scores():
    np.testing.assert_allclose(
        demonstration_scores(np.array([1.0, 3.0]), np.array([1, 1]), np.array([1.0, 0.0])), [0.125, 0.375], atol=1e-12
    )
    np.testing.assert_allclose(
        demonstration_scores(np.array([1.0, 3.0]), np.array([1, 3]), np.array([1.0])), [0.5, 0.5], atol=1e-12
    )


def test_adam_direction_without_state():
    gradients = np.array([[3.0, -0.5]])
    np.testing.assert_allclose(adam_direction(gradients, 0.0, 0.0), [[3.1622759, -3.1622144]], atol=1e-6)


def test_adam_direction_with_state():
    m, v, g = 0.2, 0.04, np.array([[0.5]])
    expected = (0.9 * 0.2 + 0.1 * 0.5) / np.sqrt(0.999 * 0.04 + 0.001 * 0.25 + 1e-8)
    np.testing.assert_allclose(adam_direction(g, np.array([m]), np.array([v])), [[expected]], atol=1e-12)


def test_aggregate_is_the_best_of_the_subtasks_means():
    train, judges = np.array([[1, 0], [0.6, 0.8]]), np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
    np.testing.assert_allclose(aggregate(train @ judges.T, np.array([0, 0, 1, 1])), [0.5, 0.8], atol=1e-12)


def test_trak_scores_by_hand():
    # ΦᵀΦ + λI = diag(2 + 1, 4 + 1): φᵢᵀ K⁻¹ φ(z) = (1/3, 1/3, 2/5) for z = (1, 1)
    features = np.array([[1.0, 0], [1, 0], [0, 2]])
    scores = trak_scores(features, np.array([[1.0, 1.0], [0.0, -1.0]]), np.array([0.4, 0.7, 0.5]), 1.0)
    np.testing.assert_allclose(scores, [[0.6 / 3, 0], [0.3 / 3, 0], [0.2, -0.2]], atol=1e-12)


def test_trak_scores_without_ridge_are_the_hat_matrix_of_least_squares():
    rng = np.random.default_rng(0)
    features, judges = rng.normal(size=(6, 3)), rng.normal(size=(2, 3))
    scores = trak_scores(features, judges, np.zeros(6), 1e-9)
    hat = features @ np.linalg.solve(features.T @ features, judges.T)
    np.testing.assert_allclose(scores, hat, atol=1e-6)


def test_projection_keeps_inner_products_on_average():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5000))).float()
    x[1] = x[0] + 0.1 * x[1]
    made = project(x, 2048, 7)
    assert made.shape == (4, 2048)
    np.testing.assert_allclose(made @ made.T / 5000, x @ x.T / 5000, atol=0.1)
    np.testing.assert_array_equal(made, project(x, 2048, 7))
    assert not np.allclose(made, project(x, 2048, 8))
    assert project(x, 5000, 7) is x


def test_projection_is_the_same_matrix_in_every_block(monkeypatch):
    x = torch.eye(50)
    monkeypatch.setattr("dsenv.selectors.gradients.SIGN_BYTES", 4 * 16 * 8)  # 8 gradient numbers a block
    signs = project(x, 16, 3) * 4
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(row.tolist()) for row in signs}) == 50
    torch.testing.assert_close(project(2 * x[:5], 16, 3), signs[:5] / 2)


# language models


def test_log_probabilities_are_those_of_one_sequence_at_a_time(llama, monkeypatch):
    causal = load_causal(llama)
    sequences = [tokenize(causal, text).ids for text in made_rows(9, 5).texts]
    wanted = [[(1, ids[1]), (len(ids) - 1, ids[-1]), (len(ids), 7)] for ids in sequences]
    monkeypatch.setattr(causal_module, "BATCH_TOKENS", 60)
    found = token_logprobs(causal, sequences, wanted, "test")
    for ids, asked, got in zip(sequences, wanted, found, strict=True):
        with torch.inference_mode():
            logprobs = torch.log_softmax(causal.model(torch.tensor([ids])).logits[0], -1)
        np.testing.assert_allclose(got, [logprobs[position - 1, token] for position, token in asked], atol=1e-5)


def test_prompts_lose_tokens_of_their_longest_text(llama, caplog):
    causal = load_causal(llama, max_length=60)
    parts = [["short", "kept whole"], ["a" * 100, "short"], ["é" * 40, "é" * 40]]
    with caplog.at_level(logging.WARNING):
        prompts = fit_prompts(causal, parts, [lambda texts: f"A {texts[0]} B {texts[1]} C"] * 3, "test")
    assert "2 prompts of 3 cut to fit in 60 tokens" in caplog.text
    assert [prompt.cut for prompt in prompts] == [False, True, True]
    assert prompts[0].parts == ("short", "kept whole")
    assert prompts[1].parts[1] == "short" and 40 < len(prompts[1].parts[0]) < 60
    assert abs(len(prompts[2].parts[0]) - len(prompts[2].parts[1])) <= 1
    for prompt in prompts:
        assert len(prompt.ids) <= 60 and prompt.text.startswith("A ") and prompt.text.endswith(" C")
    assert all(len(prompt.ids) > 55 for prompt in prompts[1:])


def test_a_context_too_short_for_any_prompt_is_refused(llama):
    for selector in (ask_llm, ufo, data_whisperer):
        with pytest.raises(InputError, match="cannot hold even the shortest prompt"):
            selector(made_pool(), 4, np.random.default_rng(0), model=llama, max_length=20)


SELECTORS = [
    (ask_llm, {}),
    (ufo, {}),
    (ufo, {"max_length": 70}),
    (data_whisperer, {}),
    (data_whisperer, {"demonstrations": 2, "queries": 50, "passes": 2, "layer": 1}),
]


@pytest.mark.parametrize(("selector", "options"), SELECTORS)
@pytest.mark.parametrize("pairs", [False, True])
def test_rows_are_distinct_and_the_same_for_a_seed(llama, selector, options, pairs):
    pool = made_pool(pairs=pairs)
    before = torch.get_rng_state()
    chosen = [selector(pool, 5, np.random.default_rng(3), model=llama, class_names=NAMES, **options) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(*chosen)
    assert len(set(chosen[0].tolist())) == 5 and set(chosen[0]) <= set(range(12))
    everything = selector(pool, 12, np.random.default_rng(3), model=llama, class_names=NAMES, **options)
    assert sorted(everything) == list(range(12))
    np.testing.assert_array_equal(everything[:5], chosen[0])


@pytest.mark.parametrize("selector", [ask_llm, ufo, data_whisperer])
def test_the_real_tiny_llama_scores_rows(stories, selector):
    pool, model = made_pool(), str(stories[1])
    chosen = [selector(pool, 12, np.random.default_rng(3), model=model, class_names=NAMES) for _ in range(2)]
    np.testing.assert_array_equal(*chosen)
    assert sorted(chosen[0]) == list(range(12)) and chosen[0].tolist() != list(range(12))


def text_logprob(causal, stem, answer):
    ids, before = tokenize(causal, stem + answer).ids, tokenize(causal, stem).ids
    assert ids[: len(before)] == before
    with torch.inference_mode():
        logprobs = torch.log_softmax(causal.model(torch.tensor([ids])).logits[0], -1)
    return [float(logprobs[i - 1, ids[i]]) for i in range(len(before), len(ids))]


def test_ask_llm_ranks_by_the_share_of_yes(llama):
    pool, causal = made_pool(), load_causal(llama)
    stems = [f"Text: {text}\nLabel: {label}\n\n{QUESTION}" for text, label in zip(pool.rows.texts, pool.labels, strict=True)]
    odds = [sum(text_logprob(causal, stem, " yes")) - sum(text_logprob(causal, stem, " no")) for stem in stems]
    np.testing.assert_array_equal(ask_llm(pool, 12, np.random.default_rng(0), model=llama), np.argsort(-np.array(odds)))


def test_ask_llm_with_answers_of_one_token_runs_a_row_once(encoder, tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [
        "[UNK]",
        "[SEP]",
        *WORDS,
        *QUESTION.replace("?", " ").replace(".", " ").replace(":", " ").replace(",", " ").split(),
    ]
    vocabulary = list(dict.fromkeys([*words, "yes", "no", "Text", "Label", ":", "?", ".", ",", "0", "1", "2"]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, intermediate_size=16)).save_pretrained(tmp_path)
    seen = []

    def counted(causal, sequences, wanted, what):
        seen.append((len(sequences), wanted))
        return token_logprobs(causal, sequences, wanted, what)

    monkeypatch.setitem(ask_llm.__globals__, "token_logprobs", counted)
    got = ask_llm(made_pool(), 12, np.random.default_rng(0), model=str(tmp_path))
    assert seen[0][0] == 12 and all(len(asked) == 2 for asked in seen[0][1])
    causal, pool = load_causal(str(tmp_path)), made_pool()
    stems = [f"Text: {text}\nLabel: {label}\n\n{QUESTION}" for text, label in zip(pool.rows.texts, pool.labels, strict=True)]
    odds = [text_logprob(causal, stem, " yes")[0] - text_logprob(causal, stem, " no")[0] for stem in stems]
    np.testing.assert_array_equal(got, np.argsort(-np.array(odds), kind="stable"))


def test_ufo_ranks_by_nearness_of_confidence(llama):
    pool, causal = made_pool(), load_causal(llama)
    sure = []
    for text, label in zip(pool.rows.texts, pool.labels, strict=True):
        stem = f"Labels: good, bad, so so.\n\nText: {text}\nLabel:"
        sure.append(np.exp(np.mean(text_logprob(causal, stem, f" {NAMES[label]}"))))
    expected = np.argsort(np.abs(np.array(sure) - np.mean(sure)))
    np.testing.assert_array_equal(ufo(pool, 12, np.random.default_rng(0), model=llama, class_names=NAMES), expected)


def test_data_whisperer_of_one_prompt_by_hand(llama):
    pool = made_pool(count=4, judges=2)
    got = data_whisperer(pool, 4, np.random.default_rng(5), model=llama, demonstrations=4, queries=2, layer=1)
    rng = np.random.default_rng(5)
    order, asked = rng.permutation(4), rng.permutation(2)
    causal = load_causal(llama, attentions=True)
    block = "Text: {}\nLabel: {}\n\n".format
    blocks = [block(pool.rows.texts[i], pool.labels[i]) for i in order]
    blocks += [block(pool.reward_rows.texts[i], pool.reward_labels[i]) for i in asked]
    prompt = tokenize(causal, "".join(blocks))
    starts = np.cumsum([0, *map(len, blocks)])
    owner = np.array([np.searchsorted(starts, max(end, 1), "left") - 1 for _, end in prompt.offsets])
    owner[0] = -1  # the added token
    with torch.inference_mode():
        attention = causal.model(torch.tensor([prompt.ids]), output_attentions=True).attentions[1][0].sum(0).numpy()
    received = attention[owner >= 4].sum(0)
    weights = np.array([received[owner == k].mean() for k in range(4)])
    np.testing.assert_array_equal(got, order[np.argsort(-weights)])


def test_every_row_is_a_demonstration_in_every_pass():
    from dsenv.selectors.data_whisperer import _groups

    for rows, size in [(12, 5), (10, 5), (3, 5), (11, 10), (1, 1)]:
        groups = _groups(rows, size, np.random.default_rng(0))
        assert all(len(set(group.tolist())) == min(size, rows) for group in groups)
        assert set(np.concatenate(groups).tolist()) == set(range(rows)) and len(groups) == -(-rows // min(size, rows))


def test_models_that_cannot_be_used_are_refused(tmp_path, llama, encoder):
    rng, pool = np.random.default_rng(0), made_pool()
    with pytest.raises(InputError, match="tokenizer of model .* cannot be read"):
        ufo(pool, 4, rng, model=str(tmp_path))
    bare = tmp_path / "bare"
    transformers.LlamaForCausalLM.from_pretrained(llama).save_pretrained(bare)
    with pytest.raises(InputError, match="tokenizer"):
        ufo(pool, 4, rng, model=str(bare))
    transformers.AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "weightless")
    (tmp_path / "weightless" / "config.json").write_bytes((bare / "config.json").read_bytes())
    with pytest.raises(InputError, match="cannot be read as a causal language model"):
        ufo(pool, 4, rng, model=str(tmp_path / "weightless"))
    with pytest.raises(InputError, match="lacks weights"):
        ufo(pool, 4, rng, model=encoder)
    with pytest.raises(InputError, match="device 'nowhere' cannot be used"):
        ufo(pool, 4, rng, model=llama, device="nowhere")


def test_bad_options_of_language_models_are_refused(llama):
    rng, pool = np.random.default_rng(0), made_pool()
    with pytest.raises(InputError, match="reads texts"):
        ask_llm(Pool(pool.vectors, pool.labels, 3, pool.reward_vectors, pool.reward_labels), 4, rng, model=llama)
    for names in (["a", "b"], ["a", "b", "b"], ["a", "", "c"]):
        with pytest.raises(InputError, match="3 different names"):
            names_of(3, names)
    assert names_of(2, None) == ["0", "1"]
    with pytest.raises(InputError, match="has the layers 0 to 1"):
        data_whisperer(pool, 4, rng, model=llama, layer=2)
    for option in ("demonstrations", "queries", "passes"):
        with pytest.raises(InputError, match=f"{option} 0"):
            data_whisperer(pool, 4, rng, model=llama, **{option: 0})


# gradients of the target


QUICK = {"epochs": 2, "warmup": 0.5, "max_length": 16, "device": "cpu"}


@pytest.mark.parametrize("selector", [less, trak])
@pytest.mark.parametrize("part", ["head", "lora"])
@pytest.mark.parametrize("kind", ["encoder", "llama"])
def test_gradient_selectors(request, selector, part, kind):
    model, pool = request.getfixturevalue(kind), made_pool()
    before = torch.get_rng_state()
    options = {**QUICK, "model": model, "part": part, "dimensions": 64, "reward_rows": 6}
    first, again, other = (selector(pool, 12, np.random.default_rng(seed), **options) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(first) == list(range(12))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(selector(pool, 5, np.random.default_rng(0), **options), first[:5])


@pytest.mark.parametrize("objective", [loss, margin])
@pytest.mark.parametrize("part", ["head", "lora"])
@pytest.mark.parametrize("kind", ["encoder", "llama"])
def test_row_gradients_are_those_of_autograd(request, kind, part, objective):
    model, rows = request.getfixturevalue(kind), made_rows(7, 3)
    target = load_target(recipe_of(model, part, 1, 1e-4, 32, "cpu"), 3)
    target.model.eval()
    layers = layers_of(target, 3)
    if part == "lora":  # B starts at zero, which hides the gradients of A
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for layer in layers:
                layer.weight.normal_(0, 0.3)
    encoded, everyone = tokenize_rows(target, rows), np.arange(7)
    labels = torch.as_tensor(rows.labels)
    got, sure = row_gradients(target, layers, pad_batch(target, encoded, everyone), labels, objective)
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    for i in everyone:
        logits = target.model(**pad_batch(target, encoded, everyone[i : i + 1])).logits
        slopes = torch.autograd.grad(objective(logits, labels[i : i + 1])[0], parameters)
        torch.testing.assert_close(got[i], torch.cat([slope.flatten() for slope in slopes]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sure[i], torch.softmax(logits[0].detach(), -1)[labels[i]], atol=1e-6, rtol=1e-5)


def test_margin_is_the_log_odds_of_the_own_label():
    logits = torch.tensor([[1.0, 2.0, 0.5], [40.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    p = torch.softmax(logits, -1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(margin(logits, labels)[0], torch.log(p / (1 - p))[0])
    torch.testing.assert_close(margin(logits, labels)[1], torch.tensor(40 - np.log(2)))


def captured(monkeypatch):
    scores = {}

    def keep(values, count):
        scores["scores"] = values
        return np.argsort(-values, kind="stable")[:count]

    monkeypatch.setitem(less.__globals__, "highest", keep)
    return scores


def test_less_is_the_cosine_of_adam_steps_and_gradients(encoder, monkeypatch):
    """One epoch of one step, so that the trained weights and moments come from autograd and torch's optimiser alone."""
    pool, scores = made_pool(), captured(monkeypatch)
    less(pool, 3, np.random.default_rng(4), model=encoder, warmup=0.5, epochs=1, max_length=16, device="cpu")
    rng = np.random.default_rng(4)
    seed = int(rng.integers(2**31))
    drawn, judges = rng.permutation(12)[:6], np.sort(rng.permutation(7))
    target = load_target(recipe_of(encoder, "head", 1, 1e-4, 16, "cpu"), 3, seed)
    warm = pool.rows.take(drawn)
    batch = generator(seed, "fine-tuning order").permutation(6)
    encoded = tokenize_rows(target, warm)
    batch = batch[np.argsort([len(encoded["input_ids"][i]) for i in batch], kind="stable")]
    model, (head,) = target.model, layers_of(target, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        logits = model(**pad_batch(target, encoded, batch)).logits
        torch.nn.functional.cross_entropy(logits, torch.as_tensor(warm.labels[batch])).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.eval()
    state = [optimizer.state[p] for p in (head.weight, head.bias)]
    m, v = (torch.cat([each[key].flatten() for each in state]).numpy() for key in ("exp_avg", "exp_avg_sq"))

    def gradients(rows):
        tokens = tokenize_rows(target, rows)
        found = []
        for i in range(len(rows)):
            logits = model(**pad_batch(target, tokens, np.array([i]))).logits
            loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(rows.labels[i : i + 1]))
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [head.weight, head.bias])]).numpy())
        return np.array(found, np.float64)

    g, wanted = gradients(pool.rows), gradients(pool.reward_rows.take(judges))
    steps = (0.9 * m + 0.1 * g) / np.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)
    cosines = (steps / np.linalg.norm(steps, axis=1)[:, None]) @ (wanted / np.linalg.norm(wanted, axis=1)[:, None]).T
    labels = pool.reward_rows.take(judges).labels
    expected = np.max([cosines[:, labels == c].mean(1) for c in range(3)], 0)
    np.testing.assert_allclose(scores["scores"], expected, atol=1e-4)


def test_less_scores_of_several_epochs_are_means_of_cosines(llama, monkeypatch):
    scores = captured(monkeypatch)
    less(made_pool(), 3, np.random.default_rng(0), model=llama, **QUICK)
    assert np.abs(scores["scores"]).max() <= 1 + 1e-6 and np.ptp(scores["scores"]) > 0


def test_projected_less_is_near_the_exact_one(encoder, monkeypatch):
    scores, found = captured(monkeypatch), []
    for dimensions in (None, 2048, 8):
        options = {"part": "lora", "learning_rate": 1e-2, "dimensions": dimensions}
        less(made_pool(), 3, np.random.default_rng(0), model=encoder, **QUICK, **options)
        found.append(scores["scores"])
    assert np.abs(found[0] - found[1]).max() < 0.06 < np.abs(found[0] - found[2]).max()


def test_only_so_many_reward_rows_are_read(encoder):
    recipe = recipe_of(encoder, "head", 1, 1e-4, 16, "cpu")
    source = gradients.GradientSource.of(made_pool(), np.random.default_rng(0), recipe, 0.5, None, 2)
    assert len(source.reward) == 2 and len(source.warmup) == 6 and len(source.rows) == 12


def test_targets_without_the_layers_are_refused(encoder, monkeypatch):
    rng, pool = np.random.default_rng(0), made_pool()

    def headless(*args):
        target = load_target(*args)
        target.model.classifier = torch.nn.Identity()
        return target

    def refused(*args):
        raise ValueError("no modules were targeted for adaptation")

    monkeypatch.setattr(gradients, "load_target", headless)
    with pytest.raises(InputError, match="no linear classification head with 3 outputs"):
        less(pool, 3, rng, model=encoder, **QUICK)
    bare = load_target(recipe_of(encoder, "head", 1, 1e-4, 16, "cpu"), 3)
    monkeypatch.setattr(gradients, "load_target", lambda recipe, *_: replace(bare, recipe=recipe))
    with pytest.raises(InputError, match="no linear layers with LoRA adapters"):
        less(pool, 3, rng, model=encoder, part="lora", **QUICK)
    monkeypatch.setattr(gradients, "load_target", refused)
    with pytest.raises(InputError, match="cannot be given adapters"):
        trak(pool, 3, rng, model=encoder, part="lora", **QUICK)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"part": "body"}, "unknown part 'body'"),
        ({"warmup": 0}, "warmup 0"),
        ({"warmup": 1.5}, "warmup 1.5"),
        ({"dimensions": 0}, "dimensions 0"),
        ({"reward_rows": 0}, "reward_rows 0"),
        ({"epochs": 0}, "epochs 0"),
        ({"learning_rate": 2.0}, "learning_rate 2.0"),
    ],
)
def test_bad_options_of_gradients_are_refused(encoder, options, match):
    for selector in (less, trak):
        with pytest.raises(InputError, match=match):
            selector(made_pool(), 3, np.random.default_rng(0), **{"model": encoder, **QUICK, **options})
    with pytest.raises(InputError, match="ridge 0"):
        trak(made_pool(), 3, np.random.default_rng(0), model=encoder, ridge=0)
    with pytest.raises(InputError, match="reads texts"):
        less(
            Pool(np.zeros((2, 2)), np.arange(2), 2, np.zeros((2, 2)), np.arange(2)), 1, np.random.default_rng(0), model=encoder
        )
