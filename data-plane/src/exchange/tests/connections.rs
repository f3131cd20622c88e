//! Requests on connections that were kept, and that their engines close.

use super::*;

#[tokio::test]
async fn a_request_that_is_never_answered_is_repeated_once_however_many_connections_are_idle() {
    let engine = Engine::start(true).await;
    let exchange = Exchange::with(&[engine.address]);
    exchange.warm_up(8).await;
    engine.connection.killed.cancel();
    let answer = exchange.answer(&exchange.selection()).await;
    assert_eq!(answer.err(), Some(LocalReply::Exhausted(1)));
    assert_eq!(engine.seen(), 2);
}

#[tokio::test]
async fn a_request_on_a_connection_that_the_engine_was_just_closing_is_repeated() {
    let (listener, address) = listen().await;
    let exchange = Exchange::with(&[address]);
    tokio::spawn(async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let (mut first, _) = listener.accept().await.expect("a connection");
        assert!(read_request(&mut first).await);
        first.write_all(answer).await.expect("open");
        assert!(read_request(&mut first).await);
        drop(first);
        let (mut second, _) = listener.accept().await.expect("a connection");
        assert!(read_request(&mut second).await);
        second.write_all(answer).await.expect("open");
        second.read_u8().await.expect_err("no other request");
    });
    exchange.warm_up(1).await;
    let body = exchange
        .answer(&exchange.selection())
        .await
        .expect("an answer");
    assert_eq!(body.collect().await.expect("whole").to_bytes(), "ok");
}

#[tokio::test]
async fn an_engine_that_dies_while_it_accepts_connections_costs_one_suspicion() {
    let (dying, other) = (Engine::start(true).await, Engine::start(true).await);
    let exchange = Exchange::with(&[dying.address, other.address]);
    exchange.warm_up(1).await;
    dying.connection.killed.cancel();
    let body = exchange
        .answer(&exchange.selection())
        .await
        .expect("an answer of the other engine");
    assert_eq!(body.collect().await.expect("whole").to_bytes(), "ok");
    assert_eq!(dying.seen(), 2, "on a reused and on a new connection");
}
