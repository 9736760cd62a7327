"""Instance prices, and estimates of a job's duration and cost.

Estimates are rough; each one states its basis.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import sessions
from launcher.aws.instances import all_reduce_seconds, family, gpu_memory, gpus_of, link_gbits

if TYPE_CHECKING:
    import boto3

# The price list API covers all regions of a partition but has endpoints in only a few of them. In
# China prices are in CNY; accounts of GovCloud cannot ask.
PRICE_LIST_REGIONS = {"aws": "us-east-1"}
# On-demand USD per hour in us-east-1, as found in several public code bases.
TABLE_DATE, TABLE_REGION = "2026-11-23", "us-east-1"
TABLE = {
    "ml.g4dn.xlarge": 0.736, "ml.g5.xlarge": 1.408, "ml.g5.2xlarge": 1.515, "ml.g5.4xlarge": 2.03,
    "ml.g5.8xlarge": 3.06, "ml.g5.12xlarge": 7.09, "ml.g5.16xlarge": 5.12, "ml.g5.24xlarge": 10.18,
    "ml.g5.48xlarge": 20.36, "ml.g6.xlarge": 1.127, "ml.g6.2xlarge": 1.222, "ml.g6.12xlarge": 5.752,
    "ml.g6e.2xlarge": 2.80,
}  # fmt: skip

# A model's throughput is inverse to its parameter count. Training on a text costs three times its
# encoding, since the backward pass does twice the work of the forward pass.
TRAINING_WORK = 3
# The only run with published numbers is the article's on ml.g5.2xlarge: bge-base-en-v1.5 with 109
# million parameters, 6,300 pairs, 4 epochs; after each epoch 5 evaluators encoded 700 queries and
# 7,000 documents. Questions have 21 tokens on average and documents 47 (measured on the article's
# data). We assume that the published 3 min 26 s include the four evaluations.
ARTICLE_SECONDS = 3 * 60 + 26
ARTICLE = {
    "pairs": 6_300, "tokens_per_pair": 21 + 47, "corpus_documents": 7_000,
    "tokens_per_document": 47, "epochs": 4, "parameters": 109_000_000,
}  # fmt: skip
ARTICLE_TOKENS = TRAINING_WORK * 4 * 6_300 * (21 + 47) + 4 * 5 * (700 * 21 + 7_000 * 47)
A10G_SPEED = 109e6 * ARTICLE_TOKENS / ARTICLE_SECONDS
BASIS = (
    "scaled by parameters and tokens from the one published run (bge-base-en-v1.5, 6,300 pairs, "
    "4 epochs, 3 min 26 s on ml.g5.2xlarge); derived, not measured"
)
# Speed of one GPU of the family relative to an A10G: from specifications, rounded; not measured.
SPEEDS = {"g4dn": 0.5, "g5": 1, "g6": 1, "g6e": 2, "p4d": 3, "p4de": 3, "p5": 5}
# What `auto` resolves to as batch size when there are many pairs.
USUAL_BATCH = 128
# Starting the instance and pulling the image take 2 to 6 minutes before the first log line.
START_UP_SECONDS = 240
# Below this efficiency, several GPUs cost more than twice as much as one for the same work.
WORTHWHILE = 0.5


@dataclass(frozen=True)
class Price:
    """An instance's on-demand price, if known, its source, and the region that it holds in."""

    usd_per_hour: float | None
    basis: str
    region: str | None = None

    @property
    def source(self) -> str:
        """Return the basis without the reason why it is no better one."""
        return self.basis.partition(" (")[0]

    def usd(self, seconds: float) -> float | None:
        """Return the cost of these seconds on one instance; a spot job is billed for fewer."""
        return None if self.usd_per_hour is None else self.usd_per_hour * seconds / 3600


def similar_types(wanted: Sequence[str], most: int = 2) -> list[str]:
    """Return other instance types with as many GPUs of at least the memory, the cheapest first."""
    first = gpu_memory(wanted[0])
    if first is None:
        return []
    found = []
    for kind in sorted(TABLE, key=lambda kind: TABLE[kind]):
        memory = gpu_memory(kind)
        is_enough = memory is not None and memory[0] >= first[0]
        if is_enough and kind not in wanted and gpus_of(kind) == gpus_of(wanted[0]):
            found.append(kind)
    return found[:most]


@dataclass(frozen=True)
class Estimate:
    """Estimated duration of the job, if known, without the time until its machine starts."""

    seconds: float | None
    basis: str
    # With several GPUs: their number, and the estimate for one GPU.
    gpus: int = 1
    one_gpu_seconds: float | None = None

    @property
    def efficiency(self) -> float:
        """Return the share of GPU time spent on computation rather than communication."""
        if self.seconds is None or self.one_gpu_seconds is None:
            return 1.0
        return self.one_gpu_seconds / (self.gpus * self.seconds)

    @property
    def advice(self) -> str | None:
        """Return one line if a single GPU would be about as good, else None."""
        one, several = self.one_gpu_seconds, self.seconds
        if one is None or several is None:
            return None
        if one > START_UP_SECONDS and self.efficiency >= WORTHWHILE:
            return None
        return (
            f"{self.gpus} GPUs are hardly worth it: about {several / 60:.1f} min instead of "
            f"{one / 60:.1f} min on one GPU, after {START_UP_SECONDS / 60:.0f} min until the "
            f"job starts; estimated GPU efficiency {self.efficiency:.0%} (derived, not measured)"
        )


