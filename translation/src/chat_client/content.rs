//! The content of chat messages: a text, or parts of several kinds.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::messages_body::{MediaSource, MessageBlock};
use crate::{
    json_string::JsonString,
    object_members::{ObjectMembers, items},
    place::FieldPlace,
    untranslatable_request::UntranslatableRequest,
};

/// Which kinds of parts a role may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentParts {
    /// Instructions.
    Text,
    /// What the model said: texts and refusals.
    Assistant,
    /// What a user or a tool says: texts, images and files.
    Media,
}

/// The blocks of a content. Empty texts, which the API refuses, are left out.
pub(super) fn blocks<'a>(
    content: Option<&'a RawValue>,
    parts: ContentParts,
    place: &FieldPlace<'_>,
) -> Result<Vec<MessageBlock<'a>>, UntranslatableRequest> {
    let Some(content) = content else {
        return Ok(Vec::new());
    };
    let mut blocks = Vec::new();
    if let Some(text) = JsonString::of(content) {
        push_text(&mut blocks, text, None);
        return Ok(blocks);
    }
    for (index, raw) in items(content, place)?.into_iter().enumerate() {
        read_part(raw, parts, &FieldPlace::Item(place, index), &mut blocks)?;
    }
    Ok(blocks)
}

fn push_text<'a>(
    blocks: &mut Vec<MessageBlock<'a>>,
    text: JsonString<'a>,
    cache_control: Option<&'a RawValue>,
) {
    if !text.is_empty() {
        blocks.push(MessageBlock::Text {
            text,
            cache_control,
        });
    }
}

fn read_part<'a>(
    raw: &'a RawValue,
    parts: ContentParts,
    place: &FieldPlace<'_>,
    blocks: &mut Vec<MessageBlock<'a>>,
) -> Result<(), UntranslatableRequest> {
    let mut fields = ObjectMembers::of(raw, place)?;
    let kind = fields.required_text("type")?;
    // Clients that know of the server mark what it should cache, in its own way.
    let cache_control = fields.take("cache_control");
    fields.leave_out("prompt_cache_breakpoint");
    match (&*kind, parts) {
        ("text", _) => push_text(blocks, fields.required_string("text")?, cache_control),
        ("refusal", ContentParts::Assistant) => {
            push_text(blocks, fields.required_string("refusal")?, cache_control);
        }
        ("image_url", ContentParts::Media) => {
            let value = fields.required("image_url")?;
            let source = image(value, &FieldPlace::Member(place, "image_url"))?;
            blocks.push(MessageBlock::Image {
                source,
                cache_control,
            });
        }
        ("file", ContentParts::Media) => {
            let value = fields.required("file")?;
            let (source, title) = document(value, &FieldPlace::Member(place, "file"))?;
            blocks.push(MessageBlock::Document {
                source,
                title,
                cache_control,
            });
        }
        _ => return Err(fields.refusal("type", allowed(parts))),
    }
    fields.finish()
}

const fn allowed(parts: ContentParts) -> &'static str {
    match parts {
        ContentParts::Text => "must be text here",
        ContentParts::Assistant => "must be text or refusal here",
        ContentParts::Media => {
            "must be text, image_url or file: the model's server reads no other kind"
        }
    }
}

fn image<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<MediaSource<'a>, UntranslatableRequest> {
    if let Some(url) = JsonString::of(raw) {
        return image_at(url, place);
    }
    let mut fields = ObjectMembers::of(raw, place)?;
    // The server always reads images in detail.
    let is_full = |raw| JsonString::of(raw).is_some_and(|text| text.is("auto") || text.is("high"));
    fields.only("detail", is_full, "must be auto or high, or left out")?;
    let url = fields.required_string("url")?;
    let source = image_at(url, &fields.at("url"))?;
    fields.finish()?;
    Ok(source)
}

fn image_at<'a>(
    url: JsonString<'a>,
    place: &FieldPlace<'_>,
) -> Result<MediaSource<'a>, UntranslatableRequest> {
    let source = match url.text() {
        Some(text) => data_uri(text, place)?,
        None => None,
    };
    Ok(source.unwrap_or(MediaSource::Url { url }))
}

/// The parts of `data:MEDIA_TYPE;base64,DATA`; `None` if it is no data URI.
fn data_uri<'a>(
    uri: Cow<'a, str>,
    place: &FieldPlace<'_>,
) -> Result<Option<MediaSource<'a>>, UntranslatableRequest> {
    let is_data = uri
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    if !is_data {
        return Ok(None);
    }
    let Some((kind, data)) = uri[5..].split_once(',') else {
        return Err(UntranslatableRequest::new(
            *place,
            "must be data:TYPE;base64,DATA",
        ));
    };
    let Some(media_type) = kind.strip_suffix(";base64") else {
        return Err(UntranslatableRequest::new(
            *place,
            "must have its data in base64",
        ));
    };
    // Parameters, such as a file's name, are not part of the type that the API takes.
    let media_type = media_type.split(';').next().unwrap_or_default().len();
    let data_at = uri.len() - data.len();
    Ok(Some(match uri {
        Cow::Borrowed(uri) => MediaSource::Base64 {
            media_type: Cow::Borrowed(&uri[5..5 + media_type]),
            data: Cow::Borrowed(&uri[data_at..]),
        },
        Cow::Owned(mut uri) => {
            let data = uri.split_off(data_at);
            MediaSource::Base64 {
                media_type: Cow::Owned(uri[5..5 + media_type].to_owned()),
                data: Cow::Owned(data),
            }
        }
    }))
}

fn document<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<(MediaSource<'a>, Option<JsonString<'a>>), UntranslatableRequest> {
    let mut fields = ObjectMembers::of(raw, place)?;
    let title = fields.string("filename")?;
    let data = fields.required_text("file_data")?;
    let source = data_uri(data, &fields.at("file_data"))?;
    let reason = "must be data:application/pdf;base64,DATA";
    let Some(MediaSource::Base64 { media_type, .. }) = &source else {
        return Err(fields.refusal("file_data", reason));
    };
    if media_type != "application/pdf" {
        return Err(fields.refusal("file_data", reason));
    }
    fields.finish()?;
    source
        .map(|source| (source, title))
        .ok_or_else(|| UntranslatableRequest::new(*place, reason))
}
