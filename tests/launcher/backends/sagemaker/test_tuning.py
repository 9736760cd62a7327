"""SageMaker's automatic tuning: its metrics, and the request in launcher/README.md."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from click.testing import CliRunner

from job.core.log_lines import write_line
from job.storage.workspace import Workspace
from launcher.aws.stack import template_text
from launcher.backends.sagemaker.request_validation import _limits, _values
from launcher.backends.sagemaker.training_job import SAGEMAKER_FOLDER
from launcher.cli import main

README = Path(__file__).parents[4] / "launcher" / "README.md"
RANGES = ("ContinuousParameterRanges", "IntegerParameterRanges")


@pytest.fixture(scope="module")
def request_in_readme():
    (text,) = re.findall(
        r"```json\n(\{\n  \"HyperParameter.*?\n\})\n```", README.read_text(), re.DOTALL
    )
    return json.loads(text)


def metrics():
    done = CliRunner().invoke(main, ["schema", "--metrics"])
    assert done.exit_code == 0
    return {each["Name"]: each["Regex"] for each in json.loads(done.stdout)}


def test_the_request_is_valid(request_in_readme):
    """By SageMaker's service model: names, types, sizes, patterns and enumerations."""
    service = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    shape = service.operation_model("CreateHyperParameterTuningJob").input_shape
    assert not ParamValidator().validate(request_in_readme, shape).has_errors()
    faults = [fault for value in _values(shape, request_in_readme, "") for fault in _limits(*value)]
    assert faults == []


def test_the_jobs_store_their_results_once(request_in_readme):
    """They delete what they have published; the rest is below a prefix that expires."""
    job = request_in_readme["TrainingJobDefinition"]
    assert job["Environment"] == {"EMBEDTUNE_DELETE_PUBLISHED": "1"}
    folder = job["OutputDataConfig"]["S3OutputPath"].removeprefix("s3://BUCKET/").partition("/")[0]
    assert re.search(rf"Prefix: {folder}/, ExpirationInDays", template_text())
    assert folder == SAGEMAKER_FOLDER


def test_the_objective_is_a_metric_that_the_job_logs_once(request_in_readme):
    """SageMaker API reference, "FinalHyperParameterTuningJobObjectiveMetric": the latest value."""
    config, job = (
        request_in_readme[name]
        for name in ("HyperParameterTuningJobConfig", "TrainingJobDefinition")
    )
    (metric,) = job["AlgorithmSpecification"]["MetricDefinitions"]
    assert metric["Name"] == config["HyperParameterTuningJobObjective"]["MetricName"]
    assert metrics()[metric["Name"]] == metric["Regex"]
    facts = {"seconds": 3.2, "steps": 12, "resumed_from_step": 0, "best_validation": 0.8123}
    line = write_line("train", "done", facts)
    assert re.search(metric["Regex"], line)[1] == "0.8123"


def test_the_tuned_fields_are_fields_of_the_spec(request_in_readme, tmp_path):
    """Both ends of each range, beside the hyperparameters that SageMaker adds."""
    ranges = request_in_readme["HyperParameterTuningJobConfig"]["ParameterRanges"]
    ends = {
        each["Name"]: (each["MinValue"], each["MaxValue"])
        for kind in RANGES
        for each in ranges[kind]
    }
    ends |= {each["Name"]: each["Values"] for each in ranges["CategoricalParameterRanges"]}
    fixed = request_in_readme["TrainingJobDefinition"]["StaticHyperParameters"]
    added = {"_tuning_objective_metric": "validation:best", "sagemaker_container_log_level": "20"}
    path = tmp_path / "input" / "config" / "hyperparameters.json"
    path.parent.mkdir(parents=True)
    for values in product(*ends.values()):
        path.write_text(json.dumps(fixed | added | dict(zip(ends, values, strict=True))))
        training = Workspace(tmp_path).read_spec().training
        found = (training.learning_rate, training.epochs, training.batch_size)
        assert found == tuple(map(float, values))
