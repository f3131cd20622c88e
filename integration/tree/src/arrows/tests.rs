use super::*;
use crate::{files::File, modules::targets};

fn target(files: &[(&str, &str)]) -> Target {
    let files: Vec<File> = files
        .iter()
        .map(|(path, text)| File {
            path: format!("x/src/{path}"),
            text: (*text).to_owned(),
        })
        .collect();
    targets(&files).pop().expect("there is a lib.rs")
}

fn drawn(target: &Target) -> Vec<String> {
    let arrows = arrows(target);
    arrows.iter().map(|arrow| line(target, arrow)).collect()
}

#[test]
fn a_circle_through_a_re_export_and_a_path_is_found() {
    let target = target(&[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "mod c; pub use c::Deep; use crate::b; fn f() { b::run() }",
        ),
        ("a/c.rs", "pub struct Deep;"),
        (
            "b.rs",
            "use super::a::Deep; pub fn run(_: Deep) {} fn g() { crate::a::f() }",
        ),
    ]);
    let expected = [
        "x/src/a.rs -> x/src/b.rs (run)",
        "x/src/b.rs -> x/src/a.rs (f)",
        "x/src/b.rs -> x/src/a/c.rs (Deep)",
    ];
    assert_eq!(drawn(&target), expected);
    let circles = circles_of_siblings(&target, &arrows(&target));
    assert_eq!(circles.len(), 1);
    assert!(
        circles[0].starts_with("a, b below crate of x/src/lib.rs:"),
        "{circles:?}"
    );
}

#[test]
fn modules_form_a_circle_though_their_files_do_not() {
    let target = target(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod low; mod high;"),
        ("a/low.rs", "pub struct Low;"),
        ("a/high.rs", "use crate::b::Middle;"),
        ("b.rs", "use crate::a::low::Low; pub struct Middle(Low);"),
    ]);
    let arrows = arrows(&target);
    let circles = circles_of_siblings(&target, &arrows);
    assert_eq!(circles.len(), 1);
    assert_eq!(circles[0].lines().count(), 3, "{circles:?}");
}

#[test]
fn a_parent_and_its_child_are_one_module_and_unit_tests_do_not_count() {
    let target = target(&[
        ("lib.rs", "mod queue;"),
        (
            "queue.rs",
            "mod order; mod share; pub struct Queue; fn f(_: order::Order) {}",
        ),
        ("queue/order.rs", "use super::Queue; pub struct Order;"),
        (
            "queue/share.rs",
            "use super::order::Order; pub struct Share;\n#[cfg(test)]\nmod tests { use super::Queue; }",
        ),
        ("queue/order2.rs", "use super::share::Share;"),
    ]);
    let expected = [
        "x/src/queue.rs -> x/src/queue/order.rs (Order)",
        "x/src/queue/order.rs -> x/src/queue.rs (Queue)",
        "x/src/queue/share.rs -> x/src/queue/order.rs (Order)",
    ];
    assert_eq!(drawn(&target), expected);
    assert!(circles_of_siblings(&target, &arrows(&target)).is_empty());
}
