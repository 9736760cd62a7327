"""The prompts of models: from the spec, else their configuration, else their family's card."""

import pytest

from job.model.prompts import BGE_ENGLISH, TASK, Prompts, documented_prompts
from job.spec.parse import build_spec

E5 = Prompts("query: ", "passage: ")
NOMIC = Prompts("search_query: ", "search_document: ")
# Qwen3's instruction has no space at its end, E5's has one.
QWEN3, E5_INSTRUCT = Prompts(f"Instruct: {TASK}\nQuery:"), Prompts(f"Instruct: {TASK}\nQuery: ")


@pytest.mark.parametrize(
    ("base", "prompts"),
    [
        ("BAAI/bge-base-en-v1.5", Prompts(BGE_ENGLISH)),
        ("BAAI/bge-large-en", Prompts(BGE_ENGLISH)),
        ("BAAI/bge-base-zh-v1.5", Prompts("为这个句子生成表示以用于检索相关文章：")),
        ("BAAI/bge-m3", Prompts()),
        ("intfloat/e5-base-v2", E5),
        ("intfloat/e5-small", E5),
        ("intfloat/multilingual-e5-small", E5),
        ("intfloat/multilingual-e5-large-instruct", E5_INSTRUCT),
        ("intfloat/e5-mistral-7b-instruct", E5_INSTRUCT),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", E5_INSTRUCT),
        ("Salesforce/SFR-Embedding-Mistral", E5_INSTRUCT),
        ("Qwen/Qwen3-Embedding-0.6B", QWEN3),
        ("Qwen/Qwen3-Embedding-4B", QWEN3),
        ("microsoft/harrier-oss-v1-270m", QWEN3),
        ("NovaSearch/stella_en_400M_v5", Prompts(f"Instruct: {TASK}.\nQuery: ")),
        (
            "google/embeddinggemma-300m",
            Prompts("task: search result | query: ", "title: none | text: "),
        ),
        ("mixedbread-ai/mxbai-embed-large-v1", Prompts(BGE_ENGLISH)),
        ("mixedbread-ai/deepset-mxbai-embed-de-large-v1", E5),
        ("WhereIsAI/UAE-Large-V1", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-m", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-m-long", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", Prompts(BGE_ENGLISH)),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", Prompts("query: ")),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("nomic-ai/nomic-embed-text-v2-moe", NOMIC),
        ("nomic-ai/modernbert-embed-base", NOMIC),
        (
            "jinaai/jina-embeddings-v3",
            Prompts(
                "Represent the query for retrieving evidence documents: ",
                "Represent the document for retrieval: ",
            ),
        ),
        ("jinaai/jina-embeddings-v5-text-nano", Prompts("Query: ", "Document: ")),
        ("jinaai/jina-embeddings-v2-base-en", Prompts()),
        ("sentence-transformers/all-MiniLM-L6-v2", Prompts()),
        ("thenlper/gte-base", Prompts()),
        ("Alibaba-NLP/gte-modernbert-base", Prompts()),
        ("ibm-granite/granite-embedding-english-r2", Prompts()),
        ("builtin:minilm", Prompts()),
        ("/data/models/bge-small-en-v1.5", Prompts(BGE_ENGLISH)),
        ("./bge-small-en-v1.5/", Prompts(BGE_ENGLISH)),
        # Only the last part of a path is the model's name.
        ("/data/bge-base-en-trials/mine", Prompts()),
        ("e5-base-v2/ours", Prompts()),
    ],
)
def test_a_model_of_a_known_family_gets_its_documented_prompts(base, prompts):
    """The prompts are those of the families' model cards; only the model's name decides."""
    assert documented_prompts(base, {}) == prompts


@pytest.mark.parametrize(
    ("own", "prompts"),
    [
        ({"query": "ask: ", "document": "tell: "}, Prompts("ask: ", "tell: ")),
        ({"query": "ask: ", "passage": "tell: "}, Prompts("ask: ", "tell: ")),
        ({"query": "ask: ", "document": ""}, Prompts("ask: ")),
        ({"query": "ask: ", "document": None}, Prompts("ask: ")),
        ({"document": "tell: "}, Prompts("", "tell: ")),
        # Names of Jina v3, EmbeddingGemma's tasks, Stella and Nomic.
        (
            {"retrieval.query": "a", "retrieval.passage": "b", "text-matching": ""},
            Prompts("a", "b"),
        ),
        ({"STS": "c", "Retrieval-query": "a", "Retrieval-document": "b"}, Prompts("a", "b")),
        ({"s2p_query": "a", "s2s_query": "c"}, Prompts("a")),
        ({"search_query": "a", "search_document": "b"}, Prompts("a", "b")),
        ({"query": "", "document": ""}, Prompts(BGE_ENGLISH)),
        ({"clustering": "group: "}, Prompts(BGE_ENGLISH)),
    ],
)
def test_prompts_saved_with_a_model_win_over_those_of_its_family(own, prompts):
    """A model's configuration is more reliable than its name."""
    assert documented_prompts("BAAI/bge-base-en-v1.5", own) == prompts


@pytest.mark.parametrize(
    "written", [r"Instruct: Find the law\nQuery:", "Instruct: Find the law\nQuery:"]
)
def test_an_instruction_has_its_line_break_however_it_is_written(written):
    """A shell passes a backslash and an n, which no model was trained on."""
    spec = build_spec({}, {"model.query_prompt": written})
    assert spec.model.query_prompt == "Instruct: Find the law\nQuery:"
