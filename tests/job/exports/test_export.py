"""A finished run is exported: the export is whole, measured by the run's ruler, and published."""

import errno
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from stored_runs import store_run
from tiny_models import SHAPES, build_model

from job.core.errors import MachineError, ModelError, SpecError, StorageError
from job.export import _calibration, _publish, export_run
from job.exports import build, kinds, proof, write
from job.exports.kinds import Kind, kind_of, require_packages
from job.exports.proof import prove_exportable, require_exportable
from job.exports.runtimes import import_openvino, open_export
from job.model.device import Machine
from job.model.encoder import load_model, open_encoder
from job.spec.parse import build_spec
from job.spec.schema import ModelSpec
from job.storage.workspace import sha256

pytestmark = pytest.mark.slow
ONNX, INT8 = Kind("onnx", "float32"), Kind("onnx", "int8")
TEXTS = ["ask1 ask2", "tell3 the tell4 of tell5", "ask3 " * 40]


@pytest.fixture(scope="module")
def stored(tmp_path_factory, pairs_file):
    """Store a run whose model has prompts, a dense layer and normalization."""
    folder = tmp_path_factory.mktemp("runs") / "dense layer"
    # As wide as the stored report says.
    shape = replace(SHAPES["dense layer"], dense=64, normalize=True)
    with patch.dict(SHAPES, {"dense layer": shape}):
        store_run(folder, "dense layer", pairs_file)
    (folder / "manifest.json").write_text('{"spec.json": {"bytes": 1, "sha256": "00"}}', "utf-8")
    return folder


@pytest.fixture(scope="module")
def exported(stored):
    """Export that run as ONNX in float32; return its folder and the printed lines."""
    lines = []
    export_run(stored, ONNX, str(stored), lines.append)
    return SimpleNamespace(folder=stored, lines=lines)


def facts_of(folder, name):
    session = json.loads((folder / "exports" / name / "export.json").read_text("utf-8"))
    (export,) = session["exports"]
    return session, export


def test_onnx_in_float32_equals_torch_in_vectors_and_verdict(exported):
    session, export = facts_of(exported.folder, "onnx-float32")
    assert export["cosine"] > 1 - 1e-6
    assert export["scores"] == session["original"]["scores"]
    assert [each["lift"]["lift"] for each in export["compared"]] == [0, 0]
    assert (export["keeps"], export["compared"][0]["at_least"]) == (True, 1.0)
    assert export["sentence"] == "`onnx-float32` has the original's vectors, up to rounding."


def test_an_export_has_the_models_prompts_and_dense_layer(exported):
    original = open_encoder(exported.folder / "model", "cpu", dtype="float32")
    found = open_export(exported.folder / "exports" / "onnx-float32")
    assert found.prompts == {"query": "ask9 is ", "document": "tell9 "}
    for texts in (TEXTS, TEXTS[:1]):
        for name in ("encode_query", "encode_document"):
            one, other = (
                getattr(m, name)(texts, convert_to_tensor=True) for m in (original, found)
            )
            assert other.shape == (len(texts), 64)
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_an_export_is_a_folder_of_sentence_transformers_without_the_weights(exported):
    folder = exported.folder / "exports" / "onnx-float32"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    wanted = {"modules.json", "config.json", "tokenizer.json", "onnx/model.onnx", "export.json"}
    assert wanted <= names
    assert "2_Dense/model.safetensors" in names
    assert not {"model.safetensors", "README.md"} & names


def test_report_card_and_manifest_have_the_export(exported):
    folder = exported.folder
    report = json.loads((folder / "report" / "report.json").read_text("utf-8"))
    assert [e["name"] for found in report["exports"] for e in found["exports"]] == ["onnx-float32"]
    sentence = "- `onnx-float32` has the original's vectors, up to rounding."
    for view in ("report/report.md", "model/README.md"):
        assert sentence in (folder / view).read_text("utf-8")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert {"spec.json", "exports/onnx-float32/onnx/model.onnx", "model/README.md"} <= {*manifest}
    for name, entry in manifest.items():
        if name != "spec.json":
            assert entry["sha256"] == sha256(folder / name)


def test_the_last_lines_are_the_table(exported):
    title, *table = exported.lines[2:]
    assert title.startswith("Exports, measured on ")
    assert title.endswith("test queries among 120 documents")
    assert [row.partition("  ")[0] for row in table[:4]] == [
        "export",
        "float32 (PyTorch)",
        "float32 (PyTorch)",
        "onnx-float32",
    ]


