//! What a section makes of the forms in which helm and people write values.

use serde_json::json;

use super::*;

fn read(value: &Value) -> (Option<(u64, u32, Duration)>, Diagnostics) {
    let diagnostics = Diagnostics::default();
    let read = Section::read(&Node::new(value, "limits", &diagnostics), |section| {
        let seconds = Duration::from_secs;
        (
            section.size("maxBodyBytes", 1..=1 << 30, "").or(1),
            section.count("maxConcurrent", 1..=10_000, "").or(2),
            section
                .duration("clientTimeout", seconds(1)..=seconds(60), "")
                .or(seconds(3)),
        )
    });
    (read, diagnostics)
}

#[test]
fn numbers_are_read_as_helm_renders_them() {
    let value = json!({"maxBodyBytes": 6.710_886_4e7, "maxConcurrent": 2e3, "clientTimeout": "15"});
    let (limits, _) = read(&value);
    assert_eq!(limits, Some((64 << 20, 2_000, Duration::from_secs(15))));
}

#[test]
fn null_is_the_same_as_absent() {
    let (limits, diagnostics) = read(&json!({"maxConcurrent": null}));
    assert_eq!(limits, Some((1, 2, Duration::from_secs(3))));
    assert!(diagnostics.into_errors().is_empty());
}

#[test]
fn a_key_in_another_style_of_spelling_is_suggested() {
    let (_, diagnostics) = read(&json!({"max_concurrent": 1, "ClientTimeout": 1, "replicas": 1}));
    let errors = diagnostics.into_errors().to_string();
    assert!(errors.contains("did you mean `maxConcurrent`?"), "{errors}");
    assert!(errors.contains("did you mean `clientTimeout`?"), "{errors}");
    assert!(
        errors.contains("the keys here are maxBodyBytes"),
        "{errors}"
    );
}

#[test]
fn an_absent_section_describes_its_keys_with_their_defaults() {
    let (_, keys) = Section::describe(|section| section.size("cacheSize", 1..=9, "").or(8_u64));
    let [key] = &keys[..] else { panic!("one key") };
    assert_eq!(key.default, DefaultValue::Value("8".to_owned()));
}
