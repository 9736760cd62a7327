"""Prices by AWS's list or our table, a job's bound, cost and time, and on what they rest."""

import json
import os

import boto3
import pytest
from botocore.stub import Stubber

from launcher.cost import TABLE, Estimate, Price, actual, estimate, price_of, upper_bound
from launcher.scaling import GPUS, NETWORK_GBITS


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


def test_of_several_prices_the_highest_counts(pricing):
    """A bound on the cost that is too low would be none."""
    session, stub = pricing
    stub.add_response("get_products", {"PriceList": [product("1"), product("2")]}, wanted())
    assert price_of("ml.g5.2xlarge", "eu-central-1", session).usd_per_hour == 2


def test_without_the_right_to_ask_the_table_answers_and_says_so(pricing):
    session, stub = pricing
    stub.add_client_error("get_products", "AccessDeniedException", "no", 400)
    price = price_of("ml.g5.2xlarge", "eu-central-1", session)
    assert price == Price(
        1.515,
        "table of 2026-11-23 for us-east-1, other regions differ (Reading AWS's price list failed: "
        "these credentials lack the right to `GetProducts` (AccessDeniedException))",
    )


def test_what_is_not_listed_comes_from_the_table(pricing):
    session, stub = pricing
    stub.add_response("get_products", {"PriceList": []}, wanted())
    assert price_of("ml.g5.2xlarge", "eu-central-1", session) == Price(
        1.515,
        "table of 2026-11-23 for us-east-1, other regions differ (AWS's price list has no such "
        "instance there)",
    )


def test_a_price_of_nothing_is_none(pricing):
    """The list has zeros for what is free to some; no job is."""
    session, stub = pricing
    stub.add_response("get_products", {"PriceList": [product("0.0000000000")]}, wanted())
    assert price_of("ml.g5.2xlarge", "eu-central-1", session).usd_per_hour == 1.515


def test_without_a_session_nothing_is_asked():
    assert price_of("ml.g5.2xlarge", "us-east-1") == Price(
        1.515,
        "table of 2026-11-23 for us-east-1, other regions differ",
    )


def test_an_unknown_price_stays_unknown():
    """Nothing is made up from it, neither a bound nor a cost."""
    price = price_of("ml.p5.48xlarge", "us-east-1")
    assert price == Price(None, "no price is known for ml.p5.48xlarge")
    assert upper_bound(price, 1, 3600) is None
    assert actual(price, 3600, 1) is None


def test_the_table_knows_only_types_that_there_are():
    from launcher.validation import _model

    known = _model().members["ResourceConfig"].members["InstanceType"].enum
    assert set(TABLE) <= set(known)


def test_the_bound_counts_all_instances_for_the_whole_time_allowed():
    assert upper_bound(Price(1.515, ""), 2, 5400) == pytest.approx(2 * 1.5 * 1.515)


def test_the_actual_cost_counts_billed_seconds_on_all_instances():
    """Of a spot job as well, whose billed seconds are fewer."""
    assert actual(Price(1.515, ""), 206, 1) == pytest.approx(0.0867, abs=1e-4)
    assert actual(Price(1.515, ""), 206, 2) == pytest.approx(0.1734, abs=1e-4)


ARTICLE = {
    "pairs": 6_300,
    "tokens_per_pair": 68,
    "corpus_documents": 7_000,
    "tokens_per_document": 47,
    "epochs": 4,
    "parameters": 109_000_000,
    "instance_type": "ml.g5.2xlarge",
    "instances": 1,
}


def test_the_articles_job_takes_less_than_it_took_the_article():
    """We encode a corpus once where it did so for each of five dimensions."""
    assert estimate(**ARTICLE) == Estimate(
        120.0,
        240,
        "scaled by parameters and tokens from the one published run (bge-base-en-v1.5, 6,300 "
        "pairs, 4 epochs, 3 min 26 s on ml.g5.2xlarge); derived, not measured; one GPU counted",
    )


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
    assert other.basis.endswith(
        "derived, not measured; a GPU of g6e taken as 2 × g5's, by specification; 8 GPUs counted "
        "at 33%, with gradients over 80 Gbit/s in each step"
    )


def test_one_gpu_needs_no_advice():
    assert estimate(**ARTICLE).advice is None


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        # Less work than waiting for the machine, so nobody notices the difference.
        (
            {"instance_type": "ml.g5.12xlarge"},
            (
                "4 GPUs would hardly pay: about 0.7 min of work instead of 2.0 min on one GPU, "
                "after 4 min until the job starts; 70% of their time would be work (derived, not "
                "measured)"
            ),
        ),
        # Much work, and a network on which it waits.
        (
            {"pairs": 630_000, "instances": 2},
            (
                "2 GPUs would hardly pay: about 183.3 min of work instead of 146.7 min on one GPU, "
                "after 4 min until the job starts; 40% of their time would be work (derived, not "
                "measured)"
            ),
        ),
        ({"pairs": 630_000, "instance_type": "ml.g5.12xlarge"}, None),
        # Larger batches exchange less often.
        ({"pairs": 630_000, "instances": 2, "batch_size": 1024}, None),
    ],
)
def test_several_gpus_are_advised_where_they_pay(change, advice):
    assert estimate(**ARTICLE | change).advice == advice


def test_the_instance_types_with_several_gpus_are_ones_that_there_are():
    from launcher.validation import _model

    known = _model().members["ResourceConfig"].members["InstanceType"].enum
    assert (GPUS.keys() | NETWORK_GBITS.keys()) - set(known) == set()


def test_there_is_no_estimate_for_what_is_unlike_all_we_know():
    for instance_type in ("ml.c5.xlarge", "ml.trn1.2xlarge", "nonsense"):
        found = estimate(**ARTICLE | {"instance_type": instance_type})
        basis = f"no run on {instance_type} or a similar instance is known"
        assert found == Estimate(None, 240, basis)
