"""Every tiny model is exported to the same vectors, or refused in one sentence at the start."""

import subprocess
import sys

import pytest
from tiny_models import ARCHITECTURES, MORE_ARCHITECTURES, OTHERS, TinyJobs, build_model

from job.core.errors import ModelError
from job.exports.kinds import Kind
from job.exports.proof import prove_exportable
from job.model.device import Machine
from job.model.encoder import load_model
from job.spec.schema import ModelSpec

TEXTS = ["ask1 ask2", "tell3 the tell4 of tell5", "ask3 " * 40]
REFUSED = {
    "static embeddings": "it has static embeddings",
    "model2vec": "it has static embeddings",
    "router": "it begins with a router instead of one transformer",
    "router with static queries": "it begins with a router instead of one transformer",
}
# OpenVINO reads the ONNX file, so a few architectures are enough.
BOTH = ("bert", "mpnet", "modernbert")
# Of the shapes, those that differ behind the transformer or in its weights.
SHAPED = (
    "cls and mean with LayerNorm",
    "T5 with dense layer, normalized",
    "bfloat16 weights",
    "no padding token",
)
NAMES = (*ARCHITECTURES, *MORE_ARCHITECTURES, *SHAPED)


def prove(name, folder, formats):
    base = build_model(name, folder / "base")
    model = load_model(ModelSpec(base=str(base)), Machine("cpu", "float32", ""))
    kinds = [Kind(each, "float32") for each in formats]
    prove_exportable(model, "some/model", kinds, TEXTS, folder)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_one_transformer_is_exported(name, tmp_path):
    """Whatever pools, transforms and normalizes its token embeddings, and in any format."""
    prove(name, tmp_path, ["onnx", "openvino"] if name in BOTH else ["onnx"])
    assert [path.name for path in tmp_path.glob("proof-*")] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_in_one_sentence(name, tmp_path):
    with pytest.raises(ModelError) as error:
        prove(name, tmp_path, ["onnx"])
    assert REFUSED[name] in str(error.value)
    assert str(error.value).startswith("The model `some/model` cannot be exported: ")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return TinyJobs(tmp_path_factory.mktemp("exports"))


@pytest.mark.exhaustive
def test_a_job_makes_all_its_exports(jobs):
    """They are published with the model, and the report has a row for each."""
    names = ["onnx-float32", "onnx-int8", "openvino-float16", "openvino-int8"]
    listed = ", ".join(f'"{name}"' for name in names)
    finished = jobs.run("bert", "exported", output__exports=f"[{listed}]")

    (session,) = finished.report["exports"]
    assert [export["name"] for export in session["exports"]] == names
    manifest = (finished.folder / "manifest.json").read_text("utf-8")
    files = {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.bin"}
    for name in names:
        file = f"exports/{name}/{files[name.partition('-')[0]]}"
        assert f'"{file}"' in manifest
        assert (finished.folder / file).is_file()
    by_name = {export["name"]: export for export in session["exports"]}
    assert by_name["onnx-float32"]["scores"] == session["original"]["scores"]
    tuned = finished.report["scores"]["tuned"]
    assert {d: found["float32"] for d, found in session["original"]["scores"].items()} == {
        d: pytest.approx(found["float32"]["ndcg@10"], abs=1e-9) for d, found in tuned.items()
    }
    sizes = {name: export["bytes"] for name, export in by_name.items()}
    assert sizes["onnx-int8"] < sizes["onnx-float32"]
    assert min(export["cosine"] for export in by_name.values()) > 0.99


@pytest.mark.exhaustive
def test_a_job_refuses_a_model_that_cannot_be_exported_before_it_scores(jobs):
    with pytest.raises(ModelError, match="it has static embeddings"):
        jobs.run("static embeddings", "refused", output__exports='["onnx-int8"]')
    log = (jobs.folder / "work" / "refused" / "output" / "data" / "logs" / "job.log").read_text()
    assert "proof: start" in log
    assert "score base" not in log


@pytest.mark.exhaustive
def test_the_command_exports_a_finished_run_and_refuses_what_is_not_offered(jobs):
    """The launcher starts the job's package, and ends with its exit code."""
    finished = jobs.finished("bert", "float32")
    command = [sys.executable, "-P", "-m", "launcher.cli", "export", finished.folder.name]
    command += ["--output", str(finished.folder.parent), "--format"]

    done = subprocess.run([*command, "onnx"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "`onnx-float32` has the original's vectors, up to rounding." in done.stdout
    assert (finished.folder / "exports" / "onnx-float32" / "export.json").is_file()

    refused = subprocess.run(
        [*command, "onnx", "--precision", "float16"], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 3
    assert "There is no export `onnx-float16`" in refused.stderr
