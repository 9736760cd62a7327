"""Prices of Amazon Bedrock's models: those of AWS's list if they are certain, or none.

The products have the attributes of the public list; nobody has asked the real one.
"""

import json
import os

import boto3
import pytest
from botocore.stub import Stubber

from job.core.errors import BackendError
from job.spec.parse import build_spec
from launcher.aws import sessions
from launcher.aws.token_prices import TokenPrices, token_prices, with_token_prices

NOVA = "amazon.nova-lite-v1:0"
LISTED = "AWS's price list, on demand in us-east-1"


class Session(boto3.Session):
    """Returns one stubbed client."""

    def __init__(self, stubbed, region):
        super().__init__("test", "test", region_name=region)
        self.stubbed = stubbed

    def client(self, service_name, **options):
        assert (service_name, options["region_name"]) == ("pricing", "us-east-1")
        return self.stubbed


@pytest.fixture
def listed(monkeypatch):
    """Make a session whose price list has these products for tokens read and written."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    client = boto3.client("pricing", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    stub = Stubber(client)

    def session(read, written=None, region="us-east-1"):
        for kind, products in (("Input", read), ("Output", written)):
            if products is not None:
                fields = {"regionCode": region, "inferenceType": f"{kind} tokens"}
                filters = [{"Type": "TERM_MATCH", "Field": k, "Value": fields[k]} for k in fields]
                query = {"ServiceCode": "AmazonBedrock", "Filters": filters}
                stub.add_response("get_products", {"PriceList": products}, query)
        monkeypatch.setattr(sessions, "open_session", lambda *_: found)
        found = Session(client, region)
        return found

    with stub:
        yield session
        stub.assert_no_pending_responses()


def product(usage, usd, unit="1K tokens"):
    attributes = {"usagetype": f"USE1-{usage}", "regionCode": "us-east-1"}
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    terms = {"OnDemand": {"A": {"priceDimensions": {"B": dimension}}}}
    return json.dumps({"product": {"attributes": attributes}, "terms": terms})


def others(kind):
    """What the list has of the same model besides the price."""
    suffixes = ("batch", "custom-model", "flex", "priority", "cross-region-global")
    found = [product(f"NovaLite-{kind}-tokens-{suffix}", "9") for suffix in suffixes]
    found += [product(f"NovaPro-{kind}-tokens", "9")]
    found += [product(f"NovaLite-mantle-{kind}-tokens", "9")]
    return [*found, product(f"NovaLite-{kind}-tokens", "9", unit="Hrs")]


READ = [product("NovaLite-input-tokens", "0.00006"), *others("input")]
WRITTEN = [product("NovaLite-output-tokens", "0.00024"), *others("output")]


@pytest.mark.parametrize(
    "model",
    [
        NOVA,
        f"us.{NOVA}",
        f"arn:aws:bedrock:us-east-1::foundation-model/{NOVA}",
        f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{NOVA}",
    ],
)
def test_the_price_of_a_model_is_found_among_those_of_other_ways_to_ask_it(listed, model):
    """A profile of one geography costs what the model costs in the region that asks."""
    assert token_prices(model, listed(READ, WRITTEN)) == TokenPrices((0.06, 0.24), LISTED)


@pytest.mark.parametrize(
    ("model", "usage", "unit"),
    [
        ("us.amazon.nova-2-lite-v1:0", "Nova2.0Lite", "1K tokens"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "Claude3Haiku", "1K tokens"),
        ("qwen.qwen3-coder-next", "qwen.qwen3-coder-next", "1K tokens"),
        ("xai.grok-4.3", "xai.grok-4.3", "1M tokens"),
    ],
)
def test_names_are_compared_without_what_both_sides_write_differently(listed, model, usage, unit):
    usd = "0.0005" if unit == "1K tokens" else "0.5"
    products = [[product(f"{usage}-{kind}-tokens", usd, unit)] for kind in ("input", "output")]
    assert token_prices(model, listed(*products)).usd == (0.5, 0.5)


def test_a_profile_for_all_regions_has_a_price_of_its_own(listed):
    prices = {"": "0.00033", "-cross-region-global": "0.0003"}
    products = [
        [product(f"Nova2.0Lite-{kind}-tokens{route}", prices[route]) for route in prices]
        for kind in ("input", "output")
    ]
    assert token_prices("global.amazon.nova-2-lite-v1:0", listed(*products)).usd == (0.3, 0.3)


@pytest.mark.parametrize(
    ("model", "read", "count"),
    [
        (NOVA, others("input"), "no"),
        (NOVA, [*READ, product("NovaLite-input-tokens", "0.00007")], "2"),
        # A later version may cost something else.
        ("amazon.nova-lite-v2:0", READ, "no"),
        (f"global.{NOVA}", READ[:1], "no"),
    ],
)
def test_without_a_single_price_that_fits_it_is_unknown(listed, model, read, count):
    found = token_prices(model, listed(read))
    basis = f"AWS's price list has {count} prices of `{model}` for input in us-east-1"
    assert found == TokenPrices(None, basis)


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1"])
def test_in_other_partitions_nobody_asks(listed, region):
    assert token_prices(NOVA, listed(None, region=region)).usd is None


def test_a_profile_of_an_application_does_not_name_its_model(listed):
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
    found = token_prices(arn, listed(None))
    assert found == TokenPrices(None, f"`{arn}` does not say which model it is")


def spec(**fields):
    given = {"data.documents": "docs", "generation.llm": f"bedrock:{NOVA}"}
    return build_spec({}, given | {f"generation.{name}": value for name, value in fields.items()})


def test_the_prices_become_those_of_the_spec_and_are_shown(listed, capsys):
    listed(READ, WRITTEN)
    assert with_token_prices(spec(), None, None).generation.prices(
        "bedrock:amazon.nova-lite-v1:0"
    ) == (0.06, 0.24)
    assert "$0.06 to read and $0.24 to write (AWS's price list" in capsys.readouterr().err


def test_with_a_judge_the_higher_prices_count(listed):
    listed([*READ, product("NovaMicro-input-tokens", "0.00009")], WRITTEN)
    listed(
        [product("NovaMicro-input-tokens", "0.00009")],
        [product("NovaMicro-output-tokens", "0.00014")],
    )
    found = with_token_prices(spec(judge="bedrock:amazon.nova-micro-v1:0"), None, None)
    assert found.generation.prices("bedrock:amazon.nova-lite-v1:0") == (0.09, 0.24)


@pytest.mark.parametrize(
    "fields",
    [
        {"input_price": "1"},
        {"llm": "openai:m"},
        {"input_price": "1", "output_price": "2"},
    ],
)
def test_given_prices_and_other_kinds_of_models_are_left_alone(listed, capsys, fields):
    listed(None)
    assert with_token_prices(spec(**fields), None, None) == spec(**fields)
    assert capsys.readouterr().err == ""


def test_an_unknown_price_is_said_with_the_reason(monkeypatch, capsys):
    def refuse(*_):
        msg = "No region; set it."
        raise BackendError(msg)

    monkeypatch.setattr(sessions, "open_session", refuse)
    assert (
        with_token_prices(spec(), None, None).generation.prices("bedrock:amazon.nova-lite-v1:0")
        is None
    )
    assert "is unknown: No region. To know" in capsys.readouterr().err
    assert (
        with_token_prices(spec(judge="openai:m"), None, None).generation.prices(
            "bedrock:amazon.nova-lite-v1:0"
        )
        is None
    )
    assert "its judge is not one of Amazon Bedrock" in capsys.readouterr().err


def test_without_a_region_the_reason_names_no_option_that_pairs_lacks(
    monkeypatch, tmp_path, capsys
):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    spec = build_spec({}, {"data.documents": "docs", "generation.llm": f"bedrock:{NOVA}"})
    assert with_token_prices(spec, None, None) == spec
    said = capsys.readouterr().err
    assert "is unknown: No AWS region is set. To know the cost" in said
    assert "--region" not in said
