"""Build SageMaker's `CreateTrainingJob` request from a plan and a stack, without calling AWS."""

from collections.abc import Iterator
from typing import Any

from job.core.errors import DataError, ModelError, SpecError
from job.spec.generation_section import local_model
from job.storage.stores import S3
from job.storage.workspace import DATA_CHANNELS, DEFAULT_ROOT
from launcher.aws.ecr import ECR
from launcher.aws.stack import Stack
from launcher.backends.sagemaker.channels import channels, is_on_hub, may_be_elsewhere
from launcher.plan.plan import MODELS, Plan

# They identify a run's jobs: job names are never reused, while a run may have several jobs.
RUN_TAG, RUN_VARIABLE = "embedtune:run", "EMBEDTUNE_RUN"
# The URI of the run's results.
RESULTS_VARIABLE = "EMBEDTUNE_RESULTS"
# Where SageMaker uploads what a job leaves in its output folders: a prefix of the stack's bucket,
# or a folder of the run.
SAGEMAKER_FOLDER = "sagemaker"
# Of a job that an internal error of SageMaker ended; it resumes from its checkpoint, and its
# maximum runtime covers all attempts.
RETRIES = 2
# Plotted in SageMaker's console; the maximum is forty metrics.
METRICS = {
    "train:loss": r"train: step=\S+ loss=([0-9.]+)",
    "train:learning_rate": r"train: step=.* learning_rate=([0-9.e+-]+)",
    # Of the model that is kept; the objective of an automatic tuning, which reads the last value.
    "validation:best": r"train: done .*best_validation=([0-9.]+)",
    "bm25:ndcg@10": r" bm25 ndcg@10: ([0-9.]+)",
}
METRIC_DIMENSIONS = (1024, 768, 512, 384, 256, 128, 64)
# Maximum wait for spot machines, in addition to the maximum runtime.
SPOT_WAIT_SECONDS = 3600
# Everybody who may describe the job could read these variables.
TOKENS = {
    "HF_TOKEN": "--hf-token-secret",
    "HUGGING_FACE_HUB_TOKEN": "--hf-token-secret",
    "EMBEDTUNE_LLM_KEY": "--llm-key-secret",
}
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
            "MetricDefinitions": metric_definitions(),
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "RoleArn": stack.role_arn,
        "InputDataConfig": channels(plan, stack),
        "OutputDataConfig": {
            "S3OutputPath": _output_path(plan, stack),
            "CompressionType": "NONE",
            **_key("KmsKeyId", plan.spec.output.kms_key or stack.kms_key_arn),
        },
        "CheckpointConfig": {
            # Without the slash, the run `a1` would also get, and delete, the checkpoints of `a10`.
            "S3Uri": f"{checkpoints}/{plan.name}/" if checkpoints else f"{run}/checkpoints/",
            "LocalPath": str(DEFAULT_ROOT / "checkpoints"),
        },
        "ResourceConfig": _resources(plan),
        "StoppingCondition": _stopping(plan),
        "RetryStrategy": {"MaximumRetryAttempts": RETRIES},
        "EnableManagedSpotTraining": machine.spot,
        "EnableNetworkIsolation": machine.isolate,
        "EnableInterContainerTrafficEncryption": machine.encrypt_traffic,
        "Environment": environment(plan, stack),
        "Tags": _tags(plan),
    }
    subnets = machine.subnet or stack.subnets
    groups = machine.security_group or stack.security_groups
    if subnets or groups:
        request["VpcConfig"] = {"Subnets": list(subnets), "SecurityGroupIds": list(groups)}
    return request


