"""``python -m export web``: a folder that holds the page, the runtime and the models, and says what is in it."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from daps_tokenizer.errors import DapsError, OutputExistsError, UnsupportedError
from daps_tokenizer.hub import open_model
from export import web
from export.__main__ import main
from tests.paths import ROOT

needs_npm = pytest.mark.skipif(
    not (ROOT / "web" / "node_modules" / "onnxruntime-web").is_dir(), reason="needs `npm ci` in web/"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("web") / "site"
    web.export_site([open_model("daps-mnist"), open_model("daps-h1-motion")], out)
    return out


@needs_npm
def test_the_record_names_every_file_that_is_downloaded_and_its_size(site: Path) -> None:
    record = json.loads((site / "site.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in record["models"]] == ["daps-mnist", "daps-h1-motion"]
    assert {generator["tokenizer"] for generator in record["generators"]} == {"daps-mnist"}
    parts = [record["runtime"], *(one["files"] for one in [*record["models"], *record["generators"]])]
    for path, size in [item for part in parts for item in part.items()]:
        assert (site / path).stat().st_size == size
    assert set(record["examples"]) == {"grey", "h1"}  # no photographs where no model takes them
    assert record["examples"]["h1"] == ["examples/walk.csv"] and (site / "examples" / "walk.csv").is_file()
    assert record["models"][0]["robot"] is None and record["models"][1]["robot"]["name"] == "H1"
    assert record["models"][0]["weightsSha256"] == open_model("daps-mnist").config.weights_sha256
    packed = (site / "runtime" / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
    assert gzip.decompress(packed)[:4] == b"\0asm"


def version(folder: Path) -> str:
    found = re.search(r'"version": "([0-9a-f]{16})"', (folder / "sw.js").read_text(encoding="utf-8"))
    assert found
    return found[1]


@needs_npm
def test_the_service_worker_knows_the_page(site: Path) -> None:
    text = (site / "sw.js").read_text(encoding="utf-8")
    assert "not exported" not in text
    assert all(f'"{name}"' in text for name in ("index.html", "style.css", "daps.js", "worker.js", "site.json"))


@needs_npm
def test_the_page_asks_for_nothing_but_files_of_the_site(site: Path) -> None:
    html = (site / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    service = re.search(r'POLICY =\s+"([^;]+; [^"]*)" \+\s+"([^"]*)"', (site / "sw.js").read_text(encoding="utf-8"))
    assert policy and service and policy[1] == service[1] + service[2]
    for link in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert (site / link).is_file(), link
    for path in site.glob("*.js"):
        addresses = re.findall(r"https?://[^\s\"'`]+", path.read_text(encoding="utf-8"))
        assert not [address for address in addresses if "w3.org" not in address], path


@needs_npm
def test_the_command_replaces_a_site_if_told_to_and_its_version_is_that_of_the_content(
    site: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    first = CliRunner().invoke(main, ["web", "daps-mnist", "-o", str(out)])
    assert first.exit_code == 0 and "to look at it: python -m http.server -d" in first.output
    before = version(out)
    again = CliRunner().invoke(main, ["web", "daps-mnist", "-o", str(out)])
    assert again.exit_code == 2 and "already exists; --force replaces it" in again.output
    assert CliRunner().invoke(main, ["web", "daps-mnist", "-o", str(out), "--force"]).exit_code == 0
    assert version(out) == before != version(site)
    with pytest.raises(OutputExistsError, match="is no site made by this command"):
        web.export_site([open_model("daps-mnist")], tmp_path, overwrite=True)


def test_without_the_runtime_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PAGE", tmp_path / "web")
    with pytest.raises(DapsError, match=r"onnxruntime-web is not installed; run `npm ci` in web/ once"):
        web.export_site([open_model("daps-mnist")], tmp_path / "site")
    assert not (tmp_path / "site").exists()


@needs_npm
def test_a_model_without_probabilities_is_refused(tmp_path: Path) -> None:
    model = open_model("daps-mnist")
    model.config.files.pop("onnx/scorer.onnx")
    with pytest.raises(UnsupportedError, match="daps-mnist has no probabilities to show"):
        web.export_site([model], tmp_path / "site")
    assert not (tmp_path / "site").exists()


@needs_npm
def test_a_site_stays_where_what_would_replace_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "site.json").write_text("{}")
    model = open_model("daps-mnist")
    model.config.files.pop("onnx/scorer.onnx")
    with pytest.raises(UnsupportedError):
        web.export_site([model], tmp_path / "site", overwrite=True)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["site.json"]
