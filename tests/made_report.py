"""A complete report with made-up numbers, for whatever shows reports."""

import copy

METRICS = (
    "ndcg@10",
    "mrr@10",
    "map@100",
    "recall@1",
    "recall@5",
    "recall@10",
    "recall@100",
    "accuracy@1",
    "accuracy@3",
    "accuracy@5",
    "accuracy@10",
)
DIMENSIONS = (768, 512, 256, 128, 64)
# What a precision keeps of float32, and its bits a component.
PRECISIONS = {
    "float32": (1.0, 32),
    "int8": (0.985, 8),
    "int8_rescored": (0.999, 8),
    "binary": (0.9, 1),
    "binary_rescored": (0.955, 1),
}


def made_report(dimensions=DIMENSIONS):
    """Build a report of a run that helped; callers may change what they get."""
    main = 128 if 128 in dimensions else dimensions[-1]
    base, tuned = ({d: _quality(d, best) for d in dimensions} for best in (0.74, 0.82))
    lift = tuned[main] - base[main]
    return copy.deepcopy(
        {
            "version": 1,
            "job_name": "made",
            "finished": "2026-11-23T18:40:12Z",
            "verdict": {
                "improved": True,
                "metric": "ndcg@10",
                "dimension": main,
                "lift": lift,
                "ci": [lift - 0.015, lift + 0.014],
                "p_value": 0.0001,
                "minimum_detectable_effect": 0.0217,
                "sentence": f"Improved. nDCG@10 at {main} dimensions: {base[main]:.3f} → "
                f"{tuned[main]:.3f}, {lift:+.3f} [{lift - 0.015:+.3f}, {lift + 0.014:+.3f}], "
                f"p < 0.001; {main} dimensions now beat the base model at {dimensions[0]}.",
            },
            "recommendation": _recommendation(main, dimensions[0], tuned),
            "pareto": _pareto(tuned),
            "advice": [
                {
                    "finding": "12.4% of the documents are longer than the model reads.",
                    "do": "Raise `model.max_length`, or split long documents.",
                }
            ],
            "scores": {
                "bm25": _metrics(0.706),
                "base": {str(d): {"float32": _metrics(base[d])} for d in dimensions},
                "tuned": {
                    str(d): {p: _metrics(tuned[d] * kept) for p, (kept, _) in PRECISIONS.items()}
                    for d in dimensions
                },
            },
            "comparison": {str(d): _compared(d, base, tuned) for d in dimensions},
            "fusion": _fusion(base, tuned),
            "where": _where(lift),
            "inputs": {
                "model": {"uri": "some/model", "commit": "c0ffee" * 6},
                "data": {"uri": "s3://bucket/pairs.jsonl", "version": "3HL4kqtJ"},
                "test": {"uri": "given"},
            },
            "data": _data(),
            "prompts": {
                "sentence": "Queries begin with `Represent this sentence: `.",
                "base": {"query": "", "document": ""},
                "tuned": {"query": "Represent this sentence: ", "document": ""},
            },
            "training": _training(main),
            "probe": {
                "source": "builtin:aws-docs",
                "queries": 538,
                "corpus": 5383,
                **_both(base, {d: value - 0.011 for d, value in base.items()}),
                "sentence": f"On other data nDCG@10 at {main} dimensions fell by 0.011.",
            },
            "article": {
                "queries": 700,
                "corpus": 7000,
                **_both(base, {d: value + 0.011 for d, value in tuned.items()}),
                "sentence": f"By the article's rules the lift at {main} dimensions is larger.",
            },
            "usage": {
                "python": "from sentence_transformers import SentenceTransformer\n\n"
                f'model = SentenceTransformer("model", truncate_dim={main})\n'
                'query = model.encode_query("What is asked?")\n',
                "quantized": "from sentence_transformers.quantization import quantize_embeddings\n"
                '\ncodes = quantize_embeddings(vectors, precision="int8")\n',
                "serve": "docker run --publish 8080:80 --volume ./model:/model \\\n"
                "  text-embeddings-inference --model-id /model\n",
            },
            "repeat": {"command": "embedtune launch job.yaml --name made-again"},
            "models": {
                "base": {"uri": "some/model", "fingerprint": "1f0a7c55e9d2b648"},
                "tuned": {"fingerprint": "77aa01fc3be2d990"},
            },
            "seconds": {"start": 7.337, "data": 4.776, "train": 214.294, "store": 0.936},
            "cost": {"usd": 0.0766, "basis": "227 measured seconds of the job at $1.212 an hour"},
            "environment": {
                "versions": {"python": "3.11.7", "embedtune": "0.1.0", "torch": "2.13.0+cu130"},
                "device": "cuda",
                "precision": "bfloat16",
                "reason": "the GPU has bfloat16",
            },
            "spec": {
                "version": 1,
                "preset": "balanced",
                "data": {"source": "s3://bucket/pairs.jsonl", "limit": None},
                "evaluation": {"protocol": "grouped", "retention": 0.99},
            },
        }
    )


