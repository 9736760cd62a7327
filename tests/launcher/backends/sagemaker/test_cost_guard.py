"""The maximum cost of a launch: the dearest instance type, its whole time, and its warm pool."""

import boto3
import pytest

from job.core.errors import BackendError
from job.spec.parse import build_spec
from launcher.aws.pricing import Price
from launcher.backends.sagemaker import context
from launcher.plan.machine import MachineOptions
from launcher.plan.plan import Plan

PRICES = {"ml.g5.2xlarge": 1.5, "ml.g5.48xlarge": 20.0, "ml.p9.huge": None}


@pytest.fixture
def confirm(monkeypatch, capsys):
    """Return a function that asks for a launch's cost; it returns the lines that are shown."""
    monkeypatch.setattr(
        context, "price_of", lambda kind, region, _: Price(PRICES[kind], "listed", region)
    )
    monkeypatch.setattr(context, "forecast", lambda _: None)
    spec = build_spec({}, {"data.source": "builtin:aws-docs", "output.uri": "s3://box/runs"})

    def lines(**options):
        capsys.readouterr()
        machine = MachineOptions("sagemaker", **{"max_runtime": 3600} | options)
        session = boto3.Session(region_name="us-east-1")
        price = context._confirm_cost(session, Plan("first", spec, machine))
        assert price.usd_per_hour == PRICES[machine.instance_types[0]]
        return capsys.readouterr().err.splitlines()

    return lines


def test_the_dearest_of_several_types_counts(confirm):
    kinds = ("ml.g5.2xlarge", "ml.g5.48xlarge")
    (line,) = confirm(instance_type=kinds, max_cost=20.0)
    assert line == (
        "1 × ml.g5.2xlarge or ml.g5.48xlarge for at most 1 h: at most $20.00 "
        "(at the price of the dearest, listed)"
    )
    with pytest.raises(BackendError, match=r"may cost more than `--max-cost 19\.9`"):
        confirm(instance_type=kinds, max_cost=19.9)


def test_the_warm_pool_counts(confirm):
    """SageMaker Developer Guide, "Train Using SageMaker Managed Warm Pools": it is billed, also
    after a failed algorithm.
    """
    pool = {"keep_alive": 1800, "instances": 2}
    job, kept = confirm(**pool, max_cost=4.5)
    assert job == "2 × ml.g5.2xlarge for at most 1 h: at most $3.00 (listed)"
    assert kept == (
        "Then kept for at most 30 min: at most $1.50, also after a failure, unless a similar job "
        "takes over; to end it: embedtune stop first --pool"
    )
    with pytest.raises(BackendError, match=r"`--max-cost 4\.4`"):
        confirm(**pool, max_cost=4.4)


def test_one_unknown_price_leaves_no_maximum(confirm):
    kinds = ("ml.g5.2xlarge", "ml.p9.huge")
    with pytest.raises(BackendError, match="may cost more"):
        confirm(instance_type=kinds, max_cost=1e6)
    (line,) = confirm(instance_type=kinds, yes=True)
    assert "at most $" not in line


def test_the_price_of_another_region_is_not_in_the_report(monkeypatch):
    """The job's report could not say which region's it is."""
    price = Price(1.5, "price of us-east-1, not eu-west-1", "us-east-1")
    monkeypatch.setattr(context, "_confirm_cost", lambda *_: price)
    monkeypatch.setattr("launcher.backends.sagemaker.account_checks.check_account", lambda *_: [])
    monkeypatch.setattr("launcher.aws.ecr.resolve_image", lambda _, image: image)
    spec = build_spec({}, {"data.source": "builtin:aws-docs", "output.uri": "s3://box/runs"})
    plan = Plan("first", spec, MachineOptions("sagemaker"))
    source = {"S3DataSource": {"S3Uri": "s3://box/inputs/first/spec/"}}
    spec_channel = {"ChannelName": "spec", "DataSource": source}
    for region, variables in (
        ("eu-west-1", {}),
        ("us-east-1", {"EMBEDTUNE_PRICE_PER_HOUR": "1.5"}),
    ):
        document = {
            "AlgorithmSpecification": {"TrainingImage": "x"},
            "RoleArn": "y",
            "InputDataConfig": [spec_channel],
            "Environment": {},
        }
        session = boto3.Session(region_name=region)
        assert context.complete_request(session, plan, document) == price
        assert document["Environment"] == variables
