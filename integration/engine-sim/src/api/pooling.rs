//! `/v1/embeddings`, `/v1/rerank` and `/v1/score`: prompts that are prefilled and yield numbers
//! instead of text.
//!
//! The numbers depend on the text alone. A pooled prompt costs what its prefill costs: it runs as a
//! sequence of one token.

use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fields::{Fields, LIST, STRING, Text};
use super::generation::Generation;
use super::reply::{ApiError, Body, json};
use super::usage::{Usage, WholeUsage};
use crate::engine_core::Stopped;
use crate::model::tokenizer::tokenize;

/// Numbers in an embedding.
const DIMENSIONS: u64 = 8;

#[derive(Serialize)]
struct Embeddings<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Embedding>,
    usage: WholeUsage,
}

#[derive(Serialize)]
struct Embedding {
    index: usize,
    object: &'static str,
    embedding: Vec<f64>,
}

#[derive(Serialize)]
struct Reranking<'a> {
    id: &'a str,
    model: &'a str,
    usage: TotalUsage,
    results: Vec<Ranked>,
}

#[derive(Serialize)]
struct Ranked {
    index: usize,
    document: Document,
    relevance_score: f64,
}

#[derive(Serialize)]
struct Document {
    text: String,
    multi_modal: (),
}

#[derive(Serialize)]
struct TotalUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct Scores<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Score>,
    usage: WholeUsage,
}

