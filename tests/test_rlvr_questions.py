"""Questions and their checkers: what is right, what only looks right, and who may see what."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dsenv.errors import InputError
from dsenv.rlvr.arithmetic import ALPHABET, KINDS, LEVELS, LONGEST, PART_SIZES, arithmetic_questions
from dsenv.rlvr.checkers import check_exact, check_gsm8k, find_checker
from dsenv.rlvr.gsm8k import gsm8k_questions


def solve(prompt):
    """The answer, by other means than the generator's."""
    if prompt[0] == ">":
        return prompt[1:-1]
    if prompt[0] == "<":
        return "".join(reversed(prompt[1:-1]))
    left, operator, right = re.fullmatch(r"(\d+)([-+*%])(.*)=", prompt).groups()
    if re.search(r"[-+]", right):
        return str(sum(int(term) for term in re.findall(r"[-+]?\d", prompt)))
    return str(eval(f"{int(left)} {operator} {int(right)}"))


def test_arithmetic_questions_are_right_graded_and_disjoint():
    questions = arithmetic_questions()
    assert len(questions.clusters) == len(KINDS) * LEVELS == 56
    seen = set()
    for part, found in questions.parts.items():
        assert np.array_equal(np.bincount(found.cluster), np.full(56, PART_SIZES[part]))
        assert [solve(prompt) for prompt in found.prompts] == found.answers
        assert set("".join(found.prompts + found.answers)) <= set(ALPHABET)
        assert max(map(len, found.answers)) < LONGEST
        assert len(set(found.prompts)) == len(found.prompts) and not seen & set(found.prompts)
        seen |= set(found.prompts)
    lengths = np.array([len(prompt) for prompt in questions.train.prompts])
    for kind in range(len(KINDS)):
        mean = [lengths[questions.train.cluster == kind * LEVELS + level].mean() for level in range(LEVELS)]
        assert np.all(np.diff(mean) >= 0) and mean[-1] > mean[0]


def test_a_seed_makes_the_questions():
    assert arithmetic_questions(3).digest == arithmetic_questions(3).digest != arithmetic_questions(4).digest
    with pytest.raises(InputError, match="seed -1"):
        arithmetic_questions(-1)


def test_parts_must_be_disjoint_and_not_empty():
    questions = arithmetic_questions()
    with pytest.raises(InputError, match="is in 'train' and in 'test'"):
        replace(questions, test=questions.train.take([3]))
    with pytest.raises(InputError, match="'reward' is empty"):
        replace(questions, reward=questions.reward.take([]))


@pytest.mark.parametrize("wrong", ["", " ", "4", "421", " 42", "42 ", "042", "42.0", "42=", "4 2", "+42", "42\n"])
def test_the_exact_checker_takes_nothing_else(wrong):
    assert check_exact("42", "42") and not check_exact(wrong, "42")


RIGHT = ["#### 1234", "so 3\n#### 1,234", "####1234.", "#### $1234", "#### 1234.00", "#### +1234", "#### 9\n#### 1234\nbye"]
WRONG = [
    "", "1234", "####", "#### ", "#### 12345", "#### 123", "#### 1234 apples", "#### 12 34", "#### 1234 or 9", "### 1234",
    "#### 1234\n#### 9", "#### 1,23,4", "#### -1234", "#### 1234..", "#### 1e3", "#### twelve", "#### nan", "#### ١٢٣٤",
    "#### 1234/1",
]  # fmt: skip


def test_the_gsm8k_checker_reads_one_number_behind_the_last_mark():
    answer = "2 * 617 = <<2*617=1234>>1234\n#### 1,234"
    assert [text for text in RIGHT if not check_gsm8k(text, answer)] == []
    assert [text for text in WRONG if check_gsm8k(text, answer)] == []
    assert check_gsm8k("#### -0.50", "#### -.5".replace("-.5", "-0.5"))
    with pytest.raises(InputError, match="no number behind '####'"):
        check_gsm8k("#### 3", "three")


def test_unknown_checkers_are_named():
    with pytest.raises(InputError, match="unknown checker 'exakt'. Did you mean 'exact'"):
        find_checker("exakt")


def problems(count, first=0):
    steps = ["<<1+1=2>>" * (1 + i % 8) for i in range(first, first + count)]
    return [{"question": f"What is {i} + {i}?", "answer": f"{step} so\n#### {2 * i:,}"} for i, step in enumerate(steps, first)]


