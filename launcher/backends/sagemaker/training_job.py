"""Build SageMaker's `CreateTrainingJob` request from a plan and a stack, without calling AWS."""

from collections.abc import Iterator
from typing import Any

from job.core.errors import DataError, ModelError, SpecError
from job.storage.hub import SCHEME, parse_reference
from job.storage.stores import S3
from job.storage.workspace import DATA_CHANNELS, DEFAULT_ROOT
from launcher.aws.account import ECR
from launcher.aws.stack import Stack
from launcher.plan.plan import BUILTIN, Plan

# They identify a run's jobs: job names are never reused, while a run may have several jobs.
RUN_TAG, RUN_VARIABLE = "embedtune:run", "EMBEDTUNE_RUN"
# Where SageMaker stores the job's output folders, below the run's prefix.
SAGEMAKER_FOLDER = "sagemaker"
# Plotted in SageMaker's console; the maximum is forty metrics.
METRICS = {
    "train:loss": r"train: step=\S+ loss=([0-9.]+)",
    "train:learning_rate": r"train: step=.* learning_rate=([0-9.e+-]+)",
    "bm25:ndcg@10": r" bm25 ndcg@10: ([0-9.]+)",
}
METRIC_DIMENSIONS = (1024, 768, 512, 384, 256, 128, 64)
# Maximum wait for spot machines, in addition to the maximum runtime.
SPOT_WAIT_SECONDS = 3600
# Suffixes that distinguish a path from a Hub id, which contains slashes as well.
DATA_SUFFIXES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz",
    ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods",
)  # fmt: skip
# Everybody who may describe the job could read these variables.
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Without network the job publishes nothing; SageMaker uploads its output folders.
ISOLATED = {"HF_HUB_OFFLINE": "1", "EMBEDTUNE_NO_PUBLISH": "1"}


def build_request(plan: Plan, stack: Stack, name: str) -> dict[str, Any]:
    """Build the request of a run's job; `name` is the run's name, or `RUN-2` …"""
    machine = plan.machine
    run, checkpoints = plan.destination.uri, stack.prefix("checkpoints")
    request: dict[str, Any] = {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": stack.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": _metric_definitions(),
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "RoleArn": stack.role_arn,
        "InputDataConfig": [
            _channel(channel, uri, "File" if channel == "spec" else machine.input_mode)
            for channel, uri in channels(plan, stack).items()
        ],
        "OutputDataConfig": {
            "S3OutputPath": f"{run}/{SAGEMAKER_FOLDER}",
            "CompressionType": "NONE",
            **_key("KmsKeyId", plan.spec.output.kms_key or stack.kms_key_arn),
        },
        "CheckpointConfig": {
            "S3Uri": f"{checkpoints}/{plan.name}" if checkpoints else f"{run}/checkpoints",
            "LocalPath": str(DEFAULT_ROOT / "checkpoints"),
        },
        "ResourceConfig": _resources(plan),
        "StoppingCondition": _stopping(plan),
        "EnableManagedSpotTraining": machine.spot,
        "EnableNetworkIsolation": machine.isolate,
        "EnableInterContainerTrafficEncryption": False,
        "Environment": environment(plan, stack),
        "Tags": _tags(plan),
    }
    subnets = machine.subnet or stack.subnets
    groups = machine.security_group or stack.security_groups
    if subnets or groups:
        request["VpcConfig"] = {"Subnets": list(subnets), "SecurityGroupIds": list(groups)}
    return request


def channels(plan: Plan, stack: Stack) -> dict[str, str]:
    """Return the S3 URI of each channel; sources already in S3 are used in place."""
    in_s3 = {n: _exact(uri) for n, uri in plan.sources.items() if uri.startswith(S3)}
    staged = stack.prefix("inputs")
    folder = f"{staged}/{plan.name}" if staged else f"{plan.destination.uri}/input"
    return in_s3 | {name: f"{folder}/{name}/" for name in (*staging(plan), "spec")}


def staging(plan: Plan) -> dict[str, str]:
    """Return what to upload to S3 before the job starts, by channel: a path or a Hub model id."""
    sources = {name: str(path) for name, path in plan.inputs.items()}
    if plan.machine.isolate and _is_on_hub(plan, "model"):
        sources["model"] = plan.sources["model"]
    return sources


def environment(plan: Plan, stack: Stack) -> dict[str, str]:
    """Return the job's variables, which everybody who may describe the job sees: no secrets."""
    machine = plan.machine
    variables = dict(pair.split("=", 1) for pair in machine.env)
    variables |= {RUN_VARIABLE: plan.name, "EMBEDTUNE_DEVICE": machine.device}
    if machine.isolate:
        return variables | ISOLATED
    secret = machine.hf_token_secret or stack.hub_token_secret_arn
    if secret and plan.uses_hub:
        variables["EMBEDTUNE_HF_TOKEN_SECRET"] = secret
    return variables