def test_a_finished_export_is_not_made_again_unless_it_or_the_model_changes(exported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(exported.folder, folder)
    path = folder / "exports" / "onnx-float32" / "onnx" / "model.onnx"
    lines = []

    export_run(folder, ONNX, str(folder), lines.append)
    assert not any(line.startswith("Measured") for line in lines)

    path.write_bytes(b"damaged")
    export_run(folder, ONNX, str(folder), lines.append)
    assert path.stat().st_size > 1000

    path.unlink()
    facts = path.parents[1] / "export.json"
    facts.write_text(facts.read_text("utf-8").replace('"model": "', '"model": "other'), "utf-8")
    export_run(folder, ONNX, str(folder), lines.append)
    assert path.stat().st_size > 1000


def test_a_lossy_export_is_kept_and_marked(stored, tmp_path, monkeypatch):
    """Its weights are rounded to a few steps, as a bad quantization does."""
    folder = tmp_path / "lossy"
    shutil.copytree(stored, folder, ignore=shutil.ignore_patterns("exports"))
    trace = write.trace

    def rounded(encoder, path):
        with torch.no_grad():
            for weights in encoder[0].model.parameters():
                step = weights.abs().max()
                weights.copy_((weights / step).round() * step)
        trace(encoder, path)

    monkeypatch.setattr(write, "trace", rounded)
    lines = []
    export_run(folder, INT8, str(folder), lines.append)

    _, export = facts_of(folder, "onnx-int8")
    assert (folder / "exports" / "onnx-int8" / "onnx" / "model.onnx").is_file()
    assert export["keeps"] is False
    assert "`onnx-int8` is not shown to keep 90% of the original's nDCG@10" in export["sentence"]
    assert any("not proven" in line for line in lines)
    for view in ("report/report.md", "report/report.html", "model/README.md"):
        assert "not proven" in (folder / view).read_text("utf-8")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    stored, tmp_path, monkeypatch
):
    def refuse(*_, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("job.exports.build.measure", None)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(StorageError) as raised:
        export_run(stored, INT8, str(stored), print)
    # pytest itself makes a folder at the end.
    monkeypatch.undo()
    exports = stored / "exports"
    assert str(raised.value) == f"`{exports}` cannot be written: Read-only file system."


def test_an_export_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "exports").write_text("a file")
    target = tmp_path / "exports" / "onnx-float32"
    with pytest.raises(StorageError, match=f"`{target}` cannot be written"):
        build._write(None, tmp_path, target, ONNX, [])


def test_a_run_in_s3_gets_the_export_its_report_and_then_the_manifest(exported):
    calls = []
    store = SimpleNamespace(
        read=lambda _: '{"exports/onnx-float32/old": {}, "spec.json": {}}',
        put=lambda files: calls.append(sorted(files)),
        write=lambda name, text: calls.append((name, sorted(json.loads(text)))),
    )
    _publish(exported.folder, ONNX, store)
    (files, (name, entries)) = calls
    assert {"exports/onnx-float32/onnx/model.onnx", "report/report.json", "model/README.md"} <= {
        *files
    }
    assert name == "manifest.json"
    assert entries == sorted([*files, "spec.json"])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("static embeddings", "it has static embeddings, a table that needs no faster format"),
        ("router", "it begins with a router instead of one transformer"),
    ],
)
def test_a_model_without_one_transformer_is_refused(shape, reason, tmp_path):
    model = load_model(
        ModelSpec(base=str(build_model(shape, tmp_path / "base"))), Machine("cpu", "float32", "")
    )
    with pytest.raises(ModelError, match=reason):
        prove_exportable(model, "some/model", [ONNX], TEXTS, tmp_path)


def test_missing_training_pairs_are_one_error(tmp_path):
    with pytest.raises(StorageError, match=r"train\.jsonl` cannot be read"):
        _calibration(tmp_path, "train")


def test_a_model_above_2_gb_is_refused(exported, monkeypatch):
    monkeypatch.setattr(proof, "MAX_BYTES", 1000)
    encoder = open_encoder(exported.folder / "model", "cpu", dtype="float32")
    with pytest.raises(ModelError, match=r"its weights take 0\.0 GB as float32, and an ONNX file"):
        require_exportable(encoder, "some/model")


def test_a_model_whose_trace_fails_or_differs_is_refused(tmp_path, monkeypatch):
    base = build_model("bert", tmp_path / "base")
    model = load_model(ModelSpec(base=str(base)), Machine("cpu", "float32", ""))
    trace = write.trace

    def other(encoder, path):
        with torch.no_grad():
            next(encoder[0].model.parameters()).mul_(-1)
        trace(encoder, path)
        with torch.no_grad():
            next(encoder[0].model.parameters()).mul_(-1)

    monkeypatch.setattr(write, "trace", other)
    with pytest.raises(ModelError, match="the export embeds a text differently"):
        prove_exportable(model, "some/model", [ONNX], TEXTS, tmp_path)

    def fails(encoder, path):
        msg = "no such operator\nand more"
        raise RuntimeError(msg)

    monkeypatch.setattr(write, "trace", fails)
    message = r"cannot be exported as onnx \(RuntimeError: no such operator\)"
    with pytest.raises(ModelError, match=message):
        prove_exportable(model, "some/model", [ONNX], TEXTS, tmp_path)
    assert not [*tmp_path.glob("proof-*")]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(kinds, "find_spec", lambda name: None if name == "nncf" else object())
    require_packages([ONNX])
    with pytest.raises(MachineError, match=r"\(`nncf`\): `pip install 'embedtune\[exports\]'`"):
        require_packages([ONNX, Kind("openvino", "int8")])


def test_an_unknown_export_is_refused_by_name():
    with pytest.raises(SpecError, match="`onnx-int4`"):
        kind_of("onnx-int4")
    with pytest.raises(SpecError, match="onnxruntime has no float16 on CPUs"):
        kind_of("onnx-float16")
    for value in ('["onnx-float16"]', '["onnx-int8", "onnx-int8"]'):
        with pytest.raises(SpecError, match=r"output\.exports"):
            build_spec({}, {"output.exports": value})


def test_openvino_is_imported_without_its_telemetry():
    import_openvino()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