def write_folder(folder, **splits):
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_gsm8k_folders(tmp_path):
    folder = write_folder(tmp_path / "sums", train=problems(40), validation=problems(8, 100), test=problems(6, 200))
    questions = gsm8k_questions(folder)
    assert {part: len(found) for part, found in questions.parts.items()} == {
        "train": 30, "reference": 10, "reward": 8, "test": 6
    }  # fmt: skip
    assert questions.train.prompts[0].count("What is") == 1 and "####" in questions.train.prompts[0]
    assert len(questions.clusters) == 6 and set(questions.train.cluster) == set(range(6))
    assert all(questions.check(answer, answer) for answer in questions.train.answers)
    assert gsm8k_questions(folder).digest == questions.digest != gsm8k_questions(folder, seed=1).digest
    (folder / "validation.jsonl").unlink()
    without = gsm8k_questions("sums", data_dir=tmp_path)
    assert [len(without.parts[part]) for part in ("train", "reference", "reward")] == [20, 10, 10]


def test_the_hub_is_asked_for_a_hub_name(monkeypatch):
    import datasets

    asked = []

    def load(path, subset, revision=None):
        asked.append((path, subset))
        rows = {"train": problems(40), "test": problems(6, 200)}
        return datasets.DatasetDict({name: datasets.Dataset.from_list(found) for name, found in rows.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("DSENV_DATA_DIR", raising=False)
    assert len(gsm8k_questions("openai/gsm8k").test) == 6 and asked == [("openai/gsm8k", "main")]


def test_bad_questions_are_named(tmp_path):
    rows = problems(12)
    with pytest.raises(InputError, match="no column 'answer'; found question"):
        gsm8k_questions(write_folder(tmp_path / "a", train=[{"question": "?"}], test=rows))
    with pytest.raises(InputError, match="row 1 of test of .*no number behind '####'"):
        gsm8k_questions(write_folder(tmp_path / "b", train=rows, test=[rows[0], {"question": "?", "answer": "#### many"}]))
    with pytest.raises(InputError, match="row 0 of train of .*question ''"):
        gsm8k_questions(write_folder(tmp_path / "c", train=[{"question": "", "answer": "#### 1"}], test=rows))
    with pytest.raises(InputError, match="must have {question} in it"):
        gsm8k_questions(tmp_path / "b", prompt="Solve it")
    with pytest.raises(InputError, match="must hold one of test"):
        gsm8k_questions(write_folder(tmp_path / "d", train=rows))


def test_the_real_gsm8k(data_dir):
    questions = gsm8k_questions("gsm8k")
    assert {part: len(found) for part, found in questions.parts.items()} == {
        "train": 6717, "reference": 256, "reward": 500, "test": 1319
    }  # fmt: skip
    assert all(questions.check(answer, answer) for found in questions.parts.values() for answer in found.answers)
    assert np.bincount(questions.train.cluster).min() > 100


def test_questions_can_be_left_out(caplog):
    questions = arithmetic_questions()
    with caplog.at_level("INFO"):
        kept = questions.kept(lambda prompt: prompt[0] not in "<>")
    assert kept.meta["kept"]["train"] == "1920 of 2688" and "1920 of 2688" in caplog.text
    assert len(kept.train) == 1920 and "kept" not in questions.meta
    with pytest.raises(InputError, match="'train' is empty"):
        questions.kept(lambda prompt: False)


def test_clusters_of_vectors():
    """Vectors that are the kinds give the kinds; other parts follow the training part's centroids."""
    questions = arithmetic_questions()
    vectors = {part: np.eye(7)[found.cluster // LEVELS] for part, found in questions.parts.items()}
    clustered = questions.clustered(vectors, clusters=7)
    assert clustered.train.prompts == questions.train.prompts and clustered.digest != questions.digest
    home = {}
    for part, found in clustered.parts.items():
        kinds = questions.parts[part].cluster // LEVELS
        for kind, cluster in zip(kinds.tolist(), found.cluster.tolist(), strict=True):
            assert home.setdefault(kind, cluster) == cluster
    assert len(home) == 7 and set(home.values()) == set(range(len(clustered.clusters)))
    with pytest.raises(InputError, match=r"allowed are \(n, d\) for each part"):
        questions.clustered({**vectors, "test": vectors["test"][1:]})
