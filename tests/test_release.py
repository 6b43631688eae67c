"""What would be published: versions and licences agree, files belong there, readers run no code, checks can fail."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dsenv
from benchmarks import licences, release, wheel
from benchmarks.records import RESULTS
from dsenv.errors import InputError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_this_version_and_licence_and_the_papers_of_the_pages():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == dsenv.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    cited = [identifier["value"].replace(":", " ") for paper in citation["references"] for identifier in paper["identifiers"]]
    assert cited == ["arXiv 2509.25850", "arXiv 2506.05316"] and all(paper in pages for paper in cited)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A wheel and a source distribution of what git knows, without network."""
    folder = tmp_path_factory.mktemp("release")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(("benchmarks/results/", "docs/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder]  # the wheel: of the other
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dist"


def test_what_is_built_holds_what_belongs_there_alone(dist):
    (built,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert wheel.problems(wheel.wheel_sizes(built)) == []
    assert wheel.sdist_problems(wheel.sdist_sizes(source)) == []
    python = {name for name in wheel.wheel_sizes(built) if name.endswith(".py")}
    assert python == {path.relative_to(ROOT).as_posix() for path in (ROOT / "dsenv").rglob("*.py")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.wheel", dist], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "dsenv alone" in done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("benchmarks/soak.py", "benchmarks/soak.py is not of dsenv"),
        ("tests/test_env.py", "tests/test_env.py is not of dsenv"),
        ("dsenv/tasks/reviews.csv", "dsenv/tasks/reviews.csv is of no kind that is published"),
        ("dsenv/policies/agent.zip", "dsenv/policies/agent.zip is of no kind that is published"),
        ("dsenv/tasks/more-0123456789ab.npz", "6 task files, not 5"),
    ],
)
def test_a_file_too_many_is_found(dist, name, says):
    sizes = wheel.wheel_sizes(next(dist.glob("*.whl")))
    assert wheel.problems({**sizes, name: 1}) == [says]


def test_a_file_that_lacks_or_is_too_large_is_found(dist):
    sizes = wheel.wheel_sizes(next(dist.glob("*.whl")))
    licence = next(name for name in sizes if name.endswith("licenses/LICENSE"))
    without = {name: size for name, size in sizes.items() if name not in (licence, "dsenv/py.typed")}
    assert wheel.problems(without) == ["the licence is missing", "dsenv/py.typed is missing"]
    task = next(name for name in sizes if name.endswith(".npz"))
    assert "allowed are 20" in wheel.problems({**sizes, task: 30_000_000})[0]
    source = wheel.sdist_sizes(next(dist.glob("*.tar.gz")))
    del source["LICENSE"]
    assert wheel.sdist_problems({**source, "tests/a.py": 1}) == ["tests/a.py does not belong there", "LICENSE is missing"]


def calls():
    for path in sorted((ROOT / "dsenv").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                yield path.relative_to(ROOT / "dsenv").as_posix(), name, {word.arg: word.value for word in node.keywords}


def test_readers_run_no_code_of_a_file():
    """What SECURITY.md says: pickles between own processes alone, arrays without, models from safetensors."""
    made = list(calls())
    names = {(path, name) for path, name, _ in made}
    assert {path for path, name in names if name.startswith("pickle.")} == {"proxies/pool.py"}
    for word in (
        "torch.load",
        "eval",
        "exec",
        "joblib.load",
        "pandas.read_pickle",
        "yaml.load",
        "marshal.loads",
        "__import__",
    ):
        assert not [path for path, name in names if name == word], word
    for path, name, words in made:
        true = {word for word, value in words.items() if isinstance(value, ast.Constant) and value.value is True}
        assert not true & {"trust_remote_code", "allow_pickle"}, path
        if name in ("np.load", "np.savez_compressed", "np.save"):
            assert isinstance(words["allow_pickle"], ast.Constant) and words["allow_pickle"].value is False, path
        if name.endswith("from_pretrained") and not name.endswith(
            ("AutoTokenizer.from_pretrained", "AutoConfig.from_pretrained")
        ):
            assert "use_safetensors" in true, path
        if name.endswith("SentenceTransformer"):
            assert ast.unparse(words["model_kwargs"]) == "{'use_safetensors': True}"
    assert {path for path, name in names if name == "importlib.import_module"} == {
        "__init__.py",
        "encoders.py",
        "errors.py",
        "evaluation.py",
        "rendering.py",
    }  # fmt: skip - modules of ours, of extras, and module:function


def test_bounds_keep_out_libraries_that_are_known_not_to_do():
    """Each was tried: a bound that is lowered must be tried again (``python -m benchmarks.release --checks lowest``)."""
    core, extras = PROJECT["dependencies"], PROJECT["optional-dependencies"]
    assert "numpy>=2.2,<3" in core  # before, savez kept allow_pickle as one more array, and a saved task could not be read
    assert "scipy>=1.13" in core  # the first for numpy 2
    assert "datasets>=4" in extras["build"]  # before, datasets had code
    assert "sentence-transformers>=6" in extras["build"]  # before, classes were imported that a local folder names
    assert "transformers>=4.50,<5.40" in extras["finetune"]  # past_key_values goes then


def metadata(**fields):
    made = Message()
    for name, value in fields.items():
        made[name.replace("_", "-")] = value
    return made


def test_licences_are_read_and_judged():
    read, permissive = licences.licence_of, licences.is_permissive
    assert read(metadata(License_Expression="MIT AND MPL-2.0", License="x")) == "MIT AND MPL-2.0"
    assert read(metadata(Classifier="License :: OSI Approved :: BSD License", License="New BSD")) == "BSD-3-Clause"
    assert read(metadata(Classifier="License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)")) == "MPL-2.0"
    assert read(metadata(License="Copyright (c) A\n\nNeither the name of A")) == "BSD-3-Clause"
    assert read(metadata()) == "not stated" and read(metadata(License="Own words")) == "Own words"
    for fine in (
        "MIT",
        "Apache-2.0 OR GPL-2.0-only",
        "BSD-3-Clause AND 0BSD",
        "Apache-2.0 WITH LLVM-exception",
        "(MIT OR ISC)",
    ):
        assert permissive(fine), fine
    for other in ("LGPL", "GPL-3.0-only", "MPL-2.0 AND MIT", "not stated", "MIT AND (ISC OR LGPL)", "Own words"):
        assert not permissive(other), other


def test_the_licence_page_names_what_core_and_extras_ask_for():
    core, extras = PROJECT["dependencies"], PROJECT["optional-dependencies"]
    asked = {Requirement(line).name for line in (*core, *(line for extra in licences.EXTRAS for line in extras[extra]))}
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = {canonicalize_name(line.split(" | ")[0].strip("| ")) for line in page.splitlines() if line.startswith("| ")}
    assert {canonicalize_name(name) for name in asked} - listed == {"dsenv-gym"}, "run python -m benchmarks.licences"
    assert page.startswith(licences.HEAD)


def test_what_an_extra_brings_is_followed_to_the_end():
    core, ray = licences.closure("dsenv-gym", ""), licences.closure("dsenv-gym", "ray")
    assert {"numpy", "scipy", "gymnasium", "safetensors", "typer", "rich", "pygments"} <= core and "torch" not in core
    assert core < ray and "ray" in ray and "torch" in licences.closure("dsenv-gym", "minilm")
    with pytest.raises(InputError, match="'no-such-package' is not installed"):
        licences.closure("no-such-package", "")
    package = licences.Package(
        "scipy", "1.17", "BSD-3-Clause", ("core",), licences.bundled_in(["scipy.libs/libquadmath-2.so"])
    )
    page = licences.page([package, licences.Package("certifi", "1", "MPL-2.0", ("ray",), ())])
    assert "- **certifi** (ray): MPL-2.0" in page and "- libquadmath (LGPL-2.1-or-later): scipy" in page


def test_the_environment_of_a_check_knows_nothing_of_the_checkout(monkeypatch):
    for name in ("DSENV_DATA_DIR", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "here")
    assert not {"DSENV_DATA_DIR", "PYTHONPATH", "VIRTUAL_ENV"} & set(release.clean()) and "PATH" in release.clean()


def test_lowest_versions_are_those_of_the_project():
    assert [pin.replace("==", ">=") for pin in release.lowest()] == [line.split(",")[0] for line in PROJECT["dependencies"]]


def test_checks_pass_fail_stay_untried_and_are_not_made_twice(tmp_path, monkeypatch, capsys):
    made = []

    def check(name, error=None):
        def run(place):
            made.append(name)
            if error is not None:
                raise error
            return {"found": 1}

        return run, 0.1

    failing = f"import sys; sys.exit('no such thing in {tmp_path}')"
    with pytest.raises(release.Failed, match="status 1: no such thing") as failed:
        release.run([sys.executable, "-c", failing])
    checks = {
        "good": check("good"),
        "bad": check("bad", failed.value),
        "absent": check("absent", release.Untried("no network")),
    }
    monkeypatch.setattr(release, "CHECKS", checks)
    monkeypatch.setattr(release.Place, "digest", "one")
    monkeypatch.setattr(release, "find_pythons", lambda named: {})
    arguments = ["--json", str(tmp_path / "release.json"), "--work", str(tmp_path), "--checks"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            release.main([*arguments, *checks])
        assert ended.value.code == 1
    assert made == ["good", "bad", "absent", "bad", "absent"]
    with pytest.raises(SystemExit) as ended:
        release.main([*arguments, "good", "absent"])
    assert ended.value.code == 0 and "untried: absent" in capsys.readouterr().out
    monkeypatch.setattr(release.Place, "digest", "another")
    with pytest.raises(SystemExit):
        release.main([*arguments, "good"])
    assert made[-1] == "good"
    record = json.loads((tmp_path / "release.json").read_text())
    assert record["good"]["status"] == "passed" and record["good"]["found"] == 1 and record["good"]["wheel"] == "another"
    assert record["bad"]["status"] == "failed" and "in WORK" in record["bad"]["why"]
    assert record["absent"]["why"] == "no network"


def test_an_audit_that_reaches_nothing_is_untried(tmp_path, monkeypatch):
    (tmp_path / "installed.json").write_text(json.dumps({"numpy": "2.4.6", "dsenv-gym": "0.1.0"}))
    monkeypatch.setattr(release.Place, "tool", lambda place, name: Path(name))
    place = release.Place(tmp_path, {})
    asked = []

    def answering(known):
        def run(command, **keywords):
            asked.append(Path(command[-1]).read_text().split())
            vulnerable = [pin for pin in asked[-1] if pin in known]
            named = [{"name": pin, "version": "1", "vulns": [{"id": "CVE-1"}]} for pin in vulnerable]
            return SimpleNamespace(stdout=json.dumps({"dependencies": named}), stderr="")

        return run

    monkeypatch.setattr(release.subprocess, "run", answering([]))
    with pytest.raises(release.Untried, match="not reached"):
        release.check_audit(place)
    monkeypatch.setattr(release.subprocess, "run", answering([release.VULNERABLE]))
    assert release.check_audit(place) == {"packages": 1} and asked[-1] == ["numpy==2.4.6"]
    monkeypatch.setattr(release.subprocess, "run", answering([release.VULNERABLE, "numpy==2.4.6"]))
    with pytest.raises(release.Failed, match="CVE-1"):
        release.check_audit(place)


def test_every_extra_has_a_use():
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "libraries", "docs", "browser"}
    assert {name for key in release.EXTRAS for name in key.split(",")} == extras
    assert set(licences.EXTRAS) == extras - {"all"}


def test_the_committed_record_has_every_check_and_none_that_failed():
    record = json.loads((RESULTS / "release.json").read_text())
    assert set(record) == set(release.CHECKS)
    assert not [name for name, block in record.items() if block["status"] == "failed"]
    assert all(block["why"] for block in record.values() if block["status"] == "untried")
