"""The policy: cached sampling against uncached, stored log-probabilities against a fresh pass, greedy against transformers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from benchmarks import warm_policy
from dsenv.errors import InputError
from dsenv.rlvr import policy as policy_module
from dsenv.rlvr.arithmetic import LEVELS, arithmetic_questions
from dsenv.rlvr.policy import Policy
from tests.test_rlvr_questions import solve

PROMPTS = ["the cat", "a", "in the beginning there was", "ab", "er the in"]


@pytest.fixture(scope="module")
def tiny(llama):
    return Policy(llama, max_new_tokens=10)


@pytest.fixture(scope="module")
def embedded():
    return Policy()


def draw(policy, prompts=PROMPTS, group=4, temperature=1.0, seed=0, **keywords):
    return policy.complete(prompts, group, temperature, np.random.default_rng(seed), **keywords)


def same(a, b, tolerance=2e-5):
    assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.lengths, b.lengths) and a.texts == b.texts
    assert a.logprobs == pytest.approx(b.logprobs, abs=tolerance)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_cache_changes_no_token(tiny, embedded, temperature):
    same(draw(tiny, temperature=temperature), draw(tiny, temperature=temperature, cache=False))
    questions = arithmetic_questions().reward.prompts[::7]
    with_cache = draw(embedded, questions, temperature=temperature)
    same(with_cache, draw(embedded, questions, temperature=temperature, cache=False))
    assert len(set(with_cache.lengths.tolist())) > 3  # some ended long before others


def test_the_cache_changes_no_token_of_a_real_checkpoint(stories):
    policy = Policy(str(stories[1]), max_new_tokens=24)
    prompts = ["Once upon a time", "Lily and Ben", "The dog was very"]
    same(draw(policy, prompts), draw(policy, prompts, cache=False))


def test_batches_change_no_token(embedded, monkeypatch):
    questions = arithmetic_questions().reward.prompts[::9]
    whole = draw(embedded, questions)
    monkeypatch.setitem(policy_module.BATCH_TOKENS, "cpu", 150)
    same(draw(embedded, questions), whole)


def test_greedy_completions_are_those_of_transformers(embedded):
    for prompt in arithmetic_questions().reward.prompts[::20]:
        ids = torch.tensor(embedded.prompt_ids([prompt]))
        expected = embedded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        found = draw(embedded, [prompt], 1, 0.0)
        assert found.tokens[0, : found.lengths[0]].tolist() == expected[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_stored_log_probabilities_are_those_of_a_fresh_pass(embedded, temperature):
    questions = arithmetic_questions().reward.prompts[::11]
    found = draw(embedded, questions, temperature=temperature)
    with torch.no_grad():
        fresh = embedded.logprobs(embedded.prompt_ids(questions), found.tokens.reshape(-1, 4, 12), temperature).numpy()
    assert fresh[found.mask] == pytest.approx(found.logprobs[found.mask], abs=2e-5)
    assert not found.logprobs[~found.mask].any() and not found.tokens[~found.mask].any()


def test_draws_follow_the_distribution(embedded):
    prompt = arithmetic_questions().reward.prompts[8]
    ids = torch.tensor(embedded.prompt_ids([prompt]))
    with torch.no_grad():
        expected = torch.softmax(embedded.model(ids).logits[0, -1].double(), -1).numpy()
    first = draw(embedded, [prompt], 4000).tokens[:, 0]
    shares = np.bincount(first, minlength=len(expected)) / 4000
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_a_completion_that_is_cut_off_has_no_text(tiny, embedded):
    found = draw(tiny)
    for text, length, tokens in zip(found.texts, found.lengths, found.tokens, strict=True):
        ended = bool(np.isin(tokens[:length], tiny.ends).any())
        assert (text is not None) == ended and (ended or length == 10)
    assert None in found.texts
    assert all(text is not None for text in draw(embedded, ["1+1="]).texts)


def test_special_tokens_inside_a_completion_do_not_make_it_right(embedded, monkeypatch):
    """What reads "42" only because something in it is not shown is not "42"."""
    numbers = embedded.tokenizer.get_vocab()
    for inside, expected in (([], "42"), (["<bos>"], "4<bos>2"), (["<unk>", "<pad>"], "4<unk><pad>2")):
        ids = [numbers[token] for token in ("4", *inside, "2", "<eos>")]
        tokens = np.zeros((1, 12), np.int64)
        tokens[0, : len(ids)] = ids
        drawn = tokens, np.zeros((1, 12), np.float32), np.array([len(ids)]), np.array([True])
        monkeypatch.setattr(embedded, "_draw", lambda *given, drawn=drawn: drawn)
        assert draw(embedded, ["1+1="], 1).texts == [expected]


def test_embeddings_are_means_over_the_prompt(embedded, monkeypatch):
    questions = arithmetic_questions().reward.prompts[::11]
    found = embedded.embed(questions)
    ids = torch.tensor(embedded.prompt_ids([questions[3]]))
    with torch.no_grad():
        hidden = embedded.model(ids, output_hidden_states=True).hidden_states[-1]
    assert found[3] == pytest.approx(hidden[0].mean(0).numpy(), abs=1e-5)
    monkeypatch.setitem(policy_module.BATCH_TOKENS, "cpu", 60)
    assert embedded.embed(questions) == pytest.approx(found, abs=1e-5)


def test_a_chat_template_is_used(llama, tmp_path):
    folder = Path(shutil.copytree(llama, tmp_path / "chat"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %} is{% endif %}"
    )
    chat, plain = Policy(str(folder)), Policy(llama)
    assert chat.tokenizer.decode(chat.prompt_ids(["ab"])[0]).strip().endswith("[ab] is")
    assert chat.prompt_length("ab") == len(chat.prompt_ids(["ab"])[0]) > plain.prompt_length("ab")


def test_the_embedded_policy_is_small_and_safe():
    folder = policy_module.EMBEDDED
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}
    policy = Policy()
    assert sum(weight.numel() for weight in policy.model.parameters()) <= 500_000
    assert type(policy.model).__name__ == "LlamaForCausalLM"


def test_the_warm_up_makes_a_policy(tmp_path, monkeypatch, capsys):
    """Right answers first; then, above a level, also those of another task; no question of the set but of level 1."""
    rng = np.random.default_rng(0)
    questions = arithmetic_questions()
    taken = {prompt for part in questions.parts.values() for prompt in part.prompts}
    first = [warm_policy.draw(rng, taken, wrong=False) for _ in range(700)]
    assert all(solve(prompt) == answer for prompt, answer in first)
    clusters = dict(zip(questions.train.prompts, questions.train.cluster % LEVELS, strict=True))
    assert {clusters[prompt] for prompt, _ in first if prompt in clusters} == {0}
    second = [warm_policy.draw(rng, taken, wrong=True) for _ in range(700)]
    assert 0.3 < np.mean([solve(prompt) == answer for prompt, answer in second]) < 0.6
    monkeypatch.setattr(warm_policy, "BATCH", 4)
    warm_policy.warm_up(tmp_path / "made", (1, 1))
    assert "phase 2: loss" in capsys.readouterr().out
    made = Policy(str(tmp_path / "made"))
    assert made.tokenizer.get_vocab() == Policy().tokenizer.get_vocab()
    assert made.model.config.to_dict() == Policy().model.config.to_dict() | {"_name_or_path": made.model.config._name_or_path}


def test_bad_checkpoints_and_prompts_are_named(llama, tmp_path):
    with pytest.raises(InputError, match="prompt '>abcdefgh=' has 11 tokens: .* reads 1 to 8"):
        Policy(max_new_tokens=40).prompt_ids([">abcdefgh="])
    bare = Path(shutil.copytree(llama, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="tokenizer of model .* cannot be read|has no fast tokenizer"):
        Policy(str(bare))
    endless = Path(shutil.copytree(llama, tmp_path / "endless"))
    config = (endless / "config.json").read_text().replace('"eos_token_id": 2', '"eos_token_id": null')
    (endless / "config.json").write_text(config)
    for path in endless.glob("generation_config.json"):
        path.unlink()
    with pytest.raises(InputError, match="has no end token"):
        Policy(str(endless))
    config = transformers.MambaConfig(vocab_size=600, hidden_size=8, num_hidden_layers=1, eos_token_id=2)
    mamba = Path(shutil.copytree(llama, tmp_path / "mamba"))
    transformers.MambaForCausalLM(config).save_pretrained(mamba)
    with pytest.raises(InputError, match="is a MambaForCausalLM: allowed are those with position_ids"):
        Policy(str(mamba))
    with pytest.raises(InputError, match="max_new_tokens 0"):
        Policy(max_new_tokens=0)
    with pytest.raises(InputError, match="cannot be read"):
        Policy(str(tmp_path / "nothing"))