def _is_on_hub(plan: Plan, channel: str) -> bool:
    source = plan.sources.get(channel, BUILTIN)
    return channel not in plan.inputs and not source.startswith((S3, BUILTIN))


def _metric_definitions() -> list[dict[str, str]]:
    found = dict(METRICS)
    for dimension in METRIC_DIMENSIONS:
        key = f"dim_{dimension}_cosine_ndcg@10"
        found |= {f"{model}:{key}": rf" {model} {key}: ([0-9.]+)" for model in ("base", "tuned")}
        found[f"validation:{key}"] = rf"validate: step=\S+ {key}: ([0-9.]+)"
    return [{"Name": name, "Regex": regex} for name, regex in found.items()]


def _channel(name: str, uri: str, mode: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def _exact(uri: str) -> str:
    """Append a slash to a folder: its bare prefix would match longer names as well."""
    name = uri.rpartition("/")[2]
    return uri if "." in name or uri.endswith("/") else uri + "/"


def _resources(plan: Plan) -> dict[str, Any]:
    machine = plan.machine
    count = machine.instances
    preferences = [{"InstanceType": k, "InstanceCount": count} for k in machine.instance_types]
    return {
        **(preferences[0] if len(preferences) == 1 else {"InstancePreferences": preferences}),
        "VolumeSizeInGB": machine.volume_gb,
        **_key("VolumeKmsKeyId", machine.volume_kms_key),
        **_key("KeepAlivePeriodInSeconds", machine.keep_alive),
    }


def _stopping(plan: Plan) -> dict[str, int]:
    machine = plan.machine
    wait = machine.max_wait
    if wait is None and machine.spot:
        wait = machine.max_runtime + SPOT_WAIT_SECONDS
    runtime = {"MaxRuntimeInSeconds": machine.max_runtime}
    return runtime if wait is None else runtime | {"MaxWaitTimeInSeconds": wait}


def _tags(plan: Plan) -> list[dict[str, str]]:
    tags = dict(pair.split("=", 1) for pair in plan.machine.tag)
    tags[RUN_TAG] = plan.name
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _key(name: str, value: object) -> dict[str, object]:
    """Return the member if it has a value, else nothing."""
    return {name: value} if value else {}


def check_plan(plan: Plan) -> None:
    """Raise for mistakes that the finished request would not show."""
    for mistake in _mistakes(plan):
        raise SpecError(mistake)
    _check_inputs(plan)


def _mistakes(plan: Plan) -> Iterator[str]:
    machine, output = plan.machine, plan.spec.output
    for field, pairs in (("tag", machine.tag), ("env", machine.env)):
        for pair in pairs:
            if "=" not in pair:
                yield f"`--{field} {pair}`: expected NAME=VALUE."
    if given := [pair.partition("=")[0] for pair in machine.env if pair.startswith(TOKENS)]:
        yield (
            f"`--env {given[0]}=…` would show the token to everybody who may describe the job: "
            "store it in AWS Secrets Manager and use `--hf-token-secret ARN`."
        )
    if (image := machine.image) and not ECR.fullmatch(image.partition("/")[0]):
        yield (
            f"`--image {image}`: SageMaker pulls images from ECR only, for instance "
            "`123456789012.dkr.ecr.us-east-1.amazonaws.com/embedtune:1`."
        )
    if (secret := machine.hf_token_secret) and not secret.startswith("arn:"):
        yield f"`--hf-token-secret {secret}`: expected an ARN, arn:aws:secretsmanager:…"
    if not output.uri.startswith(S3):
        yield (
            f"`--backend sagemaker` writes results to S3, but `--output` is `{output.uri}`: use "
            "`--output s3://bucket/prefix`, or create the stack (`embedtune infra deploy`), whose "
            "bucket is the default."
        )
    if machine.isolate:
        no_network = "`--isolate` starts the job without network: "
        if output.hub:
            yield f"{no_network}it cannot push to `output.hub`."
        if secret:
            yield f"{no_network}it cannot read `--hf-token-secret`."
        for channel in DATA_CHANNELS:
            if _is_on_hub(plan, channel):
                yield f"{no_network}download `{plan.sources[channel]}` first and use its folder."


def _check_inputs(plan: Plan) -> None:
    """Raise for missing inputs now rather than minutes later on a paid machine."""
    for channel, source in plan.sources.items():
        error = ModelError if channel == "model" else DataError
        path = plan.inputs.get(channel)
        if path is None and not _may_be_elsewhere(channel, source):
            msg = f"There is no local file or folder `{source}`."
            raise error(msg)
        if path and path.is_dir() and not any(path.iterdir()):
            msg = f"The folder `{source}` is empty."
            raise error(msg)


def _may_be_elsewhere(channel: str, source: str) -> bool:
    """Whether a source is a URI or a Hub id rather than a path; the job decides the same way."""
    if source.startswith((S3, BUILTIN, SCHEME)):
        return True
    if channel == "model":
        return not source.startswith((".", "/", "~")) and source.count("/") < 2
    return not source.endswith(DATA_SUFFIXES) and parse_reference(source) is not None
