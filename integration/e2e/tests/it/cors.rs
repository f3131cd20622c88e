//! Cross-origin requests of web pages: admitted if the operator names the page's origin.

use reqwest::{Method, RequestBuilder, Response};

use crate::{
    client::{client, send},
    recorder::{Front, Recorder},
};

const PAGE: &str = "https://chat.example.com";

/// An engine that permits any page by itself, as vLLM does.
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n\r\n{}";

async fn front(top: &str) -> (Recorder, Front) {
    let server = Recorder::start(ANSWER).await;
    let front = Front::start(&format!("{top}{}", server.pool())).await;
    (server, front)
}

fn from_page(front: &Front, method: Method, path: &str) -> RequestBuilder {
    client()
        .request(method, format!("{}{path}", front.url()))
        .header("origin", PAGE)
}

fn allowed(response: &Response) -> Option<&str> {
    let value = response.headers().get("access-control-allow-origin")?;
    value.to_str().ok()
}

#[tokio::test]
async fn a_preflight_of_an_admitted_origin_is_answered() {
    let (server, front) = front(&format!("corsOrigins: ['{PAGE}']\n")).await;
    for path in [
        "/v1/chat/completions",
        "/v1/models",
        "/v1/messages",
        "/v1/responses/resp_1",
    ] {
        let preflight = from_page(&front, Method::OPTIONS, path)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type,x-stainless-os",
            );
        let answer = send(preflight).await;
        assert_eq!(
            (answer.status().as_u16(), allowed(&answer)),
            (204, Some(PAGE)),
            "{path}"
        );
        let headers = answer.headers();
        assert_eq!(
            headers["access-control-allow-headers"],
            "authorization,content-type,x-stainless-os"
        );
        let methods = headers["access-control-allow-methods"]
            .to_str()
            .expect("text");
        assert!(methods.contains("POST") && methods.contains("DELETE"));
    }
    assert!(server.take().is_empty());
}

#[tokio::test]
async fn every_answer_to_an_admitted_origin_names_it() {
    let (_server, front) = front(&format!("corsOrigins: ['{PAGE}']\n")).await;
    let chat = from_page(&front, Method::POST, "/v1/chat/completions").body("{}");
    let invalid = from_page(&front, Method::POST, "/v1/chat/completions").body("[");
    let unknown = from_page(&front, Method::POST, "/nowhere");
    let models = from_page(&front, Method::GET, "/v1/models");
    let options = from_page(&front, Method::OPTIONS, "/v1/models");
    for (request, status) in [
        (chat, 200),
        (invalid, 400),
        (unknown, 404),
        (models, 200),
        (options, 405),
    ] {
        let answer = send(request).await;
        assert_eq!(
            (answer.status().as_u16(), allowed(&answer)),
            (status, Some(PAGE))
        );
        let vary = answer.headers().get_all("vary");
        assert!(vary.iter().any(|value| value == "origin"));
        let exposed = answer.headers()["access-control-expose-headers"]
            .to_str()
            .expect("text");
        assert!(exposed.contains("x-request-id"));
    }
}

#[tokio::test]
async fn another_origin_and_no_origin_get_no_permission() {
    let (_server, front) = front("corsOrigins: ['https://other.example.com']\n").await;
    let preflight = from_page(&front, Method::OPTIONS, "/v1/chat/completions")
        .header("access-control-request-method", "POST");
    let answer = send(preflight).await;
    assert_eq!((answer.status().as_u16(), allowed(&answer)), (405, None));
    let models = from_page(&front, Method::GET, "/v1/models");
    assert_eq!(allowed(&send(models).await), None);
    let plain = client().get(format!("{}/v1/models", front.url()));
    assert_eq!(allowed(&send(plain).await), None);
}

#[tokio::test]
async fn without_a_configuration_engines_decide() {
    let (_server, front) = front("").await;
    let chat = from_page(&front, Method::POST, "/v1/chat/completions").body("{}");
    assert_eq!(allowed(&send(chat).await), Some("*"));
}
