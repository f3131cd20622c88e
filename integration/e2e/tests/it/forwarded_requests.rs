//! What of a request reaches an engine, and what of it the proxy changes.

use crate::{
    client::{client, json_of, send},
    recorder::{Front, Recorder},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{\"id\":\"resp_1\",\"x\":\"1234\"}";

async fn front(top: &str) -> (Recorder, Front) {
    let server = Recorder::start(OK).await;
    let front = Front::start(&format!("{top}{}", server.pool())).await;
    (server, front)
}

/// The values of a header, as they were sent.
fn values<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[tokio::test]
async fn an_engine_learns_who_the_client_is_and_which_proxies_it_passed() {
    let (server, front) = front("").await;
    let request = client()
        .post(format!("{}/v1/chat/completions", front.url()))
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("via", "1.1 gateway")
        .header("accept-encoding", "gzip")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body("{}");
    assert_eq!(send(request).await.status(), 200);
    let seen = server.take().remove(0);
    assert_eq!(values(&seen, "x-forwarded-for"), ["6.6.6.6, 127.0.0.1"]);
    assert_eq!(values(&seen, "x-forwarded-proto"), ["https"]);
    let via = values(&seen, "via");
    assert!(via.len() == 1 && via[0].starts_with("1.1 gateway, 1.1 hermes-"));
    assert_eq!(values(&seen, "cookie"), ["a=1; b=2"]);
    assert!(values(&seen, "accept-encoding").is_empty());
}

#[tokio::test]
async fn an_endpoint_that_leads_back_to_the_router_is_a_loop_of_one_round() {
    let server = Recorder::start(OK).await;
    let inner = Front::start(&server.pool()).await;
    let outer = Front::start(&format!(
        "pools: [{{name: chat, strategy: round-robin, endpoints: ['{}']}}]\n",
        inner.url()
    ))
    .await;
    let chat = |url: String| {
        client()
            .post(format!("{url}/v1/chat/completions"))
            .body("{}")
    };
    assert_eq!(
        send(chat(outer.url())).await.status(),
        200,
        "two routers are no loop"
    );
    let via = values(&server.take()[0], "via").join(", ");
    assert_eq!(via.matches("hermes-").count(), 2);
    let again = chat(inner.url()).header("via", via);
    let (status, body) = json_of(send(again).await).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (508, &"request_loop".into())
    );
    assert!(server.take().is_empty());
}

#[tokio::test]
async fn a_post_without_a_body_states_its_length() {
    let (server, front) = front("extraPaths: [/v2/wake]\n").await;
    let created = client()
        .post(format!("{}/v1/responses", front.url()))
        .body("{}");
    assert_eq!(send(created).await.status(), 200);
    for path in ["/v1/responses/resp_1/cancel", "/v2/wake"] {
        let request = client().post(format!("{}{path}", front.url()));
        assert_eq!(send(request).await.status(), 200, "{path}");
    }
    let get = client().get(format!("{}/v2/wake", front.url()));
    assert_eq!(send(get).await.status(), 200);
    let seen = server.take();
    let lengths: Vec<_> = seen
        .iter()
        .map(|request| values(request, "content-length"))
        .collect();
    assert_eq!(lengths, [vec!["2"], vec!["0"], vec!["0"], vec![]]);
}

#[tokio::test]
async fn no_path_below_a_stored_response_leads_elsewhere() {
    let (server, front) = front("").await;
    let created = client()
        .post(format!("{}/v1/responses", front.url()))
        .body("{}");
    assert_eq!(send(created).await.status(), 200);
    server.take();
    for below in [
        "resp_1/../../../load_lora_adapter",
        "resp_1/./cancel",
        "resp_1//cancel",
        "resp_1/",
        "resp_1/%2e%2e/%2e%2e/%2e%2e/load_lora_adapter",
        "resp_1/..%2f..%2f..%2fcollective_rpc",
        "resp_1/..%5c..%5cx",
        "resp_1/..\\..\\x",
        "resp_1/..;/x",
        "resp_1%2fcancel",
        "v1/responses/resp_1/..",
    ] {
        for method in ["POST", "DELETE", "GET"] {
            let request = format!(
                "{method} /v1/responses/{below} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = front.send_raw(request.as_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 4") && server.take().is_empty(),
                "{method} {below}: {answer}"
            );
        }
    }
    for below in ["resp_1", "resp_1/input_items"] {
        let request = client().get(format!("{}/v1/responses/{below}", front.url()));
        assert_eq!(send(request).await.status(), 200, "{below}");
    }
}

#[tokio::test]
async fn models_answer_to_head_as_to_get() {
    let (_server, front) = front("").await;
    let models = format!("{}/v1/models", front.url());
    let get = send(client().get(&models)).await;
    let head = send(client().head(&models)).await;
    assert_eq!((get.status().as_u16(), head.status().as_u16()), (200, 200));
    let length = head.headers()["content-length"].to_str().expect("digits");
    let body = get.text().await.expect("a body");
    assert_eq!(length, body.len().to_string());
    assert_eq!(head.text().await.expect("no body"), "");
    let unknown = send(client().head(format!("{models}/unknown"))).await;
    assert_eq!(unknown.status(), 404);
}