#[derive(Serialize)]
struct Score {
    index: usize,
    object: &'static str,
    score: f64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Inputs<'a> {
    Text(#[serde(borrow)] Text<'a>),
    Tokens(Vec<u32>),
    Texts(#[serde(borrow)] Vec<Text<'a>>),
    TokenLists(Vec<Vec<u32>>),
}

/// What a pooling request wants pooled.
#[derive(Debug)]
pub(crate) enum Pooling {
    /// One vector per input.
    Embed(Vec<Vec<u32>>),
    /// The documents by relevance to the query.
    Rerank {
        /// What is looked for.
        query: String,
        /// Where it is looked for.
        documents: Vec<String>,
    },
    /// One number per pair.
    Score(Vec<(String, String)>),
}

impl Pooling {
    pub(crate) fn embeddings(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let inputs: Inputs<'_> = fields.required("input", STRING)?;
        Ok(Self::Embed(match inputs {
            Inputs::Text(text) => vec![tokenize(&text.0)],
            Inputs::Tokens(tokens) => vec![tokens],
            Inputs::Texts(texts) => texts.iter().map(|text| tokenize(&text.0)).collect(),
            Inputs::TokenLists(lists) => lists,
        }))
    }

    pub(crate) fn rerank(fields: &Fields<'_>) -> Result<Self, ApiError> {
        Ok(Self::Rerank {
            query: fields.required("query", STRING)?,
            documents: fields.required("documents", LIST)?,
        })
    }

    pub(crate) fn score(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let (left, right) = (texts(fields, "text_1")?, texts(fields, "text_2")?);
        let pairs = right.iter().enumerate().map(|(index, right)| {
            let left = left
                .get(index)
                .or(left.first())
                .cloned()
                .unwrap_or_default();
            (left, right.clone())
        });
        Ok(Self::Score(pairs.collect()))
    }

    /// The prompts that have to be prefilled.
    pub(crate) fn prompts(&self) -> Vec<Vec<u32>> {
        match self {
            Self::Embed(inputs) => inputs.clone(),
            Self::Rerank { query, documents } => documents
                .iter()
                .map(|document| pair(query, document))
                .collect(),
            Self::Score(pairs) => pairs
                .iter()
                .map(|(left, right)| pair(left, right))
                .collect(),
        }
    }

    /// Waits for the prefill and answers.
    pub(crate) async fn answer(
        self,
        mut generation: Generation,
    ) -> Result<Response<Body>, Stopped> {
        let usage = Usage {
            completion_tokens: 0,
            ..generation.finish().await?
        };
        let Generation {
            params,
            id,
            created,
            ..
        } = &generation;
        let (model, created) = (params.model.as_ref(), *created);
        Ok(match self {
            Self::Embed(inputs) => {
                let data = inputs
                    .iter()
                    .enumerate()
                    .map(|(index, input)| embedding(index, input))
                    .collect();
                let id = &format!("embd-{id}");
                json(
                    StatusCode::OK,
                    &Embeddings {
                        id,
                        object: "list",
                        created,
                        model,
                        data,
                        usage: usage.whole(),
                    },
                )
            }
            Self::Rerank { query, documents } => {
                let usage = TotalUsage {
                    prompt_tokens: usage.prompt_tokens,
                    total_tokens: usage.prompt_tokens,
                };
                let id = &format!("rerank-{id}");
                json(
                    StatusCode::OK,
                    &Reranking {
                        id,
                        model,
                        usage,
                        results: ranked(&query, documents),
                    },
                )
            }
            Self::Score(pairs) => {
                let scores = pairs.iter().enumerate();
                let data = scores
                    .map(|(index, (left, right))| Score {
                        index,
                        object: "score",
                        score: relevance(left, right),
                    })
                    .collect();
                let id = &format!("score-{id}");
                json(
                    StatusCode::OK,
                    &Scores {
                        id,
                        object: "list",
                        created,
                        model,
                        data,
                        usage: usage.whole(),
                    },
                )
            }
        })
    }
}

fn texts(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    match fields.raw(name) {
        Some(raw) if raw.get().starts_with('[') => fields.required(name, LIST),
        _ => Ok(vec![fields.required(name, STRING)?]),
    }
}

fn pair(left: &str, right: &str) -> Vec<u32> {
    let mut tokens = tokenize(left);
    tokens.extend(tokenize("<sep>"));
    tokens.extend(tokenize(right));
    tokens
}

fn embedding(index: usize, input: &[u32]) -> Embedding {
    let bytes: Vec<u8> = input.iter().flat_map(|token| token.to_le_bytes()).collect();
    let embedding = (0..DIMENSIONS)
        .map(|dimension| unit(&bytes, dimension) * 2.0 - 1.0)
        .collect();
    Embedding {
        index,
        object: "embedding",
        embedding,
    }
}

/// Documents by falling relevance.
fn ranked(query: &str, documents: Vec<String>) -> Vec<Ranked> {
    let mut results: Vec<Ranked> = documents
        .into_iter()
        .enumerate()
        .map(|(index, text)| {
            let relevance_score = relevance(query, &text);
            Ranked {
                index,
                document: Document {
                    text,
                    multi_modal: (),
                },
                relevance_score,
            }
        })
        .collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results
}

fn relevance(left: &str, right: &str) -> f64 {
    unit(right.as_bytes(), xxh3_64_with_seed(left.as_bytes(), 0))
}

/// A number in `0..1` that depends on the bytes and the seed, with few enough digits to read.
fn unit(bytes: &[u8], seed: u64) -> f64 {
    (xxh3_64_with_seed(bytes, seed) % 10_000) as f64 / 10_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_query_is_scored_against_each_text() {
        let fields = Fields::parse(br#"{"text_1":"q","text_2":["a","b"]}"#).unwrap();
        let Pooling::Score(pairs) = Pooling::score(&fields).unwrap() else {
            panic!("a score request")
        };
        assert_eq!(
            pairs,
            [
                ("q".to_owned(), "a".to_owned()),
                ("q".to_owned(), "b".to_owned())
            ]
        );
    }

    #[test]
    fn the_most_relevant_document_comes_first() {
        let documents = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let results = ranked("query", documents);
        assert!(results.is_sorted_by(|a, b| a.relevance_score >= b.relevance_score));
        assert_eq!(results.len(), 4);
    }
}