def price_of(instance_type: str, region: str, session: "boto3.Session | None" = None) -> Price:
    """Look up a price in AWS's price list; without session or answer, in our own table.

    The table knows one region; the basis says so for all others.
    """
    note, partition = "", sessions.partition(session) if session else "aws"
    if partition not in PRICE_LIST_REGIONS:
        reason = f"accounts of {region} cannot ask for prices in USD"
        return Price(None, f"the price of {instance_type} is unknown ({reason})")
    if session:
        try:
            listed = _listed_price(session, instance_type, region, PRICE_LIST_REGIONS[partition])
            if listed is not None:
                return Price(listed, f"AWS's price list, on demand in {region}", region)
            note = f" (AWS's price list has no {instance_type} in {region})"
        except BackendError as error:
            # Without the advice, which follows the semicolon.
            note = f" ({str(error).partition(';')[0].rstrip('.')})"
    if instance_type not in TABLE:
        return Price(None, f"the price of {instance_type} is unknown{note}")
    where = TABLE_REGION if region == TABLE_REGION else f"{TABLE_REGION}, not {region}"
    basis = f"price of {where}, by a table of {TABLE_DATE}{note}"
    return Price(TABLE[instance_type], basis, TABLE_REGION)


def dearest(prices: Iterable[Price]) -> Price:
    """Return the highest price, or the first that is unknown: then there is no upper bound."""
    several = list(prices)
    unknown = (price for price in several if price.usd_per_hour is None)
    return next(unknown, None) or max(several, key=lambda price: price.usd_per_hour or 0)


def estimate(
    pairs: int,
    tokens_per_pair: float,
    corpus_documents: int,
    tokens_per_document: float,
    epochs: float,
    parameters: int,
    instance_type: str,
    instances: int,
    batch_size: int = USUAL_BATCH,
) -> Estimate:
    """Scale the article's run to another job; `pairs` are the training pairs.

    `tokens_per_pair` counts both texts of a pair.
    """
    kind = family(instance_type)
    if kind not in SPEEDS:
        return Estimate(None, f"the speed of {instance_type} is unknown")
    # The whole corpus is encoded for the base model, the tuned model and at most once per epoch.
    encoded = (epochs + 2) * corpus_documents * tokens_per_document
    tokens = TRAINING_WORK * epochs * pairs * tokens_per_pair + encoded
    alone = parameters * tokens / (A10G_SPEED * SPEEDS[kind])
    gpus = instances * gpus_of(instance_type)
    steps = epochs * pairs / batch_size
    communication = steps * all_reduce_seconds(instance_type, instances, parameters)
    seconds, one = _rounded(alone / gpus + communication), _rounded(alone) if gpus > 1 else None
    found = Estimate(seconds, BASIS, gpus, one)
    if kind != "g5":
        speed = f"one {kind} GPU counted as {SPEEDS[kind]:g} × g5, by specification"
        found = replace(found, basis=f"{found.basis}; {speed}")
    return replace(found, basis=f"{found.basis}; {_scaling(found, instance_type, instances)}")


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.2g}")


def _scaling(found: Estimate, instance_type: str, instances: int) -> str:
    if found.gpus == 1:
        return "one GPU counted"
    link = link_gbits(instance_type, instances)
    return (
        f"{found.gpus} GPUs counted at {found.efficiency:.0%} efficiency, with gradients sent over "
        f"{link} Gbit/s in each step"
    )


def _listed_price(
    session: "boto3.Session", instance_type: str, region: str, endpoint: str
) -> float | None:
    fields = {"productFamily": "ML Instance", "regionCode": region}
    fields |= {"instanceName": instance_type, "platoinstancetype": "Training"}
    products = list_products(session, endpoint, "AmazonSageMaker", fields)
    prices = [usd for product in products for unit, usd in prices_of(product) if unit == "Hrs"]
    # One price is expected. With several, the highest keeps the upper bound on the cost valid.
    return max(prices, default=None)


def list_products(
    session: "boto3.Session", endpoint: str, service: str, fields: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the products of a service in AWS's price list that have these attributes."""
    filters = [{"Type": "TERM_MATCH", "Field": n, "Value": value} for n, value in fields.items()]
    pricing = sessions.client(session, "pricing", endpoint)
    with sessions.translate_errors("reading AWS's price list"):
        query = {"ServiceCode": service, "Filters": filters}
        products = list(sessions.paginate(pricing, "get_products", "PriceList", **query))
    return [json.loads(product) for product in products]


def prices_of(product: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield a product's on-demand prices in USD, each with the unit that it is for."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0))
            # Free and reserved capacity has a price of zero.
            if usd > 0:
                yield dimension["unit"], usd
