"""What a job costs: an instance's price, the most it can come to, what it came to, its time.

An estimate is a rough one, and says on what it rests.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from job.core.errors import BackendError
from launcher.aws import sessions
from launcher.aws.instances import exchange_seconds, family, gpus_of, link_gbits

if TYPE_CHECKING:
    import boto3

# Answers for all regions; it has an endpoint in only three of them.
PRICE_LIST_REGION = "us-east-1"
# USD an hour on demand in us-east-1, as several public code bases have them.
TABLE_DATE = "2026-11-23"
TABLE = {
    "ml.g4dn.xlarge": 0.736, "ml.g5.xlarge": 1.408, "ml.g5.2xlarge": 1.515, "ml.g5.4xlarge": 2.03,
    "ml.g5.8xlarge": 3.06, "ml.g5.12xlarge": 7.09, "ml.g5.16xlarge": 5.12, "ml.g5.24xlarge": 10.18,
    "ml.g5.48xlarge": 20.36, "ml.g6.xlarge": 1.127, "ml.g6.2xlarge": 1.222, "ml.g6.12xlarge": 5.752,
    "ml.g6e.2xlarge": 2.80,
}  # fmt: skip

# Texts go through a model at a speed inverse to its parameters; a text that is trained on costs
# three times its encoding, since the backward pass does twice the work of the forward one.
TRAINING_WORK = 3
# The one run with published numbers, the article's on ml.g5.2xlarge: bge-base-en-v1.5 with 109
# million parameters, 6,300 pairs in 4 epochs, after each of which 5 evaluators encoded 700 queries
# and 7,000 documents. Its questions have 21 tokens on average and its documents 47 (measured on its
# data); that its 3 min 26 s include those four evaluations is our reading.
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
# One GPU of the family beside an A10G: from the vendor's specifications, rounded; unmeasured.
SPEEDS = {"g4dn": 0.5, "g5": 1, "g6": 1, "g6e": 2, "p4d": 3, "p4de": 3, "p5": 5}
# What `auto` means for a batch where the pairs are many.
USUAL_BATCH = 128
# From 2 to 6 minutes pass before a container's first line: the instance, then the image.
START_UP_SECONDS = 240
# With a smaller share of work in their time, several GPUs cost twice what they bring.
WORTHWHILE = 0.5


@dataclass(frozen=True)
class Price:
    """An instance's price on demand, if it is known, and where it is from."""

    usd_per_hour: float | None
    basis: str

    def usd(self, seconds: float) -> float | None:
        """Return what so many seconds of one instance cost; a spot job is billed fewer."""
        return None if self.usd_per_hour is None else self.usd_per_hour * seconds / 3600


@dataclass(frozen=True)
class Estimate:
    """How long the job itself may take, if that can be said: without the wait for its machine."""

    seconds: float | None
    basis: str
    # Where there are several: how many, and what one of them would take.
    gpus: int = 1
    one_gpu_seconds: float | None = None

    @property
    def efficiency(self) -> float:
        """Return the share of the GPUs' time that is not waiting for each other."""
        if self.seconds is None or self.one_gpu_seconds is None:
            return 1.0
        return self.one_gpu_seconds / (self.gpus * self.seconds)

    @property
    def advice(self) -> str | None:
        """Say in a line where one GPU would do as well."""
        one, several = self.one_gpu_seconds, self.seconds
        if one is None or several is None:
            return None
        if one > START_UP_SECONDS and self.efficiency >= WORTHWHILE:
            return None
        return (
            f"{self.gpus} GPUs would hardly pay: about {several / 60:.1f} min of work instead of "
            f"{one / 60:.1f} min on one GPU, after {START_UP_SECONDS / 60:.0f} min until the "
            f"job starts; {self.efficiency:.0%} of their time would be work (derived, not measured)"
        )


def price_of(instance_type: str, region: str, session: "boto3.Session | None" = None) -> Price:
    """Look a price up in AWS's list; without a session, or an answer, in our own table."""
    aside = ""
    if session:
        try:
            if (listed := _listed_price(session, instance_type, region)) is not None:
                return Price(listed, f"AWS's price list, on demand in {region}")
            aside = " (AWS's price list has no such instance there)"
        except BackendError as error:
            # What follows is advice, which has no place here.
            aside = f" ({str(error).partition(';')[0].rstrip('.')})"
    if instance_type not in TABLE:
        return Price(None, f"no price is known for {instance_type}{aside}")
    basis = f"table of {TABLE_DATE} for us-east-1, other regions differ{aside}"
    return Price(TABLE[instance_type], basis)


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
    """Scale the article's run to another job; `pairs` are those trained on, both texts of each."""
    kind = family(instance_type)
    if kind not in SPEEDS:
        return Estimate(None, f"no run on {instance_type} or a similar instance is known")
    # The whole corpus is encoded for the base and the tuned model, and at most once an epoch.
    encoded = (epochs + 2) * corpus_documents * tokens_per_document
    tokens = TRAINING_WORK * epochs * pairs * tokens_per_pair + encoded
    alone = parameters * tokens / (A10G_SPEED * SPEEDS[kind])
    gpus = instances * gpus_of(instance_type)
    exchanges = epochs * pairs / batch_size * exchange_seconds(instance_type, instances, parameters)
    seconds, one = _rounded(alone / gpus + exchanges), _rounded(alone) if gpus > 1 else None
    found = Estimate(seconds, BASIS, gpus, one)
    if kind != "g5":
        taken = f"a GPU of {kind} taken as {SPEEDS[kind]:g} × g5's, by specification"
        found = replace(found, basis=f"{found.basis}; {taken}")
    return replace(found, basis=f"{found.basis}; {_scaling(found, instance_type, instances)}")


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.2g}")


def _scaling(found: Estimate, instance_type: str, instances: int) -> str:
    if found.gpus == 1:
        return "one GPU counted"
    link = link_gbits(instance_type, instances)
    return (
        f"{found.gpus} GPUs counted at {found.efficiency:.0%}, with gradients over {link} Gbit/s in"
        " each step"
    )


def _listed_price(session: "boto3.Session", instance_type: str, region: str) -> float | None:
    wanted = {"productFamily": "ML Instance", "regionCode": region}
    wanted |= {"instanceName": instance_type, "platoinstancetype": "Training"}
    filters = [{"Type": "TERM_MATCH", "Field": n, "Value": value} for n, value in wanted.items()]
    pricing = sessions.client(session, "pricing", PRICE_LIST_REGION)
    with sessions.explained("reading AWS's price list"):
        asked = {"ServiceCode": "AmazonSageMaker", "Filters": filters}
        products = list(sessions.listed(pricing, "get_products", "PriceList", **asked))
    prices = [price for text in products for price in _hourly_prices(json.loads(text))]
    # More than one would be a surprise; the bound on the cost must hold then as well.
    return max(prices, default=None)


def _hourly_prices(product: dict[str, Any]) -> Iterator[float]:
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"].get("USD", 0))
            # Zeros stand for what is free or reserved.
            if dimension["unit"] == "Hrs" and usd > 0:
                yield usd
