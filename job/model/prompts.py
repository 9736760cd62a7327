"""The texts that a model expects before queries and documents. Needs no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """Texts to put before each query and each document; an empty string means no prompt."""

    query: str = ""
    document: str = ""


# The task in the instructions of models that take one; `model.query_prompt` can name yours.
TASK = "Given a web search query, retrieve relevant passages that answer the query"
BGE_ENGLISH = "Represent this sentence for searching relevant passages: "
# Names under which configurations keep the two prompts of retrieval, the most usual first.
QUERY_NAMES = ("query", "retrieval.query", "Retrieval-query", "search_query", "s2p_query")
DOCUMENT_NAMES = (
    *("document", "passage", "retrieval.passage", "Retrieval-document", "search_document"),
    "corpus",
)

# Prompts of families, by a pattern of the model's name, from the card of the model named at the
# end. They matter for copies and descendants whose configuration lacks them. Families without
# prompts (bge-m3, gte, Granite, Jina v2, all-MiniLM …) are not in the table.
FAMILY_PROMPTS = (
    # Qwen/Qwen3-Embedding-0.6B: no space after "Query:".
    (r"qwen3-embedding|harrier-oss|octen-embedding", Prompts(f"Instruct: {TASK}\nQuery:")),
    # google/embeddinggemma-300m
    (r"embeddinggemma", Prompts("task: search result | query: ", "title: none | text: ")),
    # intfloat/multilingual-e5-large-instruct, Alibaba-NLP/gte-Qwen2-7B-instruct,
    # Salesforce/SFR-Embedding-Mistral, Linq-AI-Research/Linq-Embed-Mistral, infly/inf-retriever-v1
    (r"(^|-)e5-.*instruct|gte-qwen.*instruct|sfr-embedding|linq-embed|inf-retriever",
     Prompts(f"Instruct: {TASK}\nQuery: ")),
    # NovaSearch/stella_en_400M_v5
    (r"stella_en_.*v5", Prompts(f"Instruct: {TASK}.\nQuery: ")),
    # intfloat/e5-base-v2, intfloat/multilingual-e5-small
    (r"^(multilingual-)?e5-(small|base|large)", Prompts("query: ", "passage: ")),
    # BAAI/bge-base-zh-v1.5
    (r"bge-(small|base|large)-zh", Prompts("为这个句子生成表示以用于检索相关文章：")),
    # Snowflake/snowflake-arctic-embed-l-v2.0
    (r"arctic-embed-\w+-v2", Prompts("query: ")),
    # BAAI/bge-base-en-v1.5, Snowflake/snowflake-arctic-embed-m-v1.5, WhereIsAI/UAE-Large-V1,
    # mixedbread-ai/mxbai-embed-large-v1
    (r"bge-(small|base|large)-en|arctic-embed|uae-large", Prompts(BGE_ENGLISH)),
    (r"^mxbai-embed-(large|2d|xsmall)", Prompts(BGE_ENGLISH)),
    # mixedbread-ai/deepset-mxbai-embed-de-large-v1
    (r"mxbai-embed-de", Prompts("query: ", "passage: ")),
    # nomic-ai/nomic-embed-text-v1.5, -v2-moe, nomic-ai/modernbert-embed-base
    (r"nomic-embed-text|modernbert-embed", Prompts("search_query: ", "search_document: ")),
    # jinaai/jina-embeddings-v3
    (r"jina-embeddings-v3", Prompts("Represent the query for retrieving evidence documents: ",
                                    "Represent the document for retrieval: ")),
    # jinaai/jina-embeddings-v5-text-small-retrieval
    (r"jina-embeddings-v5", Prompts("Query: ", "Document: ")),
)  # fmt: skip


def documented_prompts(base: str, saved: Mapping[str, str | None]) -> Prompts:
    """Return the prompts saved with the model, else those of its family, else none.

    `saved` are the prompts of the model's configuration, by name.
    """
    query, document = (
        next((text for name in names if (text := saved.get(name))), "")
        for names in (QUERY_NAMES, DOCUMENT_NAMES)
    )
    if query or document:
        return Prompts(query, document)
    name = base.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((found for known, found in FAMILY_PROMPTS if re.search(known, name)), Prompts())