def _quality(dimension, best):
    return best - 5 / dimension


def _metrics(value):
    """Give each metric a value of its own."""
    return {name: value * (1 - 0.013 * place) for place, name in enumerate(METRICS)}


def _lift(value, half=0.0143):
    return {
        "lift": value,
        "ci": [value - half, value + half],
        "p_value": 0.0312 if abs(value) < 0.05 else 0.0001,
        "wins": 181,
        "ties": 467,
        "losses": 52,
    }


def _compared(dimension, base, tuned):
    full = max(tuned)
    found = {
        precision: {
            "retention": _retention(tuned[dimension] * kept / tuned[full]),
            "score_ci": [tuned[dimension] * kept - 0.021, tuned[dimension] * kept + 0.02],
            "bytes_per_vector": dimension * bits // 8,
        }
        for precision, (kept, bits) in PRECISIONS.items()
    }
    found["float32"] = {
        **_lift(tuned[dimension] - base[dimension]),
        "against_full_base": _lift(tuned[dimension] - base[full], 0.0151),
        "against_bm25": _lift(tuned[dimension] - 0.706, 0.0187),
        **found["float32"],
    }
    return found


def _retention(share):
    half = 0.0 if share == 1.0 else 0.0083
    return {"share": share, "ci": [share - half, share + half]}


def _recommendation(main, full, tuned):
    reason = (
        f"they keep {tuned[main] / tuned[full]:.1%} of the best float32 nDCG@10, in {main} bytes "
        f"instead of {4 * full}; nothing smaller provably keeps 95%."
    )
    return {
        "dimension": main,
        "precision": "int8_rescored",
        "stored_as": "int8",
        "bytes_per_vector": main,
        "index_bytes": {str(n): n * main for n in (10**6, 10**7, 10**8)},
        "rule": "retention",
        "reason": reason,
        "sentence": f"Deploy {main} dimensions as int8, rescored: {reason}",
    }