def environment(plan: Plan, stack: Stack) -> dict[str, str]:
    """Return the job's variables, which everybody who may describe the job sees: no secrets."""
    machine = plan.machine
    variables = dict(pair.split("=", 1) for pair in machine.env)
    # SageMaker documents no variable for the region.
    variables |= {"AWS_DEFAULT_REGION": stack.region, RUN_VARIABLE: plan.name}
    variables |= {RESULTS_VARIABLE: plan.destination.uri, "EMBEDTUNE_DEVICE": machine.device}
    if machine.spot:
        variables["EMBEDTUNE_SPOT"] = "1"
    if machine.isolate:
        return variables | ISOLATED
    variables["EMBEDTUNE_DELETE_PUBLISHED"] = "1"
    secret = machine.hf_token_secret or stack.hub_token_secret_arn
    if secret and plan.uses_hub:
        variables["EMBEDTUNE_HF_TOKEN_SECRET"] = secret
    key = machine.llm_key_secret or stack.llm_key_secret_arn
    if key and plan.spec.data.documents:
        variables["EMBEDTUNE_LLM_KEY_SECRET"] = key
    return variables


def _output_path(plan: Plan, stack: Stack) -> str:
    """Return where SageMaker uploads what the job leaves in its output folders.

    A prefix that expires: the job publishes its results itself. An isolated job cannot.
    """
    expiring = None if plan.machine.isolate else stack.prefix(SAGEMAKER_FOLDER)
    return f"{expiring}/{plan.name}" if expiring else f"{plan.destination.uri}/{SAGEMAKER_FOLDER}"


def metric_definitions() -> list[dict[str, str]]:
    """Return names and regular expressions of the scores in the job's log."""
    found = dict(METRICS)
    for dimension in METRIC_DIMENSIONS:
        key = f"dim_{dimension}_cosine_ndcg@10"
        found |= {f"{model}:{key}": rf" {model} {key}: ([0-9.]+)" for model in ("base", "tuned")}
        found[f"validation:{key}"] = rf"validate: step=\S+ {key}: ([0-9.]+)"
    return [{"Name": name, "Regex": regex} for name, regex in found.items()]


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
    if given := [name for name in (p.partition("=")[0] for p in machine.env) if name in TOKENS]:
        yield (
            f"`--env {given[0]}=…` would show the token to everybody who may describe the job: "
            f"store it in AWS Secrets Manager and use `{TOKENS[given[0]]} ARN`."
        )
    if (image := machine.image) and not ECR.fullmatch(image.partition("/")[0]):
        yield (
            f"`--image {image}`: SageMaker pulls images from ECR only, for instance "
            "`123456789012.dkr.ecr.us-east-1.amazonaws.com/embedtune:1`."
        )
    secrets = {"hf-token": machine.hf_token_secret, "llm-key": machine.llm_key_secret}
    for name, secret in secrets.items():
        if secret and not secret.startswith("arn:"):
            yield f"`--{name}-secret {secret}`: expected an ARN, arn:aws:secretsmanager:…"
    if not output.uri.startswith(S3):
        yield (
            f"`--backend sagemaker` writes results to S3, but `--output` is `{output.uri}`: use "
            "`--output s3://bucket/prefix`, or create the stack (`embedtune infra deploy`), whose "
            "bucket is the default."
        )
    if machine.isolate:
        yield from (f"`--isolate` starts the job without network: {it}" for it in _needs(plan))


def _needs(plan: Plan) -> Iterator[str]:
    """Yield what a job would need a network for."""
    if plan.spec.output.hub:
        yield "it cannot push to `output.hub`."
    for field, name in plan.spec.generation.models.items() if plan.spec.data.documents else ():
        if local_model(name) is None:
            yield f"it cannot ask `generation.{field}`. Write the pairs first (`embedtune pairs`)."
        elif is_on_hub(plan, field):
            yield f"download `{plan.sources[field]}` first: `generation.{field}=local:FOLDER`."
    if plan.machine.hf_token_secret:
        yield "it cannot read `--hf-token-secret`."
    for channel in DATA_CHANNELS:
        if is_on_hub(plan, channel):
            yield f"download `{plan.sources[channel]}` first and use its folder."


def _check_inputs(plan: Plan) -> None:
    """Raise for missing inputs now rather than minutes later on a paid machine."""
    for channel, source in plan.sources.items():
        error = ModelError if channel in MODELS else DataError
        path = plan.inputs.get(channel)
        if path is None and not may_be_elsewhere(channel, source):
            msg = f"There is no local file or folder `{source}`."
            raise error(msg)
        if path and path.is_dir() and not any(path.iterdir()):
            msg = f"The folder `{source}` is empty."
            raise error(msg)
