"""A job's input channels: staged inputs, and files and folders that are in S3 already.

SageMaker gives a job all objects whose keys begin with a channel's prefix. So a folder's prefix
ends with a slash; a single file is named by a manifest, which FastFile cannot read.
"""

import json
from collections.abc import Mapping
from typing import Any

from job.storage.hub import SCHEME, parse_reference
from job.storage.stores import S3
from launcher.aws.stack import Stack
from launcher.plan.plan import BUILTIN, MODELS, Plan

MANIFEST = "ManifestFile"
# Suffixes that distinguish a path from a Hub id, which contains slashes as well.
DATA_SUFFIXES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz",
    ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods",
    ".txt", ".md", ".markdown", ".rst", ".html", ".htm", ".pdf", ".docx",
)  # fmt: skip
# Of single files in S3: data, or the archive of a model.
FILE_SUFFIXES = (*DATA_SUFFIXES, ".tgz", ".bz2", ".xz", ".zst")

Channel = dict[str, Any]


def channels(plan: Plan, stack: Stack) -> list[Channel]:
    """Return the request's channels; a source in S3 is a file if its name has a file's suffix."""
    folder, in_s3 = input_folder(plan, stack), sources_in_s3(plan)
    found = [
        source_channel(
            name, uri, folder, plan.machine.input_mode, is_file=uri.endswith(FILE_SUFFIXES)
        )
        for name, uri in in_s3.items()
    ]
    mode = plan.machine.input_mode
    found += [_channel(name, f"{folder}/{name}/", mode) for name in staging(plan)]
    return [*found, _channel("spec", f"{folder}/spec/", "File")]


def correct_channels(document: Mapping[str, Any], plan: Plan, is_file: Mapping[str, bool]) -> None:
    """Replace a request's channels for sources that S3 shows to be files, or folders."""
    spec = next(c for c in document["InputDataConfig"] if c["ChannelName"] == "spec")
    folder = spec["DataSource"]["S3DataSource"]["S3Uri"].removesuffix("/spec/")
    in_s3, mode = sources_in_s3(plan), plan.machine.input_mode
    for channel in document["InputDataConfig"]:
        if (name := channel["ChannelName"]) in is_file:
            found = source_channel(name, in_s3[name], folder, mode, is_file=is_file[name])
            channel.update(found)


def source_channel(name: str, uri: str, folder: str, mode: str, *, is_file: bool) -> Channel:
    """Return the channel of a file or folder in S3; a file's manifest is in `folder`."""
    if is_file:
        return _channel(name, f"{folder}/{name}.manifest", "File", MANIFEST)
    return _channel(name, uri.rstrip("/") + "/", mode)


def manifests(document: Mapping[str, Any], plan: Plan) -> dict[str, str]:
    """Return the text of each manifest of a request, by its URI."""
    in_s3, found = sources_in_s3(plan), {}
    for channel in document["InputDataConfig"]:
        source = channel["DataSource"]["S3DataSource"]
        if source["S3DataType"] == MANIFEST:
            prefix, _, name = in_s3[channel["ChannelName"]].rpartition("/")
            found[source["S3Uri"]] = json.dumps([{"prefix": f"{prefix}/"}, name])
    return found


def input_folder(plan: Plan, stack: Stack) -> str:
    """Return the URI of the run's staged inputs."""
    staged = stack.prefix("inputs")
    return f"{staged}/{plan.name}" if staged else f"{plan.destination.uri}/input"


def sources_in_s3(plan: Plan) -> dict[str, str]:
    return {name: uri for name, uri in plan.sources.items() if uri.startswith(S3)}


def staging(plan: Plan) -> dict[str, str]:
    """Return what to upload to S3 before the job starts, by channel: a path or a Hub model id."""
    sources = {name: str(path) for name, path in plan.inputs.items()}
    if plan.machine.isolate and is_on_hub(plan, "model"):
        sources["model"] = plan.sources["model"]
    return sources


def is_on_hub(plan: Plan, channel: str) -> bool:
    source = plan.sources.get(channel, BUILTIN)
    return channel not in plan.inputs and not source.startswith((S3, BUILTIN))


def may_be_elsewhere(channel: str, source: str) -> bool:
    """Whether a source is a URI or a Hub id rather than a path; the job decides the same way."""
    if source.startswith((S3, BUILTIN, SCHEME)):
        return True
    if channel in MODELS:
        return not source.startswith((".", "/", "~")) and source.count("/") < 2
    return not source.endswith(DATA_SUFFIXES) and parse_reference(source) is not None


def _channel(name: str, uri: str, mode: str, kind: str = "S3Prefix") -> Channel:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}
