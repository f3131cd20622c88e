//! Paths that the operator added: the model in a JSON object or a form chooses the pool, and
//! control fields do not pass.

use reqwest::RequestBuilder;

use crate::{
    client::{client, json_of, send},
    recorder::{Front, Recorder},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// Two pools of one server each.
struct Pools {
    chat: Recorder,
    reward: Recorder,
    front: Front,
}

impl Pools {
    async fn start() -> Self {
        let (chat, reward) = (Recorder::start(OK).await, Recorder::start(OK).await);
        let front = Front::start(&format!(
            "extraPaths: [/pooling, /v1/audio/transcriptions]\npools:\n\
             - {{name: chat, models: [chat], strategy: round-robin, endpoints: ['{}']}}\n\
             - {{name: reward, models: [reward, whisper], strategy: round-robin, endpoints: ['{}']}}\n",
            chat.url(),
            reward.url()
        ))
        .await;
        Self {
            chat,
            reward,
            front,
        }
    }

    fn post(
        &self,
        path: &str,
        kind: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> RequestBuilder {
        let request = client()
            .post(format!("{}{path}", self.front.url()))
            .body(body);
        match kind {
            Some(kind) => request.header("content-type", kind),
            None => request,
        }
    }

    /// How many requests each pool got since the last call.
    fn taken(&self) -> (usize, usize) {
        (self.chat.take().len(), self.reward.take().len())
    }
}

fn form(model: &str) -> String {
    format!(
        "--b7\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a; name=model.wav\"\r\ncontent-type: audio/wav\r\n\r\nRIFF\r\n\
         --b7\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b7--\r\n"
    )
}

#[tokio::test]
async fn the_model_in_a_json_object_or_a_form_chooses_the_pool() {
    let pools = Pools::start().await;
    let json = |model: &str| format!("{{\"input\": \"x\", \"model\": \"{model}\"}}");
    for kind in [Some("application/json"), Some("text/plain"), None] {
        for (model, expected) in [("chat", (1, 0)), ("reward", (0, 1))] {
            let answer = send(pools.post("/pooling", kind, json(model))).await;
            assert_eq!(
                (answer.status().as_u16(), pools.taken()),
                (200, expected),
                "{kind:?}"
            );
        }
    }
    let multipart = Some("multipart/form-data; boundary=b7");
    for (model, expected) in [("chat", (1, 0)), ("whisper", (0, 1))] {
        let answer = send(pools.post("/v1/audio/transcriptions", multipart, form(model))).await;
        assert_eq!(
            (answer.status().as_u16(), pools.taken()),
            (200, expected),
            "{model}"
        );
    }
}

#[tokio::test]
async fn a_body_that_names_no_known_model_says_what_is_missing() {
    let pools = Pools::start().await;
    for (kind, body, status, code) in [
        (
            Some("application/json"),
            "{\"model\":\"rewart\"}".to_owned(),
            404,
            "model_not_found",
        ),
        (
            Some("application/json"),
            "{\"input\":1}".to_owned(),
            400,
            "model_required",
        ),
        (
            Some("application/json"),
            "{\"input\":".to_owned(),
            400,
            "invalid_body",
        ),
        (
            Some("application/octet-stream"),
            "\u{1}\u{2}".to_owned(),
            400,
            "model_required",
        ),
        (
            Some("multipart/form-data; boundary=b7"),
            form("none"),
            404,
            "model_not_found",
        ),
        (
            Some("multipart/form-data; boundary=b8"),
            form("chat"),
            400,
            "model_required",
        ),
    ] {
        let answer = send(pools.post("/pooling", kind, body.clone())).await;
        let (got, error) = json_of(answer).await;
        assert_eq!(
            (got, &error["error"]["code"]),
            (status, &code.into()),
            "{body}"
        );
        assert_eq!(pools.taken(), (0, 0));
    }
}

#[tokio::test]
async fn with_one_pool_whatever_is_sent_reaches_it() {
    let server = Recorder::start(OK).await;
    let yaml = format!(
        "extraPaths: [/v2/any]\npools: [{{name: chat, models: [chat], strategy: round-robin, endpoints: ['{}']}}]\n",
        server.url()
    );
    let front = Front::start(&yaml).await;
    for body in [
        "{\"model\":\"another\"}",
        "[1,2]",
        "{not json",
        "",
        "\u{1}\u{2}",
    ] {
        let request = client().post(format!("{}/v2/any", front.url())).body(body);
        assert_eq!(send(request).await.status(), 200, "{body}");
        let seen = server.take().remove(0);
        assert!(
            seen.ends_with(&format!("\r\n\r\n{body}")),
            "{body} became {seen}"
        );
    }
}

#[tokio::test]
async fn control_fields_do_not_pass() {
    let pools = Pools::start().await;
    let body = r#"{"model":"chat","kv_transfer_params":{"remote_host":"evil"},"vllm_xargs":{"kv_transfer_params":"evil"},"n":1}"#;
    let unreadable = [
        r#"{"\ud800":1,"kv_transfer_params":{}"#.to_owned(),
        "\u{feff}{\"kv_transfer_params\":{}}".to_owned(),
        "{\0\"\0a\0\"\0".to_owned(),
    ];
    for body in unreadable {
        let answer = send(pools.post("/pooling", None, body)).await;
        assert_eq!((answer.status().as_u16(), pools.taken()), (400, (0, 0)));
    }
    for path in ["/pooling", "/v1/chat/completions"] {
        for kind in [Some("application/json"), None] {
            assert_eq!(send(pools.post(path, kind, body)).await.status(), 200);
            let seen = pools.chat.take().remove(0);
            assert!(
                seen.ends_with(r#"{"model":"chat","n":1}"#),
                "{path}: {seen}"
            );
        }
    }
    let harmless = r#"{"model":"chat","vllm_xargs":{"my_processor":3}}"#;
    for path in ["/pooling", "/v1/chat/completions"] {
        assert_eq!(send(pools.post(path, None, harmless)).await.status(), 200);
        assert!(pools.chat.take().remove(0).ends_with(harmless));
    }
}
