"""Prices from AWS's list or our table, and estimates of a job's time, with their basis."""

import json
import os
import re
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber

from launcher.aws import pricing as prices
from launcher.aws.instances import GPUS, NETWORK_GBITS
from launcher.aws.pricing import TABLE, Estimate, Price, dearest, estimate, price_of
from launcher.backends.sagemaker.request_validation import _model


class Session(boto3.Session):
    """Returns one stubbed client, and records which services were requested."""

    def __init__(self, stubbed):
        super().__init__("test", "test", region_name="eu-central-1")
        self.stubbed, self.requested = stubbed, []

    def client(self, service_name, **options):
        self.requested.append((service_name, options["region_name"]))
        return self.stubbed


@pytest.fixture
def pricing(monkeypatch):
    """A session and the stub of its client for AWS's price list."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    client = boto3.client("pricing", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        yield Session(client), stub
        stub.assert_no_pending_responses()


def query(**more):
    """Return the price list query for an ml.g5.2xlarge in Frankfurt."""
    fields = {
        "productFamily": "ML Instance",
        "regionCode": "eu-central-1",
        "instanceName": "ml.g5.2xlarge",
        "platoinstancetype": "Training",
    }
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in fields.items()]
    return {"ServiceCode": "AmazonSageMaker", "Filters": filters} | more


def product(usd, unit="Hrs", currency="USD"):
    dimension = {"unit": unit, "pricePerUnit": {currency: usd}}
    return json.dumps({"terms": {"OnDemand": {"A": {"priceDimensions": {"B": dimension}}}}})


def test_the_price_comes_from_aws_for_the_jobs_region(pricing):
    """All pages are read; zeros, other units and other currencies are ignored."""
    session, stub = pricing
    odd = [product("0.0000000000"), product("99", unit="Quantity"), product("9", currency="CNY")]
    stub.add_response("get_products", {"PriceList": odd, "NextToken": "more"}, query())
    second = {"PriceList": [product("1.8945"), json.dumps({"terms": {}})]}
    stub.add_response("get_products", second, query(NextToken="more"))
    assert price_of("ml.g5.2xlarge", "eu-central-1", session) == Price(
        1.8945, "AWS's price list, on demand in eu-central-1", "eu-central-1"
    )
    # The price list has endpoints in a few regions only.
    assert session.requested == [("pricing", "us-east-1")]


FALLBACK = "price of us-east-1, not eu-central-1, by a table of 2026-11-23"
ABSENT = "AWS's price list has no ml.g5.2xlarge in eu-central-1"


@pytest.mark.parametrize(
    ("listed", "usd", "basis", "region"),
    [
        # The upper bound on the cost must hold for the highest price.
        (
            [product("1"), product("2")],
            2,
            "AWS's price list, on demand in eu-central-1",
            "eu-central-1",
        ),
        ([], 1.515, f"{FALLBACK} ({ABSENT})", "us-east-1"),
        # A listed price of zero is for free or reserved capacity.
        ([product("0.0")], 1.515, f"{FALLBACK} ({ABSENT})", "us-east-1"),
    ],
)
def test_the_highest_listed_price_counts(pricing, listed, usd, basis, region):
    session, stub = pricing
    stub.add_response("get_products", {"PriceList": listed}, query())
    assert price_of("ml.g5.2xlarge", "eu-central-1", session) == Price(usd, basis, region)


def test_without_permission_the_table_is_used_and_the_basis_says_so(pricing):
    session, stub = pricing
    stub.add_client_error("get_products", "AccessDeniedException", "no", 400)
    price = price_of("ml.g5.2xlarge", "eu-central-1", session)
    assert price.usd_per_hour == 1.515
    assert price.basis.startswith(FALLBACK)
    assert "AccessDeniedException" in price.basis
    # The basis holds the reason without the advice.
    assert "embedtune doctor" not in price.basis


def test_without_a_session_the_table_is_used_and_an_unknown_price_stays_unknown():
    """An unknown price gives neither a bound nor a cost."""
    basis = "price of us-east-1, by a table of 2026-11-23"
    assert price_of("ml.g5.2xlarge", "us-east-1") == Price(1.515, basis, "us-east-1")
    price = price_of("ml.p5.48xlarge", "us-east-1")
    assert price == Price(None, "the price of ml.p5.48xlarge is unknown")
    assert price.usd(3600) is None
    assert dearest([Price(1, ""), Price(3, ""), Price(2, "")]).usd_per_hour == 3
    assert dearest([Price(1, ""), price]) is price
    assert Price(1.515, "").usd(206) == pytest.approx(0.0867, abs=1e-4)


def test_the_tables_contain_only_instance_types_that_exist():
    known = _model().members["ResourceConfig"].members["InstanceType"].enum
    assert TABLE.keys() | GPUS.keys() | NETWORK_GBITS.keys() <= set(known)


ARTICLE = prices.ARTICLE | {"instance_type": "ml.g5.2xlarge", "instances": 1}


def test_the_articles_job_takes_less_time_than_the_article_reports():
    """We encode a corpus once; the article encodes it for each of five dimensions."""
    found = estimate(**ARTICLE)
    assert (found.seconds, found.advice) == (120.0, None)
    assert "derived, not measured" in found.basis


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({"parameters": 218_000_000}, 2),
        ({"epochs": 10, "corpus_documents": 0}, 10 / 4 * 0.72),
        ({"pairs": 12_600, "corpus_documents": 14_000}, 2),
        ({"tokens_per_pair": 136, "tokens_per_document": 94}, 2),
        ({"instance_type": "ml.g4dn.xlarge"}, 2),
        ({"instance_type": "ml.g6e.2xlarge"}, 1 / 2),
        # Four GPUs all-reduce in 197 steps, each with at most 0.87 GB over 80 Gbit/s.
        ({"instance_type": "ml.g5.12xlarge"}, 1 / 4 + 197 * 0.065 / 120),
        # Over NVLink this takes hardly any time; the eight GPUs are each three times as fast.
        ({"instance_type": "ml.p4d.24xlarge"}, 1 / 3 / 8 + 197 * 0.0025 / 120),
        # Two machines with 10 Gbit/s between them communicate as long as they compute.
        ({"instances": 2}, 1 / 2 + 197 * 0.35 / 120),
    ],
)
def test_an_estimate_grows_with_the_work(change, times):
    seconds = estimate(**ARTICLE).seconds
    assert estimate(**ARTICLE | change).seconds == pytest.approx(seconds * times, rel=0.05)


def test_an_estimate_states_its_unmeasured_assumptions():
    other = estimate(**ARTICLE | {"instance_type": "ml.g6e.12xlarge", "instances": 2})
    assert "one g6e GPU counted as 2 × g5" in other.basis
    assert "8 GPUs counted at 33% efficiency, with gradients sent over 80 Gbit/s" in other.basis


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        # The job takes less time than starting the machine.
        ({"instance_type": "ml.g5.12xlarge"}, "about 0.7 min instead of 2.0 min"),
        # A long job on a slow network.
        ({"pairs": 630_000, "instances": 2}, "about 183.3 min instead of 146.7 min"),
        ({"pairs": 630_000, "instance_type": "ml.g5.12xlarge"}, None),
        # Larger batches need fewer all-reduces.
        ({"pairs": 630_000, "instances": 2, "batch_size": 1024}, None),
    ],
)
def test_an_estimate_advises_against_several_gpus_that_are_not_worth_it(change, advice):
    found = estimate(**ARTICLE | change).advice
    assert (found is None) if advice is None else (advice in found)


def test_there_is_no_estimate_for_instances_of_unknown_speed():
    for instance_type in ("ml.c5.xlarge", "ml.trn1.2xlarge", "nonsense"):
        found = estimate(**ARTICLE | {"instance_type": instance_type})
        assert found == Estimate(None, f"the speed of {instance_type} is unknown")


def test_no_network_is_promised_that_needs_efa():
    """Amazon EC2 User Guide, "Elastic Fabric Adapter": it needs libraries in the image."""
    dockerfile = Path(__file__).parents[3] / "Dockerfile"
    assert not re.search("efa|libfabric", dockerfile.read_text("utf-8"), re.IGNORECASE)
    assert max(NETWORK_GBITS.values()) == 100
