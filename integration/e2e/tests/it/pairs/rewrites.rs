//! Split requests whose model is rewritten.

use super::*;

#[tokio::test]
async fn both_legs_are_for_the_target_and_the_answer_names_what_the_client_asked_for() {
    for scene in [PairedScene::nixl(1, 1), PairedScene::sglang(1, 1)] {
        let scene = scene.pool("rewrites: [{model: chat, targets: [{model: sim}]}]");
        let fleet = scene.keys("minUncachedTokens: 0").start().await;
        for stream in [false, true] {
            let mut body = long_chat("one", stream);
            body["model"] = "chat".into();
            let response = send(ask(&fleet.url(), &body)).await;
            assert_eq!(response.status(), 200);
            let text = response.text().await.expect("a whole answer");
            assert!(text.contains("\"model\":\"chat\""), "{text}");
            assert!(!text.contains("\"model\":\"sim\""), "{text}");
        }
        for engine in [&fleet.prefills[0], &fleet.decodes[0]] {
            let legs = sent(engine);
            assert_eq!(legs.len(), 2);
            assert!(legs.iter().all(|leg| leg.json()["model"] == "sim"));
        }
        fleet.is_clean().await;
    }
}
