//! The rooms of the data plane: their order, and those that know no HTTP server.

use hermes_tree::{
    arrows::arrows,
    assert_none,
    files::{self, lines},
    modules::targets,
    source,
};

const ROOT: &str = "data-plane/src/lib.rs";

/// What leads from a request to its placement. Any door may call it, so it names no type of a
/// server or of a connection.
const PLACING: [&str; 4] = ["place", "choose", "view", "request"];

/// The rooms that the crate's documentation lists, from the top.
fn rooms() -> Vec<String> {
    let text = files::read(ROOT).replace("//!", " ");
    let (_, list) = text.split_once("from the top:").expect("a list of rooms");
    let (list, _) = list.split_once('.').expect("the list ends");
    list.split(',').map(|room| room.trim().to_owned()).collect()
}

/// What the data plane imports from a room that is listed before the room of the import.
fn upward(rooms: &[String]) -> Vec<String> {
    let place = |module: &[String]| rooms.iter().position(|room| Some(room) == module.first());
    let targets = targets(&files::ending_in(".rs"));
    let target = targets.iter().find(|target| target.root == ROOT);
    let mut found = Vec::new();
    for ((from, to), names) in arrows(target.expect("the data plane")) {
        if let (Some(below), Some(above)) = (place(&from), place(&to))
            && above < below
        {
            let (from, to) = (from.join("::"), to.join("::"));
            found.push(format!("{from} -> {to} ({names:?})"));
        }
    }
    found
}

#[test]
fn no_file_of_the_data_plane_imports_from_a_room_above() {
    assert_none(
        &upward(&rooms()),
        "move what it uses to a lower room, or correct the order of rooms in the crate's documentation",
    );
}

#[test]
fn placing_a_request_names_no_http_server() {
    let mut rust = files::ending_in(".rs");
    rust.retain(|file| {
        let path = file
            .path
            .strip_prefix("data-plane/src/")
            .unwrap_or_default();
        let room = path.split(['/', '.']).next().unwrap_or_default();
        PLACING.contains(&room)
    });
    for file in &mut rust {
        file.text = source::production(&file.text);
    }
    let servers = lines(&rust, |_, line| {
        let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        words
            .into_iter()
            .any(|word| word == "hyper" || word == "hyper_util")
    });
    assert_none(
        &servers,
        "take an `http` type, or a body by `http_body::Body`: another door has another server",
    );
}

#[test]
fn the_check_itself_finds_the_rooms() {
    let mut rooms = rooms();
    let ends = (rooms[0].as_str(), rooms[rooms.len() - 1].as_str());
    assert_eq!(ends, ("server", "worker"));
    for room in &rooms {
        let path = format!("data-plane/src/{room}.rs");
        assert!(!files::read(&path).is_empty(), "{path}");
    }
    assert!(
        PLACING
            .iter()
            .all(|room| rooms.iter().any(|known| known == room))
    );
    rooms.reverse();
    assert!(!upward(&rooms).is_empty(), "the order matters");
}
