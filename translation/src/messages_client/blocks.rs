//! Blocks of content: texts, images and documents, and what a tool returned.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    chat_body::{ChatPart, FileData, ImageAddress},
    terms::ChatDialect,
};
use crate::{
    json_string::{JsonString, joined},
    object_members::{ObjectMembers, items},
    place::FieldPlace,
    untranslatable_request::UntranslatableRequest,
};

/// The texts of instructions as one, with an empty line between two. `None` if there is none.
pub(super) fn instructions<'a>(
    content: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<Option<Cow<'a, RawValue>>, UntranslatableRequest> {
    let mut texts = Vec::new();
    if let Some(text) = JsonString::of(content) {
        texts.push(text);
    } else {
        for (index, raw) in items(content, place)?.into_iter().enumerate() {
            let place = FieldPlace::Item(place, index);
            let mut block = ObjectMembers::of(raw, &place)?;
            if block.required_text("type")? != "text" {
                return Err(block.refusal("type", "must be text here"));
            }
            texts.push(text(&mut block)?);
            block.finish()?;
        }
    }
    texts.retain(|text| !text.is_empty() && !is_billing(*text));
    Ok(together(&texts, r"\n\n"))
}

/// Whether it is the line in which Claude Code reports who pays. It changes with every request, so
/// that no engine could use the cache of an earlier one; the API does not give it to the model.
fn is_billing(text: JsonString<'_>) -> bool {
    text.escaped().starts_with("x-anthropic-billing-header")
}

/// The texts in one, with a separator that is escaped already.
pub(super) fn together<'a>(
    texts: &[JsonString<'a>],
    separator: &'static str,
) -> Option<Cow<'a, RawValue>> {
    match texts {
        [] => None,
        [text] => Some(Cow::Borrowed(text.raw())),
        texts => {
            let pieces = texts.iter().flat_map(|text| [separator, text.escaped()]);
            Some(Cow::Owned(joined(pieces.skip(1))))
        }
    }
}

/// The text of a block of the type `text`.
pub(super) fn text<'a>(
    block: &mut ObjectMembers<'a, '_>,
) -> Result<JsonString<'a>, UntranslatableRequest> {
    // Engines cache every prefix.
    block.leave_out("cache_control");
    let is_empty = |raw: &RawValue| raw.get() == "[]";
    block.only("citations", is_empty, "must be left out")?;
    block.required_string("text")
}

/// An image or a document of a block of that type.
pub(super) fn media<'a>(
    kind: &str,
    block: &mut ObjectMembers<'a, '_>,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<ChatPart<'a>, UntranslatableRequest> {
    block.leave_out("cache_control");
    let raw = block.required("source")?;
    let place = FieldPlace::Member(place, "source");
    let mut source = ObjectMembers::of(raw, &place)?;
    let part = if kind == "image" {
        let url = image_source(&mut source)?;
        ChatPart::ImageUrl {
            image_url: ImageAddress { url },
        }
    } else {
        document(block, &mut source, dialect)?
    };
    source.finish()?;
    Ok(part)
}

fn image_source<'a>(
    source: &mut ObjectMembers<'a, '_>,
) -> Result<Cow<'a, RawValue>, UntranslatableRequest> {
    match &*source.required_text("type")? {
        "url" => Ok(Cow::Borrowed(source.required_string("url")?.raw())),
        "base64" => data_uri(source),
        _ => Err(source.refusal("type", "must be base64 or url")),
    }
}

fn data_uri<'a>(
    source: &mut ObjectMembers<'a, '_>,
) -> Result<Cow<'a, RawValue>, UntranslatableRequest> {
    let media_type = source.required_string("media_type")?;
    let data = source.required_string("data")?;
    let pieces = ["data:", media_type.escaped(), ";base64,", data.escaped()];
    Ok(Cow::Owned(joined(pieces.into_iter())))
}

fn document<'a>(
    block: &mut ObjectMembers<'a, '_>,
    source: &mut ObjectMembers<'a, '_>,
    dialect: ChatDialect,
) -> Result<ChatPart<'a>, UntranslatableRequest> {
    let is_off = |raw: &RawValue| raw.get().replace(' ', "") == r#"{"enabled":false}"#;
    block.only("citations", is_off, "must be left out")?;
    let kind = source.required_text("type")?;
    match (&*kind, dialect) {
        ("text", _) => {
            source.leave_out("media_type");
            let text = source.required_string("data")?;
            Ok(ChatPart::Text {
                text: Cow::Borrowed(text.raw()),
            })
        }
        ("base64", ChatDialect::OpenAi) => Ok(ChatPart::File {
            file: FileData {
                filename: block.string("title")?,
                file_data: data_uri(source)?,
            },
        }),
        (_, ChatDialect::OpenAi) => Err(source.refusal("type", "must be base64 or text")),
        (_, ChatDialect::Engine) => {
            let reason = "must be text: the model's server reads no files";
            Err(source.refusal("type", reason))
        }
    }
}

/// What a tool returned: its text, and its images, which a tool's message cannot have.
#[derive(Debug)]
pub(super) struct ToolReturn<'a> {
    pub(super) text: Cow<'a, RawValue>,
    pub(super) media: Vec<ChatPart<'a>>,
}

/// Reads the content of a result.
pub(super) fn tool_return<'a>(
    content: Option<&'a RawValue>,
    is_error: bool,
    place: &FieldPlace<'_>,
    dialect: ChatDialect,
) -> Result<ToolReturn<'a>, UntranslatableRequest> {
    let mut texts = Vec::new();
    let mut parts = Vec::new();
    match content.map(|content| (content, JsonString::of(content))) {
        None => {}
        Some((_, Some(text))) => texts.push(text),
        Some((content, None)) => {
            for (index, raw) in items(content, place)?.into_iter().enumerate() {
                let place = FieldPlace::Item(place, index);
                let mut block = ObjectMembers::of(raw, &place)?;
                let kind = block.required_text("type")?;
                match &*kind {
                    "text" => texts.push(text(&mut block)?),
                    "image" | "document" => {
                        parts.push(media(&kind, &mut block, &place, dialect)?);
                    }
                    _ => return Err(block.refusal("type", "must be text, image or document")),
                }
                block.finish()?;
            }
        }
    }
    // The message of a tool cannot say that it failed, so its text does.
    let marker = if is_error { "Error: " } else { "" };
    let body = together(&texts, r"\n");
    let text = match body {
        Some(text) if !is_error => text,
        text => {
            let text = text.as_deref().and_then(JsonString::of);
            let text = text.map_or("", JsonString::escaped);
            Cow::Owned(joined([marker, text].into_iter()))
        }
    };
    Ok(ToolReturn { text, media: parts })
}