def _pareto(tuned):
    points = sorted(
        (
            (d * bits // 8, -tuned[d] * kept, d, precision)
            for d in tuned
            for precision, (kept, bits) in PRECISIONS.items()
        ),
    )
    reached = []
    for size, lost, dimension, precision in points:
        if not reached or -lost > reached[-1]["ndcg@10"]:
            reached.append(
                {
                    "dimension": dimension,
                    "precision": precision,
                    "bytes_per_vector": size,
                    "ndcg@10": -lost,
                    "retention": _retention(-lost / tuned[max(tuned)]),
                }
            )
    return reached


def _both(base, tuned):
    return {
        "scores": {
            "base": {str(d): _metrics(value) for d, value in base.items()},
            "tuned": {str(d): _metrics(value) for d, value in tuned.items()},
        },
        "comparison": {str(d): _lift(tuned[d] - base[d]) for d in base},
    }


def _fusion(base, tuned):
    fused = _both(
        {d: value + 0.031 for d, value in base.items()},
        {d: value + 0.017 for d, value in tuned.items()},
    )
    for found in fused["comparison"].values():
        found["against_alone"] = _lift(0.017, 0.0102)
    sentence = "Fused with BM25 the tuned model still gains on the base model."
    return {"k": 60, "depth": 100, **fused, "sentence": sentence}


def _where(lift):
    def example(number, before, after):
        return {
            "query_id": f"q{number:04}",
            "query": f"What does operation {number} need before it is called?",
            "answer": f"Operation {number} needs a valid identifier, and permission to read it.",
            "rank_base": before,
            "rank_tuned": after,
            "ndcg_base": 0.0 if before != 1 else 1.0,
            "ndcg_tuned": 1.0 if after == 1 else 0.0,
            "instead": None if after == 1 else f"Operation {number + 1} is another one.",
        }

    kinds = {
        "words of the query": ("2 to 8", "9 to 12", "13 to 29"),
        "question word": ("how", "none of these", "what", "yes or no"),
        "product": ("billing", "storage"),
    }
    return {
        "gained": [example(n, 10 + n, 1) for n in range(7)],
        "lost": [example(20 + n, 1, 11 + n) for n in range(3)],
        "suspects": [example(40, None, None)],
        "unfound": 1,
        "slices": [
            {
                "by": by,
                "name": name,
                "queries": 31 + 17 * place,
                "base": 0.711 - place / 100,
                "tuned": 0.711 + lift,
                "lift": lift + place / 100,
                "ci": [lift + place / 100 - 0.0421, lift + place / 100 + 0.0437],
            }
            for by, names in kinds.items()
            for place, name in enumerate(names)
        ],
        "hubs": [
            {
                "document_id": "d00001356",
                "text": "Before creating assets, make sure that the following is met.",
                "wrong_hits": 16,
                "wrong_hits_base": 9,
            }
        ],
    }


def _data():
    return {
        "source": "s3://bucket/pairs.jsonl",
        "columns": {"anchor": "question", "positive": "context", "negatives": []},
        "rows": 7120,
        "used": 7000,
        "dropped": {
            "exact duplicate": {"rows": 113, "first": ["pairs.jsonl:6", "pairs.jsonl:8"]},
            "too short": {"rows": 7, "first": ["pairs.jsonl:90"]},
        },
        "dropped_documents": {"empty document": {"rows": 2, "first": ["corpus.jsonl:17"]}},
        "splits": {"train": 5600, "validation": 699, "test": 701},
        "duplicates": {
            "rows_sharing_a_context": 2213,
            "near_duplicate_pairs": 37,
            "groups": 5108,
            "largest_group": 19,
            "oversized_groups": 0,
        },
        "leakage": {
            "test_contexts_in_train": 0.0,
            "under_a_random_split": 0.0517,
            "removed_rows": 3,
        },
        "truncation": {
            "max_tokens": 512,
            "queries": {"texts": 7000, "cut": 0, "longest": 61},
            "documents": {"texts": 6390, "cut": 792, "longest": 1873},
        },
        "queries": {"validation": 699, "test": 700},
        "corpus": 6391,
        "fingerprint": {
            "train": "b0cd429cf4346860",
            "validation": "49bbd53d6a785b24",
            "test": "a123cee2b45957c6",
        },
    }


def _training(main):
    curve = [
        {"step": step, "epoch": step / 44, "loss": 1.9 / (1 + step / 30), "grad_norm": 9.1}
        | {"learning_rate": 2e-5 * (1 - step / 189)}
        for step in range(8, 177, 8)
    ]
    checked = [
        {"step": step, "epoch": step / 44, f"dim_{main}_cosine_ndcg@10": value}
        for step, value in ((44, 0.761), (88, 0.789), (132, 0.7971), (176, 0.7953))
    ]
    return {
        "steps": 176,
        "resumed_from_step": 0,
        "best_step": 132,
        "recipe": {"mini_batch_size": {"value": 32, "reason": "a batch needs about 2.9 GiB"}},
        "base_validation": 0.7011,
        "best_validation": 0.7971,
        "history": sorted([*curve, *checked], key=lambda entry: entry["step"]),
        "seconds": 214.294,
        "pairs": 5600,
        "pairs_per_second": 104.53,
        "peak_memory": {"host_bytes": 3_412_000_000, "device_bytes": 11_230_000_000},
        "remark": "Validation fell by 0.002 after step 132, whose checkpoint is the one kept.",
    }
