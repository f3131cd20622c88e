use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use hermes_proto::v1::prompt_text::{Api, Kind};
use prometheus_client::registry::Registry;

use super::*;

/// Far over any time limit, for what must end by itself.
const PATIENCE: Duration = Duration::from_secs(60);

fn settings(way: Way) -> TokenizerSettings {
    TokenizerSettings {
        way,
        cache: 1 << 20,
        timeout: PATIENCE,
        longest: 1 << 20,
        key_file: None,
    }
}

async fn tokens(settings: TokenizerSettings) -> (PoolTokenizer, TokenizerMetrics) {
    hermes_runtime::crypto::install_default_crypto();
    let metrics = TokenizerMetrics::register(&mut Registry::default());
    let tokens = PoolTokenizer::new("chat", settings, metrics.clone()).expect("a client");
    tokens.settled().await;
    (tokens, metrics)
}

async fn fixture() -> (PoolTokenizer, TokenizerMetrics) {
    tokens(settings(Way::Files(fixture::files()))).await
}

fn chat(messages: &str) -> PromptText {
    PromptText {
        json: Bytes::copy_from_slice(messages.as_bytes()),
        kind: Kind::Messages.into(),
        api: Api::Chat.into(),
        ..PromptText::default()
    }
}

#[tokio::test]
async fn a_chat_becomes_the_ids_of_its_rendered_text() {
    let (tokens, metrics) = fixture().await;
    let text = chat(r#"[{"role":"user","content":"hello world"}]"#);
    let ids = tokens.ids(&text, Some("m")).await.expect("ids");
    assert_eq!(ids[..], [300, 267, 198, 259, 264, 301, 198, 300, 280, 198]);
    assert_eq!(tokens.ids(&text, Some("m")).await, Some(ids));
    assert_eq!(
        (
            metrics.count(TokenizeOutcome::Tokenized),
            metrics.count(TokenizeOutcome::Cached)
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn settings_of_the_request_reach_the_template() {
    let (tokens, _) = fixture().await;
    let plain = chat(r#"[{"role":"user","content":"hello"}]"#);
    let thinking = 305;
    let off = PromptText {
        template_kwargs: Bytes::from_static(br#"{"enable_thinking":false}"#),
        ..plain.clone()
    };
    assert!(
        tokens
            .ids(&off, None)
            .await
            .expect("ids")
            .contains(&thinking)
    );
    assert!(
        !tokens
            .ids(&plain, None)
            .await
            .expect("ids")
            .contains(&thinking)
    );
    let open = PromptText {
        add_generation_prompt: Some(false),
        ..plain
    };
    assert!(
        tokens
            .ids(&open, None)
            .await
            .expect("ids")
            .ends_with(&[301, 198]),
        "it ends with the user's turn"
    );
}

#[tokio::test]
async fn identical_prompts_are_made_into_tokens_once() {
    let (tokens, metrics) = fixture().await;
    let text = chat(&format!(
        r#"[{{"role":"user","content":"{}"}}]"#,
        "hello ".repeat(2_000)
    ));
    let asked = (0..20).map(|_| tokens.ids(&text, None));
    let ids = futures::future::join_all(asked).await;
    assert!(ids.iter().all(|found| found.is_some() && found == &ids[0]));
    assert_eq!(
        (
            metrics.count(TokenizeOutcome::Tokenized),
            metrics.count(TokenizeOutcome::Shared)
        ),
        (1, 19)
    );
}

#[tokio::test]
async fn what_has_no_exact_ids_has_none_and_says_why() {
    let (tokens, metrics) = fixture().await;
    let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
    let cases = [
        (chat(image), Failure::Unsupported),
        (
            PromptText {
                incomplete: true,
                ..chat("[]")
            },
            Failure::Unsupported,
        ),
        (chat("["), Failure::Malformed),
        (chat(&" ".repeat(2 << 20)), Failure::TooLong),
        (chat("[]"), Failure::Template),
    ];
    for (text, failure) in cases {
        let before = metrics.count(TokenizeOutcome::Failed(failure));
        assert_eq!(tokens.ids(&text, None).await, None);
        assert_eq!(
            metrics.count(TokenizeOutcome::Failed(failure)),
            before + 1,
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn without_usable_files_there_are_no_ids() {
    let files = TokenizerFiles {
        path: "nowhere".into(),
        ..fixture::files()
    };
    let (tokens, metrics) = tokens(settings(Way::Files(files))).await;
    assert_eq!(tokens.ids(&chat("[]"), None).await, None);
    assert_eq!(metrics.count(TokenizeOutcome::Failed(Failure::Absent)), 1);
}

#[tokio::test]
async fn a_request_waits_no_longer_than_the_limit_and_what_was_begun_is_remembered() {
    let limited = TokenizerSettings {
        timeout: Duration::from_millis(5),
        ..settings(Way::Files(fixture::files()))
    };
    let (tokens, metrics) = tokens(limited).await;
    let text = chat(&format!(
        r#"[{{"role":"user","content":"{}"}}]"#,
        "hello ".repeat(20_000)
    ));
    assert_eq!(tokens.ids(&text, None).await, None);
    assert_eq!(metrics.count(TokenizeOutcome::Failed(Failure::Late)), 1);
    let limit = Instant::now() + PATIENCE;
    while tokens.ids(&text, None).await.is_none() {
        assert!(Instant::now() < limit, "nothing was remembered");
    }
}

#[tokio::test]
async fn one_who_leaves_does_not_take_the_work_away_from_those_who_wait() {
    let (tokens, metrics) = fixture().await;
    let text = chat(&format!(
        r#"[{{"role":"user","content":"{}"}}]"#,
        "hello ".repeat(20_000)
    ));
    let mut first = Box::pin(tokens.ids(&text, None));
    assert!((&mut first).now_or_never().is_none(), "it has begun");
    let second = tokens.ids(&text, None);
    drop(first);
    assert!(second.await.is_some());
    assert_eq!(metrics.count(TokenizeOutcome::Failed(Failure::Late)), 0);
}

#[tokio::test]
async fn without_an_endpoint_no_engine_is_asked() {
    let (tokens, metrics) = tokens(settings(Way::Engine)).await;
    assert_eq!(tokens.ids(&chat("[]"), None).await, None);
    assert_eq!(metrics.count(TokenizeOutcome::Failed(Failure::Absent)), 1);
}
