"""Prices of Amazon Bedrock's models for tokens, from AWS's price list.

The list names a model in its own way, and a model several times: with discounts, for other ways to
ask it, as a customized one. Only a single entry that fits counts: a wrong price is worse than none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from job.core.errors import BackendError
from job.spec.generation_section import GenerationSpec
from job.spec.schema import JobSpec
from launcher.aws import sessions
from launcher.aws.bedrock_models import foundation_model, geography
from launcher.aws.pricing import PRICE_LIST_REGIONS, list_products, prices_of

if TYPE_CHECKING:
    import boto3

KINDS = ("input", "output")
# Such as USE1-NovaLite-input-tokens; a suffix means another price. `global.` profiles have their
# own, those of one geography cost as much as the model in the region that asks.
USAGE = re.compile(r"[A-Z0-9]+-(?P<name>.+)-(input|output)-tokens(?P<route>-cross-region-global)?")
TOKENS_OF_UNIT = {"1K tokens": 1_000, "1M tokens": 1_000_000}
MILLION = 1_000_000


@dataclass(frozen=True)
class TokenPrices:
    """USD for a million tokens read, and for a million written, if known; and the source."""

    usd: tuple[float, float] | None
    basis: str


def with_token_prices(spec: JobSpec, profile: str | None, region: str | None) -> JobSpec:
    """Return the spec with the prices of Bedrock's models; say what they are, or why not."""
    generation = spec.generation
    is_given = generation.input_price is not None or generation.output_price is not None
    if is_given or spec.data.documents is None or not generation.models_of("bedrock"):
        return spec
    found = _highest(generation, profile, region)
    if found.usd is None:
        click.echo(
            f"The price of the language model is unknown: {found.basis}. To know the cost, set "
            "generation.input_price and generation.output_price, USD for a million tokens.",
            err=True,
        )
        return spec
    read, written = found.usd
    click.echo(
        f"A million tokens cost ${read:g} to read and ${written:g} to write ({found.basis}).",
        err=True,
    )
    prices = {"input_price": read, "output_price": written}
    return spec.model_copy(update={"generation": generation.model_copy(update=prices)})


def _highest(generation: GenerationSpec, profile: str | None, region: str | None) -> TokenPrices:
    """Return the prices of the model, or the higher ones of model and judge."""
    # A local model costs nothing.
    kinds = ("bedrock", "local")
    if sum(len(generation.models_of(kind)) for kind in kinds) < len(generation.models):
        return TokenPrices(None, "the model or its judge is not one of Amazon Bedrock")
    try:
        session = sessions.open_session(profile, region)
        found = [token_prices(name, session) for name in generation.models_of("bedrock")]
    except BackendError as error:
        # Without the advice: `embedtune pairs` has no `--region`.
        return TokenPrices(None, re.split(r";|: use ", str(error))[0].rstrip("."))
    if unknown := next((prices for prices in found if prices.usd is None), None):
        return unknown
    read, written = zip(*(prices.usd for prices in found if prices.usd), strict=True)
    return TokenPrices((max(read), max(written)), found[0].basis)


def token_prices(model: str, session: "boto3.Session") -> TokenPrices:
    """Look up the prices of a model, by its id, that of an inference profile, or an ARN."""
    region = model.split(":")[3] if model.startswith("arn:") else session.region_name
    partition = sessions.partition(session)
    if partition not in PRICE_LIST_REGIONS:
        return TokenPrices(None, f"accounts of {region} cannot ask for prices in USD")
    if (named := foundation_model(model)) is None:
        return TokenPrices(None, f"`{model}` does not say which model it is")
    usd: list[float] = []
    for kind in KINDS:
        fields = {"regionCode": region, "inferenceType": f"{kind.capitalize()} tokens"}
        products = list_products(session, PRICE_LIST_REGIONS[partition], "AmazonBedrock", fields)
        is_global = geography(model) == "global"
        found = {usd for each in products for usd in _prices(each, named, is_global=is_global)}
        if len(found) != 1:
            count = len(found) or "no"
            basis = f"AWS's price list has {count} prices of `{model}` for {kind} in {region}"
            return TokenPrices(None, basis)
        usd += found
    return TokenPrices((usd[0], usd[1]), f"AWS's price list, on demand in {region}")


def _prices(product: dict[str, Any], model: str, *, is_global: bool) -> Iterator[float]:
    """Yield what a million tokens of a model cost, if the product is that."""
    usage = USAGE.fullmatch(product["product"]["attributes"].get("usagetype", ""))
    if usage is None or bool(usage["route"]) != is_global:
        return
    # The list has some models without their provider.
    if _key(usage["name"]) not in (_key(model), _key(model.partition(".")[2])):
        return
    for unit, usd in prices_of(product):
        if unit in TOKENS_OF_UNIT:
            yield round(usd * MILLION / TOKENS_OF_UNIT[unit], 6)


def _key(name: str) -> str:
    """Return a name without what ids and the list write differently: `Nova2.0Lite`."""
    # The first version of a model; later ones may have other prices.
    name = re.sub(r"(-\d{8})?-v1(:0)?$", "", name.lower())
    return re.sub(r"(?<=\d)\.0(?!\d)|[^a-z0-9]", "", name)
