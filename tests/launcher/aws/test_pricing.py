"""Prices by AWS's list or our table, a job's bound, cost and time, and on what they rest."""

import json
import os

import boto3
import pytest
from botocore.stub import Stubber

from launcher.aws import pricing as prices
from launcher.aws.instances import GPUS, NETWORK_GBITS
from launcher.aws.pricing import TABLE, Estimate, Price, estimate, price_of
from launcher.backends.sagemaker.validation import _model


class Session(boto3.Session):
    """Has one client, stubbed, for the service of that name."""

    def __init__(self, stubbed):
        super().__init__("test", "test", region_name="eu-central-1")
        self.stubbed, self.asked = stubbed, []

    def client(self, service_name, **options):
        self.asked.append((service_name, options["region_name"]))
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


def wanted(**more):
    """What is asked of the list for a g5.2xlarge in Frankfurt."""
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


def test_the_price_is_aws_own_of_the_jobs_region(pricing):
    """Over all pages, without the zeros, other units and other currencies that stand beside it."""
    session, stub = pricing
    odd = [product("0.0000000000"), product("99", unit="Quantity"), product("9", currency="CNY")]
    stub.add_response("get_products", {"PriceList": odd, "NextToken": "more"}, wanted())
    second = {"PriceList": [product("1.8945"), json.dumps({"terms": {}})]}
    stub.add_response("get_products", second, wanted(NextToken="more"))
    assert price_of("ml.g5.2xlarge", "eu-central-1", session) == Price(
        1.8945, "AWS's price list, on demand in eu-central-1"
    )
    # It has endpoints in a few regions only.
    assert session.asked == [("pricing", "us-east-1")]


FALLBACK = "table of 2026-11-23 for us-east-1, other regions differ"


@pytest.mark.parametrize(
    ("listed", "usd", "basis"),
    [
        # A bound on the cost that is too low would be none.
        ([product("1"), product("2")], 2, "AWS's price list, on demand in eu-central-1"),
        ([], 1.515, f"{FALLBACK} (AWS's price list has no such instance there)"),
        # The list has zeros for what is free to some; no job is.
        ([product("0.0")], 1.515, f"{FALLBACK} (AWS's price list has no such instance there)"),
    ],
)
def test_of_what_is_listed_the_highest_price_counts(pricing, listed, usd, basis):
    session, stub = pricing
    stub.add_response("get_products", {"PriceList": listed}, wanted())
    assert price_of("ml.g5.2xlarge", "eu-central-1", session) == Price(usd, basis)


def test_without_the_right_to_ask_the_table_answers_and_says_so(pricing):
    session, stub = pricing
    stub.add_client_error("get_products", "AccessDeniedException", "no", 400)
    price = price_of("ml.g5.2xlarge", "eu-central-1", session)
    assert price.usd_per_hour == 1.515
    assert price.basis.startswith(FALLBACK)
    assert "AccessDeniedException" in price.basis
    # Advice has no place there.
    assert "embedtune doctor" not in price.basis


def test_without_a_session_nothing_is_asked_and_an_unknown_price_stays_unknown():
    """Nothing is made up from it, neither a bound nor a cost."""
    assert price_of("ml.g5.2xlarge", "us-east-1") == Price(1.515, FALLBACK)
    price = price_of("ml.p5.48xlarge", "us-east-1")
    assert price == Price(None, "no price is known for ml.p5.48xlarge")
    assert price.usd(3600) is None
    assert Price(1.515, "").usd(206) == pytest.approx(0.0867, abs=1e-4)


def test_the_tables_know_only_types_that_there_are():
    known = _model().members["ResourceConfig"].members["InstanceType"].enum
    assert TABLE.keys() | GPUS.keys() | NETWORK_GBITS.keys() <= set(known)


ARTICLE = prices.ARTICLE | {"instance_type": "ml.g5.2xlarge", "instances": 1}


def test_the_articles_job_takes_less_than_it_took_the_article():
    """We encode a corpus once where it did so for each of five dimensions."""
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
        # Four GPUs wait for each other: 197 steps, each with 0.87 GB at most over 80 Gbit/s.
        ({"instance_type": "ml.g5.12xlarge"}, 1 / 4 + 197 * 0.065 / 120),
        # Over NVLink hardly; its eight GPUs are each three times as fast.
        ({"instance_type": "ml.p4d.24xlarge"}, 1 / 3 / 8 + 197 * 0.0025 / 120),
        # Two machines with 10 Gbit/s between them exchange as long as they compute.
        ({"instances": 2}, 1 / 2 + 197 * 0.35 / 120),
    ],
)
def test_an_estimate_grows_with_the_work(change, times):
    seconds = estimate(**ARTICLE).seconds
    assert estimate(**ARTICLE | change).seconds == pytest.approx(seconds * times, rel=0.05)


def test_an_estimate_names_what_nobody_measured():
    other = estimate(**ARTICLE | {"instance_type": "ml.g6e.12xlarge", "instances": 2})
    assert "a GPU of g6e taken as 2 × g5's" in other.basis
    assert "8 GPUs counted at 33%, with gradients over 80 Gbit/s" in other.basis


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        # Less work than waiting for the machine, so nobody notices the difference.
        ({"instance_type": "ml.g5.12xlarge"}, "about 0.7 min of work instead of 2.0 min"),
        # Much work, and a network on which it waits.
        ({"pairs": 630_000, "instances": 2}, "about 183.3 min of work instead of 146.7 min"),
        ({"pairs": 630_000, "instance_type": "ml.g5.12xlarge"}, None),
        # Larger batches exchange less often.
        ({"pairs": 630_000, "instances": 2, "batch_size": 1024}, None),
    ],
)
def test_several_gpus_are_advised_where_they_pay(change, advice):
    found = estimate(**ARTICLE | change).advice
    assert (found is None) if advice is None else (advice in found)


def test_there_is_no_estimate_for_what_is_unlike_all_we_know():
    for instance_type in ("ml.c5.xlarge", "ml.trn1.2xlarge", "nonsense"):
        found = estimate(**ARTICLE | {"instance_type": instance_type})
        basis = f"no run on {instance_type} or a similar instance is known"
        assert found == Estimate(None, basis)
